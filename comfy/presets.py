"""Finds the presets and describes them: what each one makes, and what a ComfyUI must have to run it.

A preset is a folder: ``preset.json``, and one graph for each kind of job that it can do. Two are built in, in
``presets/``; an operator's own come from PRESETS_DIR. How a folder is read and checked is in
``comfy/preset_folders.py``, and for people in ``docs/presets.md``.

The built-in graphs are the official ComfyUI templates for WAN 2.2 14B (FP8) in API form, with node ids that
say what they are:

* ``quality``: 20 steps, shift 8, cfg 3.5, high noise expert for steps 0-10
* ``fast``: 4 steps with the lightx2v LoRAs, shift 5, cfg 1, high noise expert for steps 0-2

``SaveVideo`` is told the codec twice, as ``codec`` and as ``format.codec``: it has one name in older versions
of ComfyUI and the other in newer ones, and each version ignores the name that it does not know.
"""

from collections.abc import Collection
from pathlib import Path

from comfy import preset_folders
from comfy.preset import KINDS, BadPreset, Graph, Kind, Preset, model_files, outside, sampler_steps

__all__ = ["KINDS", "BadPreset", "Graph", "Kind", "Preset", "model_files", "outside", "sampler_steps"]

BUILT_IN = Path(__file__).parent / "presets"
DEFAULT = "quality"

_presets: dict[str, Preset] = {}


def load(folder: Path | None = None) -> None:
    """Takes up the built-in presets, and those in this folder beside them: one of the same name takes the
    place of the built-in one. Raises BadPreset."""
    found = preset_folders.read_all(BUILT_IN)
    if folder:
        found |= preset_folders.read_all(folder)
    _presets.clear()
    _presets.update(sorted(found.items(), key=lambda item: (item[0] != DEFAULT, item[0])))


load()


def every() -> list[Preset]:
    """The default one first."""
    return list(_presets.values())


def names() -> tuple[str, ...]:
    return tuple(_presets)


def find(name: str) -> Preset:
    """By its name, or by the reference that a job holds (``Preset.reference``). Raises KeyError if there is
    none, or if it was changed since."""
    preset = _presets[name.partition("@")[0]]
    if "@" in name and name != preset.reference:
        raise KeyError(name)
    return preset


def runs(missing: Collection[str]) -> list[str]:
    """The pairs of preset and kind, such as ``quality@1a2b3c4d5e6f/text-to-video``, that need nothing of what
    is missing. ``missing`` is written as in ``Preset.needs``.

    The pair without the content hash stands for jobs of releases that stored none.
    """
    able = [(each, kind) for each in every() for kind in each.kinds if each.needs(kind).isdisjoint(missing)]
    return [f"{name}/{kind}" for each, kind in able for name in (each.reference, each.name)]


def lacks(missing: Collection[str], name: str) -> list[str]:
    """Those of the missing files and nodes that the preset needs for any kind of job, sorted."""
    preset = find(name)
    return sorted(set().union(*map(preset.needs, preset.kinds)) & set(missing))


def files() -> list[tuple[str, str]]:
    """The model files of all presets, as sorted (folder, file name)."""
    return sorted({file for preset in every() for file in preset.files})


def files_of_built_in() -> set[tuple[str, str]]:
    """Those that the publishers of WAN's models for ComfyUI offer, unlike an operator's own LoRA."""
    return {file for preset in preset_folders.read_all(BUILT_IN).values() for file in preset.files}


def nodes() -> list[str]:
    """The classes of all nodes of all presets, sorted."""
    return sorted({node for preset in every() for node in preset.nodes})
