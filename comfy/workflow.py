"""From a preset and the parameters of a job to the graph that ComfyUI runs. Pure functions, no network."""

import copy
from collections.abc import Mapping
from math import prod
from typing import Any

from comfy.presets import Graph, Kind, Preset, sampler_steps

FEWEST_FRAMES = 5  # that WAN makes, beside a single one
ESCAPED = ("prompt", "negative_prompt")  # brackets are weights there


def build(preset: Preset, kind: str, values: Mapping[str, Any]) -> Graph:
    """The graph for one render.

    ``values`` are by the names of the bindings: ``prompt``; ``seed``; ``prefix``, where the video goes below
    ComfyUI's output folder, which must be unique to the render, since ComfyUI re-uses file names; ``image``
    and ``last_image``, paths below its input folder; and a job's parameters, with ``size`` as 832x480. What
    is not given stays as it stands in the graph, but an image that is not given is taken out.
    """
    described = preset.kinds[kind]
    graph = copy.deepcopy(described.graph)
    values = _with_sides(values)
    for name, value in (split(described, values) | values).items():
        for node, into in described.bindings.get(name, ()):
            graph[node]["inputs"][into] = _written(name, value, described)
    for name in ("image", "last_image"):
        if not values.get(name):
            for node in {node for node, _ in described.bindings.get(name, ())}:
                _take_out(graph, node)
    return graph


def _written(name: str, value: Any, kind: Kind) -> Any:
    """A parameter's value as it stands in the graph. After an interpolator there are more frames a second."""
    if name == "fps":
        return value * kind.rate
    return escape(value) if name in ESCAPED else value


def _with_sides(values: Mapping[str, Any]) -> dict[str, Any]:
    """``size`` as ``width`` and ``height``."""
    if "size" not in values:
        return dict(values)
    width, height = map(int, values["size"].split("x"))
    return {**values, "width": width, "height": height}


def _take_out(graph: Graph, node_id: str) -> None:
    """A node, and the links to it."""
    del graph[node_id]
    for node in graph.values():
        linked = [k for k, v in node["inputs"].items() if isinstance(v, list) and v[:1] == [node_id]]
        for name in linked:
            del node["inputs"][name]


def split(kind: Kind, values: Mapping[str, Any]) -> dict[str, int]:
    """How many of the steps the first expert does, where steps or shift are not those of the preset.

    Of N steps with the scheduler ``simple`` and shift s, step i begins at the noise level s*t / (1 + (s-1)*t)
    with t = 1 - i/N. The first expert has the levels from the boundary upwards, and each has one step at
    least.
    """
    if kind.boundary is None:
        return {}
    steps, shift = (values.get(name, kind.default(name)) for name in ("steps", "flow_shift"))
    if (steps, shift) == (kind.default("steps"), kind.default("flow_shift")):
        return {}
    times = [1 - step / steps for step in range(steps)]
    high = sum(shift * t / (1 + (shift - 1) * t) >= kind.boundary for t in times)
    return {"split": min(max(high, 1), steps - 1)}


def warm_up(preset: Preset, kind: str, *, seed: int, prefix: str, image: str) -> Graph:
    """The same graph with as little to do as the preset's ``warm_up`` says: it loads all that a job needs.

    The seed must be new each time: ComfyUI would run no node again whose inputs it has seen, and load
    nothing.
    """
    values = {
        "prompt": f"warm-up {seed}",
        "seed": seed,
        "prefix": prefix,
        "image": image,
        "last_image": image,
    }
    return build(preset, kind, {"num_frames": FEWEST_FRAMES} | preset.warm_up | values)


def escape(prompt: str) -> str:
    """Escapes brackets, which set weights in ComfyUI's prompt syntax; a client means them as text."""
    return prompt.replace("(", r"\(").replace(")", r"\)")


def steps(preset: Preset, graph: Graph) -> list[tuple[str, int]]:
    """Each sampler of this graph with the number of its steps."""
    return sampler_steps(preset.samplers, graph)


def patience(preset: Preset, kind: str, parameters: Mapping[str, Any]) -> tuple[float, float]:
    """How many times as long as the preset's default request this one may take: in all, and for one step; at
    least 1.

    A step does work in proportion to pixels x frames, and its attention to the square of that. Of a model of
    14B at 832x480 and 81 frames each is about a half, so that 1280x720 takes 3.8 times as long: the power of
    1.6 of the ratio.
    """
    graphs = [build(preset, kind, values) for values in (parameters, {})]
    work, usual = (_pixels(preset.kinds[kind], graph) for graph in graphs)
    many, usually = (sum(count for _, count in steps(preset, graph)) for graph in graphs)
    step = max(work / usual, 1) ** 1.6
    return step * max(many / usually, 1), step


def _pixels(kind: Kind, graph: Graph) -> int:
    """Of all its frames."""
    places = [kind.bindings[name][0] for name in ("width", "height", "num_frames")]
    return prod(graph[node]["inputs"][name] for node, name in places)


def progress(steps: list[tuple[str, int]], nodes: Mapping[str, Mapping[str, Any]]) -> int:
    """Percent of all sampling steps done, 0 to 99, from the ``nodes`` of a ``progress_state`` message, each
    with its ``value`` and ``max`` in steps. ``steps`` is as above.

    Decoding and saving come after the last step and send no progress, hence 99: 100 is a finished video.
    """
    done = 0.0
    for name, count in steps:
        state = nodes.get(name)
        if state and state["max"]:
            done += count * min(state["value"] / state["max"], 1)
    return min(int(100 * done / sum(count for _, count in steps)), 99)
