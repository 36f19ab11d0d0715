"""From a preset and the parameters of a job to the graph that ComfyUI runs. Pure functions, no network."""

import copy
from collections.abc import Mapping
from typing import Any

from comfy.presets import Graph, Preset


def build(preset: Preset, *, kind: str, prompt: str, seed: int, prefix: str, image: str = "") -> Graph:
    """The graph for one render.

    ``prefix`` is where SaveVideo writes, below ComfyUI's output folder; it must be unique to the render,
    since ComfyUI re-uses file names. ``image`` is the start image's path below ComfyUI's input folder.
    """
    graph = copy.deepcopy(preset.graphs[kind])
    graph["prompt"]["inputs"]["text"] = escape(prompt)
    graph["high_noise_sampler"]["inputs"]["noise_seed"] = seed
    graph["save"]["inputs"]["filename_prefix"] = prefix
    if kind == "image-to-video":
        graph["image"]["inputs"]["image"] = image
    return graph


def warm_up(preset: Preset, *, kind: str, seed: int, prefix: str, image: str) -> Graph:
    """The same graph with one step of each expert and five frames: it loads all that a job needs. The seed
    must be new each time: ComfyUI does not run a node again with the same inputs, and would load nothing."""
    graph = build(preset, kind=kind, prompt=f"warm-up {seed}", seed=seed, prefix=prefix, image=image)
    for step, name in enumerate(preset.samplers):
        graph[name]["inputs"] |= {"steps": 2, "start_at_step": step, "end_at_step": step + 1}
    for node in graph.values():
        if node["inputs"].get("length"):
            node["inputs"]["length"] = 5
    return graph


def escape(prompt: str) -> str:
    """Escapes brackets, which set weights in ComfyUI's prompt syntax; a client means them as text."""
    return prompt.replace("(", r"\(").replace(")", r"\)")


def progress(preset: Preset, kind: str, nodes: Mapping[str, Mapping[str, Any]]) -> int:
    """Percent of all sampling steps done, 0 to 99, from the ``nodes`` of a ``progress_state`` message.

    Decoding and saving come after the last step and send no progress, hence 99: 100 is a finished video.
    """
    done = total = 0.0
    for name in preset.samplers:
        inputs = preset.graphs[kind][name]["inputs"]
        steps = min(inputs["end_at_step"], inputs["steps"]) - inputs["start_at_step"]
        total += steps
        state = nodes.get(name)
        if state and state["max"]:
            done += steps * min(state["value"] / state["max"], 1)
    return min(int(100 * done / total), 99)
