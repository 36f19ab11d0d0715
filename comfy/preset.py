"""What a preset is: its graphs, where each parameter goes in them, and what a ComfyUI must have to run it.

A preset comes from a folder (``comfy/preset_folders.py``). What is found here can be relied on:
``comfy/preset_checks.py`` has looked at it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
Place = tuple[str, str]  # a node's id, and the name of its input

KINDS = ("text-to-video", "image-to-video", "first-last-frame")
# The input of a loader node that names a model file, and ComfyUI's folder for it. Some classes of node have
# their files in another folder, and GGUF files, of a pack of nodes, are listed apart.
MODEL_FOLDERS = {
    "unet_name": "diffusion_models",
    "lora_name": "loras",
    "clip_name": "text_encoders",
    "vae_name": "vae",
}
FOLDERS_OF_CLASS = {
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
}
GGUF_FOLDERS = {"diffusion_models": "unet_gguf", "text_encoders": "clip_gguf"}


class BadPreset(Exception):
    """One sentence for the operator, with the file and, where it is about one, the node. It may quote what is
    in the file, so it is cut, and what cannot be printed is left out."""

    LONGEST = 1000  # characters

    def __init__(self, sentence: str):
        super().__init__("".join(c if c.isprintable() else "?" for c in sentence[: self.LONGEST]))


@dataclass(frozen=True)
class Kind:
    """What a preset does for one kind of job. ``bindings`` says to which inputs each parameter goes.
    ``boundary`` is the noise level at which the experts change, or None. ``rate`` is that of the preset, and
    ``file`` the name of the graph's file. Do not change ``graph``."""

    graph: Graph
    bindings: dict[str, tuple[Place, ...]]
    boundary: float | None
    rate: int
    file: str

    def default(self, parameter: str) -> Any:
        """What stands in the graph. Raises KeyError if the parameter goes nowhere in it."""
        node, name = self.bindings[parameter][0]
        value = self.graph[node]["inputs"][name]
        return value // self.rate if parameter == "fps" else value

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


def model_files(node: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Of each input that names a model file: its name, ComfyUI's folder for it, and what it holds."""
    for name, value in node["inputs"].items():
        of_class = FOLDERS_OF_CLASS.get((node["class_type"], name))
        if folder := of_class or MODEL_FOLDERS.get(name):
            is_gguf = isinstance(value, str) and value.lower().endswith(".gguf")
            yield name, GGUF_FOLDERS.get(folder, folder) if is_gguf else folder, value


def _files(graphs: Iterable[Graph]) -> list[tuple[str, str]]:
    nodes = [node for graph in graphs for node in graph.values()]
    return sorted({(folder, value) for node in nodes for _, folder, value in model_files(node)})


def _nodes(graphs: Iterable[Graph]) -> list[str]:
    return sorted({node["class_type"] for graph in graphs for node in graph.values()})


def links(node: Mapping[str, Any]) -> Iterator[str]:
    """The nodes whose results it takes."""
    for value in node["inputs"].values():
        if isinstance(value, list):
            yield value[0]


def sampler_steps(samplers: Iterable[str], graph: Graph) -> list[tuple[str, int]]:
    """Each sampler of a graph with the number of its steps; 1 where its inputs do not tell."""
    found = []
    for name in samplers:
        told = {k: v for k, v in graph[name]["inputs"].items() if is_number(v)}  # and not a link
        whole = told.get("steps", 1)
        first, last = told.get("start_at_step", 0), told.get("end_at_step", whole)
        found.append((name, max(min(last, whole) - first, 1)))
    return found


def outside(value: Any, limits: Mapping[str, Any]) -> str:
    """Why a value is not within these limits, as the end of a sentence; nothing if it is."""
    choices, least, most = limits.get("choices"), limits.get("minimum"), limits.get("maximum")
    if choices is not None:
        return "" if value in choices else f"and it must be one of {', '.join(map(str, choices))}"
    if least is None and most is None:
        return ""
    if not is_number(value):
        return "and it must be a number"
    if least is not None and value < least:
        return f"and it must be at least {least}"
    return f"and it must be at most {most}" if most is not None and value > most else ""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
