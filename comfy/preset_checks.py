"""What is wrong with a preset that has the right form, in one sentence with the file and the node.

All of it is looked at before the service starts, so that no job is the first to find a mistake.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comfy.preset import (
    KINDS,
    BadPreset,
    Graph,
    Kind,
    Place,
    Preset,
    is_number,
    links,
    model_files,
    outside,
)

IMAGES = dict(zip(KINDS, ((), ("image",), ("image", "last_image")), strict=True))
TEXTS = ("prompt", "negative_prompt", "prefix", "image", "last_image")
# What may stand in a graph, a limit or a warm-up: from, to, and the step between two values. A request has
# narrower limits; these are what the service can reckon with, and a database can keep.
WHOLE = {
    "seed": (0, 2**64 - 1, 1),
    "width": (16, 4096, 16),
    "height": (16, 4096, 16),
    "num_frames": (5, 1001, 4),
    "fps": (1, 240, 1),
    "steps": (1, 1000, 1),
    "split": (0, 10_000, 1),
}
NUMBERS = {"flow_shift": (0.01, 100), "guidance_scale": (0, 100), "guidance_scale_2": (0, 100)}
# A render sets these always, so that the values in the graph do not matter.
ALWAYS_SET = ("prompt", "seed", "prefix", "image", "last_image")
NO_PARAMETERS = (*TEXTS, "seed", "width", "height", "split")  # a preset cannot limit them
LIMITED = ("num_frames", "fps")  # the service has limits of its own for these
# Fields of a request whose values go nowhere as they are.
NO_BINDINGS = {"preset", "size", "seconds", "fit", "image_url", "image_base64"}
NO_BINDINGS |= {"last_image_url", "last_image_base64"}
MAX_NODES = 1000
MAX_STEPS = 10_000  # of a sampler, as ComfyUI has it


def shown(value: Any) -> str:
    """For a sentence: what stands in the file, not longer than one can read."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def unfit(name: str, value: Any, step: int | None = None) -> str:
    """Why this cannot be the parameter's value, as the end of a sentence; nothing if it can."""
    if name in WHOLE:
        least, most, between = WHOLE[name]
        between = step or between
        if not is_number(value) or isinstance(value, float) or not least <= value <= most:
            return f"and it must be a whole number from {least} to {most}"
        if (value - least) % between:
            return f"and it must be one of {least}, {least + between}, {least + 2 * between} ..."
        return ""
    if name in NUMBERS:
        low, high = NUMBERS[name]
        right = is_number(value) and low <= value <= high
        return "" if right else f"and it must be a number from {low} to {high}"
    if name in TEXTS:
        return "" if isinstance(value, str) else "and it must be a text"
    return "" if is_number(value) or isinstance(value, str) else "and it must be a text or a number"


# The graph


def check_graph(graph: Any, path: Path) -> None:
    """Raises BadPreset unless it is a graph in API form whose links lead somewhere."""
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise BadPreset(f'{path}: this is a workflow for ComfyUI\'s editor. Export it with "Export (API)".')
    if not isinstance(graph, dict) or not graph:
        raise BadPreset(f"{path}: a graph in API form is an object with a node for each name.")
    if len(graph) > MAX_NODES:
        raise BadPreset(f"{path}: it has {len(graph):,} nodes, and {MAX_NODES:,} are the most.")
    for node_id, node in graph.items():
        class_type = node.get("class_type") if isinstance(node, dict) else None
        if not isinstance(class_type, str) or not class_type.strip():
            raise BadPreset(f"{path}: node {shown(node_id)} has no class_type.")
        if not isinstance(node.get("inputs"), dict):
            raise BadPreset(f"{path}: node {shown(node_id)} has no inputs.")
    for node_id, node in graph.items():
        _check_inputs(node_id, node, graph, path)
    _check_circles(graph, path)


def _check_inputs(node_id: str, node: Mapping[str, Any], graph: Graph, path: Path) -> None:
    for name, value in node["inputs"].items():
        if not isinstance(value, list):
            continue
        where = f"{path}: input {shown(name)} of node {shown(node_id)}"
        if [*map(type, value)] != [str, int] or value[1] < 0:
            raise BadPreset(f"{where} is a list, but no link: that has a node and the number of its output.")
        if value[0] not in graph:
            raise BadPreset(f"{where} is a link to node {shown(value[0])}, which is not there.")
    for name, folder, file in model_files(node):
        where = f"{path}: input {shown(name)} of node {shown(node_id)}"
        if not isinstance(file, str) or not file.strip():
            raise BadPreset(f"{where} must be the name of a file below models/{folder}.")
        if file.startswith(("/", "\\")) or ".." in file.replace("\\", "/").split("/") or len(file) > 255:
            raise BadPreset(f"{where} is {shown(file)}, which is no file below models/{folder}.")


def _check_circles(graph: Graph, path: Path) -> None:
    """Takes away, again and again, the nodes that wait for no other one: what stays goes in a circle."""
    waiting = {node_id: set(links(node)) for node_id, node in graph.items()}
    ready = [node_id for node_id, others in waiting.items() if not others]
    users: dict[str, list[str]] = {}
    for node_id, others in waiting.items():
        for other in others:
            users.setdefault(other, []).append(node_id)
    while ready:
        done = ready.pop()
        del waiting[done]
        for user in users.get(done, []):
            waiting[user].discard(done)
            if not waiting[user]:
                ready.append(user)
    if waiting:
        raise BadPreset(f"{path}: its links go in a circle through node {shown(next(iter(waiting)))}.")


# Bindings


def bindings(described: Mapping[str, Any], graph: Graph, where: str) -> dict[str, tuple[Place, ...]]:
    """To which inputs each parameter goes. ``where`` begins the sentence. Raises BadPreset."""
    found: dict[str, tuple[Place, ...]] = {}
    taken: dict[Place, str] = {}
    for parameter, places in described.items():
        here = f"{where}.{parameter}"
        if parameter in NO_BINDINGS:
            raise BadPreset(f"{here}: a request's {parameter} goes to no input as it is; take another name.")
        listed = [places] if isinstance(places, str) else places
        found[parameter] = tuple(_place(place, parameter, graph, here) for place in listed)
        for place in found[parameter]:
            if place in taken:
                raise BadPreset(f"{here}: {taken[place]} goes to {shown('.'.join(place))}, too.")
            taken[place] = parameter
        _check_same(parameter, found[parameter], graph, here)
    return found


def _place(text: str, parameter: str, graph: Graph, where: str) -> Place:
    """A node's id may hold a dot itself (subgraphs have ``12:3``, but people name nodes as they like)."""
    node, _, name = text.rpartition(".")
    if node not in graph:
        raise BadPreset(f"{where}: there is no node {shown(node)} in its graph.")
    if name not in graph[node]["inputs"]:
        class_type = shown(graph[node]["class_type"])
        raise BadPreset(f"{where}: node {shown(node)} ({class_type}) has no input {shown(name)}.")
    value = graph[node]["inputs"][name]
    here = f"{where}: input {shown(name)} of node {shown(node)}"
    if isinstance(value, list):
        raise BadPreset(f"{here} is a link; a parameter needs an input with a value.")
    if why := unfit(parameter, value):
        raise BadPreset(f"{here} holds {shown(value)}, {why}.")
    return node, name


def _check_same(parameter: str, places: tuple[Place, ...], graph: Graph, where: str) -> None:
    """The default is one value, so all its inputs must have it."""
    values = [graph[node]["inputs"][name] for node, name in places]
    if parameter not in ALWAYS_SET and any(value != values[0] for value in values):
        raise BadPreset(f"{where}: its inputs hold different values: {', '.join(map(shown, values))[:300]}.")


# One kind of job


def check_kind(name: str, kind: Kind, samplers: tuple[str, ...], path: Path, graph_path: Path) -> None:
    """Raises BadPreset."""
    where = f"{path} at kinds.{name}"
    for image in IMAGES[name]:
        if image not in kind.bindings:
            raise BadPreset(f"{where}.bindings: {image!r} is missing.")
    if kind.boundary is not None and not {"split", "steps", "flow_shift"} <= kind.bindings.keys():
        raise BadPreset(f"{where}: a boundary needs bindings of split, steps and flow_shift.")
    fps = kind.default("fps") * kind.rate
    node, into = kind.bindings["fps"][0]
    if fps != kind.graph[node]["inputs"][into]:
        raise BadPreset(f"{where}.bindings.fps: the graph's rate must be a multiple of output.rate.")
    _check_samplers(kind, samplers, path, graph_path)
    _check_images(kind, samplers, where)
    _check_output(kind, graph_path)


def _check_samplers(kind: Kind, samplers: tuple[str, ...], path: Path, graph_path: Path) -> None:
    for node in samplers:
        if node not in kind.graph:
            raise BadPreset(f"{path} at samplers: there is no node {shown(node)} in {graph_path.name}.")
        inputs = kind.graph[node]["inputs"]
        for name in ("steps", "start_at_step", "end_at_step"):
            value = inputs.get(name, 0)
            if isinstance(value, list):  # a link, which does not tell
                continue
            if type(value) is not int or not 0 <= value <= MAX_STEPS:
                raise BadPreset(
                    f"{graph_path}: input {name!r} of sampler {shown(node)} is {shown(value)}, and it must "
                    f"be a whole number from 0 to {MAX_STEPS}."
                )


def _check_images(kind: Kind, samplers: tuple[str, ...], where: str) -> None:
    """A node that loads an image is taken out where there is none, so it may do nothing else."""
    owners: dict[str, set[str]] = {}
    for parameter, places in kind.bindings.items():
        for node, _ in places:
            owners.setdefault(node, set()).add(parameter)
    for image in ("image", "last_image"):
        for node, _ in kind.bindings.get(image, ()):
            if owners[node] != {image} or node in samplers or [*links(kind.graph[node])]:
                raise BadPreset(
                    f"{where}.bindings.{image}: node {shown(node)} must load the image and do nothing else."
                )


def _check_output(kind: Kind, path: Path) -> None:
    """One node at the end, and it saves below the prefix: what another one saved would stay in ComfyUI."""
    used = {other for node in kind.graph.values() for other in links(node)}
    ends = [node_id for node_id in kind.graph if node_id not in used]
    save = kind.bindings["prefix"][0][0]
    if save in used:
        raise BadPreset(f"{path}: node {shown(save)}, which has the prefix, must be the last one.")
    for node_id in ends:
        if node_id != save:
            class_type = shown(kind.graph[node_id]["class_type"])
            raise BadPreset(
                f"{path}: nobody uses what node {shown(node_id)} ({class_type}) gives. Remove it: there must "
                f"be one output, {shown(save)}."
            )


# Parameters and the warm-up


def check_parameters(preset: Preset, path: Path) -> None:
    """Raises BadPreset."""
    for name, limits in preset.limits.items():
        where = f"{path} at parameters.{name}"
        if name in NO_PARAMETERS:
            raise BadPreset(f"{where}: a preset cannot limit {name}; remove it.")
        _check_limits(name, limits, where)
        for kind_name, value in _defaults(name, preset, where):
            if why := _other_type(value, limits) or outside(value, limits):
                raise BadPreset(f"{where}: the graph of {kind_name} has {shown(value)}, {why}.")
    for name, value in preset.warm_up.items():
        where = f"{path} at warm_up.{name}"
        if name in TEXTS or name == "seed":
            raise BadPreset(f"{where}: a warm-up sets {name} itself; remove it.")
        if why := unfit(name, value):
            raise BadPreset(f"{where} is {shown(value)}, {why}.")
        for _, default in _defaults(name, preset, where):
            if why := _other_type(default, {"choices": [value]}):
                raise BadPreset(f"{where} is {shown(value)} for {shown(default)}, {why}.")
    for kind_name, kind in preset.kinds.items():
        _check_steps(kind_name, kind, preset, path)


def _check_limits(name: str, limits: Mapping[str, Any], where: str) -> None:
    bounds = [name for name in ("minimum", "maximum") if name in limits]
    if "choices" in limits and bounds:
        raise BadPreset(f"{where}: give it choices, or minimum and maximum, not both.")
    if "choices" not in limits and len(bounds) < 2 and name not in LIMITED:
        raise BadPreset(f"{where}: give it choices, or minimum and maximum.")
    for value in (*limits.get("choices", ()), *(limits[key] for key in bounds)):
        if why := unfit(name, value, step=1 if bounds else None):
            raise BadPreset(f"{where}: it has {shown(value)}, {why}.")
    if len(bounds) == 2 and limits["minimum"] > limits["maximum"]:
        least, most = shown(limits["minimum"]), shown(limits["maximum"])
        raise BadPreset(f"{where}: its minimum, {least}, is above its maximum, {most}.")


def _defaults(name: str, preset: Preset, where: str) -> Iterator[tuple[str, Any]]:
    """Each kind that takes the parameter, with the value in its graph. Raises BadPreset if none takes it."""
    taking = [(kind_name, kind) for kind_name, kind in preset.kinds.items() if name in kind.bindings]
    if not taking:
        raise BadPreset(f"{where}: it has no binding, so it would do nothing.")
    for kind_name, kind in taking:
        yield kind_name, kind.default(name)


def _other_type(value: Any, limits: Mapping[str, Any]) -> str:
    """Whether a choice is a text and the graph's value a number, or the other way round."""
    for choice in limits.get("choices", ()):
        if isinstance(value, str) != isinstance(choice, str):
            return f"and the choice {shown(choice)} is of another type"
    return ""


def _check_steps(kind_name: str, kind: Kind, preset: Preset, path: Path) -> None:
    """Each sampler has a step to do, however few are asked for."""
    if "steps" not in kind.bindings:
        return
    limits = preset.limits.get("steps", {})
    asked = [*limits.get("choices", ()), limits.get("minimum", kind.default("steps")), kind.default("steps")]
    fewest = min(asked)
    where = f"{path} at kinds.{kind_name}"
    if kind.boundary is not None and min(fewest, preset.warm_up.get("steps", fewest)) < 2:
        raise BadPreset(f"{where}: with a boundary there must be 2 steps at least, one for each expert.")
    if kind.boundary is None and "steps" in preset.limits:
        for node in preset.samplers:
            start = kind.graph[node]["inputs"].get("start_at_step", 0)
            if is_number(start) and start >= fewest:
                raise BadPreset(
                    f"{where}: sampler {shown(node)} begins at step {start}, and a request may ask for "
                    f"{fewest} steps. Give it a boundary, and bindings of split and flow_shift."
                )
