"""From a job's parameters to the graph that ComfyUI runs. Pure functions, no network.

The graphs in ``presets/`` are the official ComfyUI templates for WAN 2.2 14B (FP8) in API form, with
node ids that say what they are. A preset is one variant of them:

* ``quality``: 20 steps, shift 8, cfg 3.5, high noise expert for steps 0-10
* ``fast``: 4 steps with the lightx2v LoRAs, shift 5, cfg 1, high noise expert for steps 0-2

All render 832x480, 81 frames at 16 frames per second, as H.264 in MP4. ``SaveVideo`` is told the codec
twice, as ``codec`` and as ``format.codec``: ComfyUI moved it, and ignores the name that it does not know.
"""

import copy
import functools
import json
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, FRAMES, FPS = 832, 480, 81, 16
PRESETS = ("quality", "fast")
KINDS = ("text-to-video", "image-to-video")
PAIRS = tuple(f"{preset}/{kind}" for preset in PRESETS for kind in KINDS)  # what an engine can run, or not
SAMPLERS = ("high_noise_sampler", "low_noise_sampler")

# The input of a loader node that names a model file, and ComfyUI's folder for it.
MODEL_FOLDERS = {
    "unet_name": "diffusion_models",
    "lora_name": "loras",
    "clip_name": "text_encoders",
    "vae_name": "vae",
}

Graph = dict[str, dict[str, Any]]


@functools.cache
def _template(kind: str, preset: str) -> Graph:
    path = Path(__file__).parent / "presets" / preset / f"{kind}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def build(*, kind: str, preset: str, prompt: str, seed: int, prefix: str, image: str = "") -> Graph:
    """The graph for one render.

    ``prefix`` is where SaveVideo writes, below ComfyUI's output folder; it must be unique to the render,
    since ComfyUI re-uses file names. ``image`` is the start image's path below ComfyUI's input folder.
    """
    graph = copy.deepcopy(_template(kind, preset))
    graph["prompt"]["inputs"]["text"] = escape(prompt)
    graph["high_noise_sampler"]["inputs"]["noise_seed"] = seed
    graph["save"]["inputs"]["filename_prefix"] = prefix
    if kind == "image-to-video":
        graph["image"]["inputs"]["image"] = image
    return graph


def warm_up(*, kind: str, preset: str, prefix: str, image: str) -> Graph:
    """The same graph with one step of each expert and five frames: it loads all that a job needs. Text and
    seed are new each time: ComfyUI would run no node again whose inputs it has seen, and load nothing."""
    seed = secrets.randbelow(2**48)
    graph = build(kind=kind, preset=preset, prompt=f"warm-up {seed}", seed=seed, prefix=prefix, image=image)
    for step, name in enumerate(SAMPLERS):
        graph[name]["inputs"] |= {"steps": 2, "start_at_step": step, "end_at_step": step + 1}
    for node in graph.values():
        if node["inputs"].get("length"):
            node["inputs"]["length"] = 5
    return graph


def escape(prompt: str) -> str:
    """Brackets are weights in ComfyUI's prompt syntax; a client means them as text."""
    return prompt.replace("(", r"\(").replace(")", r"\)")


def model_files(preset: str, kinds: Iterable[str] = KINDS) -> list[tuple[str, str]]:
    """Every model file that the preset needs for these kinds, as sorted (folder, file name)."""
    return sorted(
        {
            (MODEL_FOLDERS[name], value)
            for kind in kinds
            for node in _template(kind, preset).values()
            for name, value in node["inputs"].items()
            if name in MODEL_FOLDERS
        }
    )


def node_classes(preset: str, kinds: Iterable[str] = KINDS) -> list[str]:
    """The classes of all nodes of these graphs, sorted."""
    return sorted({node["class_type"] for kind in kinds for node in _template(kind, preset).values()})


def progress(kind: str, preset: str, nodes: Mapping[str, Mapping[str, Any]]) -> int:
    """Percent of all sampling steps done, 0 to 99, from the ``nodes`` of a ``progress_state`` message.

    Decoding and saving come after the last step and send no progress, hence 99: 100 is a finished video.
    """
    done = total = 0.0
    for name in SAMPLERS:
        inputs = _template(kind, preset)[name]["inputs"]
        steps = min(inputs["end_at_step"], inputs["steps"]) - inputs["start_at_step"]
        total += steps
        state = nodes.get(name)
        if state and state["max"]:
            done += steps * min(state["value"] / state["max"], 1)
    return min(int(100 * done / total), 99)
