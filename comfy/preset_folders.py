"""Reads a preset's folder, and says in one sentence what is wrong with it.

What comes from a folder is an operator's, perhaps a file that he found somewhere: it may be anything. All of
it is looked at before the service starts, so that no job is the first to find a mistake.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

Graph = dict[str, dict[str, Any]]
Place = tuple[str, str]  # a node's id, and the name of its input

KINDS = ("text-to-video", "image-to-video", "first-last-frame")
IMAGES = {"text-to-video": (), "image-to-video": ("image",), "first-last-frame": ("image", "last_image")}
TEXTS = ("prompt", "negative_prompt", "prefix", "image", "last_image")
NUMBERS = ("seed", "width", "height", "num_frames", "fps", "steps", "split", "flow_shift")
# The input of a loader node that names a model file, and ComfyUI's folder for it.
MODEL_FOLDERS = {
    "unet_name": "diffusion_models",
    "lora_name": "loras",
    "clip_name": "text_encoders",
    "vae_name": "vae",
}
MAX_BYTES = 1024 * 1024  # of one file; a graph of WAN 2.2 has 4 KB
MAX_NODES = 1000
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
# What a graph's bindings and values mean. Raise it when ``comfy/workflow.py`` makes another graph of the same
# preset and parameters: then workers of other versions leave our jobs alone.
VERSION = 1


class BadPreset(Exception):
    """One sentence for the operator, with the file and, where it is about one, the node."""


@dataclass(frozen=True)
class Kind:
    """What a preset does for one kind of job. ``bindings`` says to which inputs each parameter goes.
    ``boundary`` is the noise level at which the experts change, or None. Do not change ``graph``."""

    graph: Graph
    bindings: dict[str, tuple[Place, ...]]
    boundary: float | None

    def default(self, parameter: str) -> Any:
        """What stands in the graph. Raises KeyError if the parameter goes nowhere in it."""
        node, name = self.bindings[parameter][0]
        return self.graph[node]["inputs"][name]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, when nothing else is asked for."""
        return self.default("width"), self.default("height")


@dataclass(frozen=True)
class Preset:
    """``samplers`` are the nodes whose steps are the progress of a render. ``limits`` has the parameters that
    a request may set beside those of every preset, each with ``minimum``, ``maximum`` or ``choices``.
    ``scale`` and ``rate`` are the factors of an upscaler and an interpolator in its graphs."""

    name: str
    title: str
    description: str
    samplers: tuple[str, ...]
    kinds: dict[str, Kind]
    limits: dict[str, dict[str, Any]]
    warm_up: dict[str, Any]
    scale: int
    rate: int
    sha256: str

    @property
    def reference(self) -> str:
        """What a job holds: the name with a hash of the content. A worker whose folder says something else
        has another reference, and leaves the job to others."""
        return f"{self.name}@{self.sha256[:12]}"

    @property
    def files(self) -> list[tuple[str, str]]:
        """Every model file that it needs, as sorted (folder, file name)."""
        return _files(kind.graph for kind in self.kinds.values())

    @property
    def nodes(self) -> list[str]:
        """The classes of all its nodes, sorted."""
        return _nodes(kind.graph for kind in self.kinds.values())

    def steps(self, kind: str) -> int:
        """Of all samplers together, when nothing else is asked for."""
        return sum(count for _, count in sampler_steps(self.samplers, self.kinds[kind].graph))

    def files_of(self, kind: str) -> list[tuple[str, str]]:
        """Those that a job of this kind needs."""
        return _files([self.kinds[kind].graph])

    def needs(self, kind: str) -> set[str]:
        """What a job of this kind needs, as ``vae/file.safetensors`` and ``node SaveVideo``."""
        files = {f"{folder}/{name}" for folder, name in self.files_of(kind)}
        return files | {f"node {name}" for name in _nodes([self.kinds[kind].graph])}


def _files(graphs: Iterable[Graph]) -> list[tuple[str, str]]:
    inputs = [node["inputs"] for graph in graphs for node in graph.values()]
    named = {(MODEL_FOLDERS[k], v) for values in inputs for k, v in values.items() if k in MODEL_FOLDERS}
    return sorted((folder, name) for folder, name in named if isinstance(name, str))


def _nodes(graphs: Iterable[Graph]) -> list[str]:
    return sorted({node["class_type"] for graph in graphs for node in graph.values()})


def sampler_steps(samplers: Iterable[str], graph: Graph) -> list[tuple[str, int]]:
    """Each sampler of a graph with the number of its steps; 1 where its inputs do not tell."""
    found = []
    for name in samplers:
        inputs = graph[name]["inputs"]
        whole = inputs.get("steps", 1)
        first, last = inputs.get("start_at_step", 0), inputs.get("end_at_step", whole)
        found.append((name, max(min(last, whole) - first, 1)))
    return found


# Reading


def read_all(folder: Path) -> dict[str, Preset]:
    """Every folder in this one that has a ``preset.json``, by its name. Raises BadPreset."""
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise BadPreset(f"{folder}: {error.strerror}.") from None
    return {path.name: read(path) for path in folders if (path / "preset.json").exists()}


def read(folder: Path) -> Preset:
    """Raises BadPreset."""
    if not NAME.fullmatch(folder.name):
        raise BadPreset(
            f"{folder}: a preset's name has small letters, digits, - and _, and at most 40 of them."
        )
    path = folder / "preset.json"
    described, content = _json(path)
    if error := jsonschema.exceptions.best_match(_schema().iter_errors(described)):
        where = f" at {'.'.join(map(str, error.absolute_path))}" if error.absolute_path else ""
        raise BadPreset(f"{path}{where}: {error.message[:300]}")
    hashed = hashlib.sha256(f"{VERSION}\n".encode() + content)
    kinds = {}
    for name in KINDS:
        if kind := described["kinds"].get(name):
            graph_path = folder / kind.get("graph", f"{name}.json")
            graph, content = _json(graph_path)
            hashed.update(content)
            kinds[name] = _kind(name, kind, graph, path, graph_path)
    output = described.get("output", {})
    preset = Preset(
        name=folder.name,
        title=described["title"],
        description=described["description"],
        samplers=tuple(described["samplers"]),
        kinds=kinds,
        limits=described.get("parameters", {}),
        warm_up=described.get("warm_up", {}),
        scale=output.get("size", 1),
        rate=output.get("rate", 1),
        sha256=hashed.hexdigest(),
    )
    _check_parameters(preset, path)
    return preset


@cache
def _schema() -> Any:
    path = Path(__file__).parent / "presets" / "schema.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


def _json(path: Path) -> tuple[Any, bytes]:
    """What a file holds, and its bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadPreset(f"{path}: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise BadPreset(f"{path}: it has more than {MAX_BYTES:,} bytes.")
    try:
        return json.loads(content, parse_constant=_no_constant, object_pairs_hook=_no_twins), content
    except RecursionError:
        raise BadPreset(f"{path}: it is nested too deeply.") from None
    except ValueError as error:  # of UnicodeDecodeError and JSONDecodeError, too
        raise BadPreset(f"{path}: this is not JSON: {error}.") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


# Checking


def _kind(name: str, described: Mapping[str, Any], graph: Any, path: Path, graph_path: Path) -> Kind:
    _check_graph(graph, graph_path)
    bindings = {}
    for parameter, places in described["bindings"].items():
        listed = [places] if isinstance(places, str) else places
        bindings[parameter] = tuple(_place(place, parameter, graph, path, name) for place in listed)
    for image in IMAGES[name]:
        if image not in bindings:
            raise BadPreset(f"{path} at kinds.{name}.bindings: {image!r} is missing.")
    kind = Kind(graph, bindings, described.get("boundary"))
    if kind.boundary is not None and not {"split", "steps", "flow_shift"} <= bindings.keys():
        raise BadPreset(f"{path} at kinds.{name}: a boundary needs bindings of split, steps and flow_shift.")
    _check_output(kind, graph_path)
    return kind


def _check_graph(graph: Any, path: Path) -> None:
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise BadPreset(f'{path}: this is a workflow for ComfyUI\'s editor. Export it with "Export (API)".')
    if not isinstance(graph, dict) or not graph:
        raise BadPreset(f"{path}: a graph in API form is an object with a node for each name.")
    if len(graph) > MAX_NODES:
        raise BadPreset(f"{path}: it has more than {MAX_NODES:,} nodes.")
    for node_id, node in graph.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise BadPreset(f"{path}: node {node_id!r} has no class_type.")
        if not isinstance(node.get("inputs"), dict):
            raise BadPreset(f"{path}: node {node_id!r} has no inputs.")
    for node_id, node in graph.items():
        for other in links(node):
            if other not in graph:
                raise BadPreset(f"{path}: node {node_id!r} has a link to {other!r}, which is not there.")
    _check_circles(graph, path)


def links(node: Mapping[str, Any]) -> Iterator[str]:
    """The nodes whose results it takes."""
    for value in node["inputs"].values():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            yield value[0]


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
        raise BadPreset(f"{path}: its links go in a circle through node {next(iter(waiting))!r}.")


def _place(text: str, parameter: str, graph: Graph, path: Path, kind: str) -> Place:
    """A node's id may hold a dot itself (subgraphs have ``12:3``, but people name nodes as they like)."""
    where = f"{path} at kinds.{kind}.bindings.{parameter}"
    node, _, name = text.rpartition(".")
    if node not in graph:
        raise BadPreset(f"{where}: there is no node {node!r} in its graph.")
    if name not in graph[node]["inputs"]:
        raise BadPreset(f"{where}: node {node!r} ({graph[node]['class_type']}) has no input {name!r}.")
    value = graph[node]["inputs"][name]
    if isinstance(value, list):
        raise BadPreset(f"{where}: input {name!r} of node {node!r} is a link; it must hold a value.")
    if parameter in TEXTS and not isinstance(value, str):
        raise BadPreset(f"{where}: input {name!r} of node {node!r} holds no text.")
    if parameter in NUMBERS and not _is_number(value):
        raise BadPreset(f"{where}: input {name!r} of node {node!r} holds no number.")
    return node, name


def _check_output(kind: Kind, path: Path) -> None:
    """One node at the end, and it saves below the prefix: what another one saved would stay in ComfyUI."""
    used = {other for node in kind.graph.values() for other in links(node)}
    ends = [node_id for node_id in kind.graph if node_id not in used]
    save = kind.bindings["prefix"][0][0]
    if save in used:
        raise BadPreset(f"{path}: node {save!r}, which has the prefix, must be the last one.")
    for node_id in ends:
        if node_id != save:
            class_type = kind.graph[node_id]["class_type"]
            raise BadPreset(
                f"{path}: nobody uses what node {node_id!r} ({class_type}) gives. Remove it: there must be "
                f"one output, {save!r}."
            )


def _check_parameters(preset: Preset, path: Path) -> None:
    """Each is tried: it goes somewhere, and what stands in the graph is within its limits."""
    for kind in preset.kinds.values():
        for node in preset.samplers:
            if node not in kind.graph:
                raise BadPreset(f"{path} at samplers: there is no node {node!r} in each of its graphs.")
    bound = {name for kind in preset.kinds.values() for name in kind.bindings}
    for name in (*preset.limits, *preset.warm_up):
        if name not in bound:
            raise BadPreset(f"{path}: the parameter {name!r} has no binding, so it would do nothing.")
    for name, limits in preset.limits.items():
        for kind_name, kind in preset.kinds.items():
            if name in kind.bindings and (why := outside(kind.default(name), limits)):
                where = f"{path} at parameters.{name}"
                raise BadPreset(f"{where}: the graph of {kind_name} has {kind.default(name)!r}, {why}.")


def outside(value: Any, limits: Mapping[str, Any]) -> str:
    """Why a value is not within these limits, as the end of a sentence; nothing if it is."""
    choices, least, most = limits.get("choices"), limits.get("minimum"), limits.get("maximum")
    if choices is not None:
        return "" if value in choices else f"and it must be one of {', '.join(map(str, choices))}"
    if least is None and most is None:
        return ""
    if not _is_number(value):
        return "and it must be a number"
    if least is not None and value < least:
        return f"and it must be at least {least}"
    return f"and it must be at most {most}" if most is not None and value > most else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
