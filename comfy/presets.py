"""Finds the presets and describes them: what each one makes, and what a ComfyUI must have to run it.

A preset is a folder in ``presets/``: ``preset.json``, which says what comes out, and one graph for each kind
of job. The graphs are the official ComfyUI templates for WAN 2.2 14B (FP8) in API form, with node ids that
say what they are:

* ``quality``: 20 steps, shift 8, cfg 3.5, high noise expert for steps 0-10
* ``fast``: 4 steps with the lightx2v LoRAs, shift 5, cfg 1, high noise expert for steps 0-2

``SaveVideo`` is told the codec twice, as ``codec`` and as ``format.codec``: it has one name in older versions
of ComfyUI and the other in newer ones, and each version ignores the name that it does not know.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]

FOLDER = Path(__file__).parent / "presets"
DEFAULT = "quality"
KINDS = ("text-to-video", "image-to-video")
# The input of a loader node that names a model file, and ComfyUI's folder for it.
MODEL_FOLDERS = {
    "unet_name": "diffusion_models",
    "lora_name": "loras",
    "clip_name": "text_encoders",
    "vae_name": "vae",
}


@dataclass(frozen=True)
class Preset:
    """``size`` is width and height in pixels, ``fps`` is frames per second. ``samplers`` are the nodes whose
    steps are the progress of a render. ``graphs`` has one graph for each kind of job; do not change it."""

    name: str
    size: tuple[int, int]
    frames: int
    fps: int
    samplers: tuple[str, ...]
    graphs: dict[str, Graph]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.graphs)

    @property
    def files(self) -> list[tuple[str, str]]:
        """Every model file that it needs, as sorted (folder, file name)."""
        return _files(self.graphs.values())

    @property
    def nodes(self) -> list[str]:
        """The classes of all its nodes, sorted."""
        return _nodes(self.graphs.values())

    def needs(self, kind: str) -> set[str]:
        """What a job of this kind needs, as ``vae/file.safetensors`` and ``node SaveVideo``."""
        graphs = [self.graphs[kind]]
        return {f"{folder}/{name}" for folder, name in _files(graphs)} | {f"node {n}" for n in _nodes(graphs)}


def _files(graphs: Iterable[Graph]) -> list[tuple[str, str]]:
    inputs = [node["inputs"] for graph in graphs for node in graph.values()]
    return sorted(
        {(MODEL_FOLDERS[k], v) for values in inputs for k, v in values.items() if k in MODEL_FOLDERS}
    )


def _nodes(graphs: Iterable[Graph]) -> list[str]:
    return sorted({node["class_type"] for graph in graphs for node in graph.values()})


def _read(folder: Path) -> Preset:
    described = _json(folder / "preset.json")
    return Preset(
        name=folder.name,
        size=tuple(described["size"]),
        frames=described["frames"],
        fps=described["fps"],
        samplers=tuple(described["samplers"]),
        graphs={kind: _json(folder / f"{kind}.json") for kind in KINDS},
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


_presets = {path.parent.name: _read(path.parent) for path in sorted(FOLDER.glob("*/preset.json"))}

NAMES = tuple(sorted(_presets, key=lambda name: (name != DEFAULT, name)))  # the default comes first
PAIRS = tuple(f"{name}/{kind}" for name in NAMES for kind in _presets[name].kinds)
FILES = sorted({file for preset in _presets.values() for file in preset.files})
NODES = sorted({node for preset in _presets.values() for node in preset.nodes})


def find(name: str) -> Preset:
    """Raises KeyError if there is no preset of this name; all names are in ``NAMES``."""
    return _presets[name]


def runs(missing: Collection[str]) -> list[str]:
    """The pairs of preset and kind, such as ``quality/text-to-video``, that need nothing of what is missing.
    ``missing`` is written as in ``Preset.needs``."""
    pairs = [(preset, kind) for preset in map(find, NAMES) for kind in preset.kinds]
    return [f"{preset.name}/{kind}" for preset, kind in pairs if preset.needs(kind).isdisjoint(missing)]


def lacks(missing: Collection[str], name: str) -> list[str]:
    """Those of the missing files and nodes that the preset needs for any kind of job, sorted."""
    preset = find(name)
    return sorted(set().union(*map(preset.needs, preset.kinds)) & set(missing))
