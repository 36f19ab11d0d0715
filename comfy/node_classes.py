"""Compares a graph with what a ComfyUI tells of its classes of nodes. Pure functions, no network.

ComfyUI looks itself at each graph that it gets. But it names one mistake only, ignores an input that it does
not know, and runs every output node, also one whose files we would never remove.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from comfy.presets import Graph, model_files

Classes = Mapping[str, Mapping[str, Any] | None]  # None: ComfyUI does not know it
Place = tuple[str, str]


def problems(graph: Graph, classes: Classes, *, save: str, bound: Collection[Place]) -> Iterator[str]:
    """What keeps the graph from being rendered, each as a sentence without its full stop.

    ``save`` is the node that saves the video, and ``bound`` are the inputs that parameters go to. Model files
    are looked for by the driver, and an uploaded image is not there yet.
    """
    for node_id, node in graph.items():
        described, where = classes[node["class_type"]], f"node {node_id!r} ({node['class_type']})"
        if described is None:
            yield f"{where} is of a class that ComfyUI does not know: it lacks a pack of nodes, or an update"
            continue
        if bool(described.get("output_node")) != (node_id == save):
            yield f"{where} saves nothing" if node_id == save else f"{where} is an output beside {save!r}"
        known = inputs(described)
        for name in _missing(node, described):
            yield f"{where} needs an input {name!r}"
        files = {name for name, _, _ in model_files(node)}
        for name, value in node["inputs"].items():
            is_bound = (node_id, name) in bound
            if name not in known and is_bound:
                yield f"{where} does not know the input {name!r}, so the parameter would do nothing"
            if name not in known or name in files or isinstance(value, list):
                continue
            if not is_bound or not _limits(known[name]).get("image_upload"):
                yield from _of_value(f"input {name!r} of {where}", value, known[name])


def inputs(described: Mapping[str, Any]) -> dict[str, Any]:
    """Each input of a class with its description."""
    groups = described.get("input") or {}
    return {**(groups.get("required") or {}), **(groups.get("optional") or {})}


def unknown(graph: Graph, classes: Classes) -> Iterator[str]:
    """Inputs that ComfyUI would ignore. A node may have more than its class tells (``format.codec`` belongs
    to ``format``), and some take any, so these are no mistakes."""
    for node_id, node in graph.items():
        described = classes[node["class_type"]]
        for name in node["inputs"] if described else ():
            is_told_anew = any(other.endswith(f".{name}") for other in node["inputs"])
            if name.partition(".")[0] not in inputs(described or {}) and not is_told_anew:
                yield f"node {node_id!r} ({node['class_type']}) may ignore its input {name!r}"


def _missing(node: Mapping[str, Any], described: Mapping[str, Any]) -> list[str]:
    """Required inputs that are not there. One that has parts is there with the first of them."""
    there = {part for name in node["inputs"] for part in (name, name.partition(".")[0])}
    return [name for name in (described.get("input") or {}).get("required") or {} if name not in there]


def _limits(spec: Any) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def _of_value(where: str, value: Any, spec: Any) -> Iterator[str]:
    kind, limits = spec[0], _limits(spec)
    choices = kind if isinstance(kind, list) else limits.get("options") if kind == "COMBO" else None
    if choices is not None and value not in choices:
        yield f"{where} is {value!r}, which is none of its choices"
    if kind in ("INT", "FLOAT"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{where} is {value!r}, and it must be a number"
        elif "min" in limits and value < limits["min"]:
            yield f"{where} is {value!r}, and it must be at least {limits['min']}"
        elif "max" in limits and value > limits["max"]:
            yield f"{where} is {value!r}, and it must be at most {limits['max']}"
