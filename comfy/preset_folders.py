"""Reads a preset's folder: ``preset.json``, and one graph for each kind of job (``docs/presets.md``).

What comes from a folder is an operator's, perhaps one that he found somewhere: it may be anything. What is
wrong with it is told in one sentence.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from comfy import preset_checks as checks
from comfy import preset_files as files
from comfy.preset import KINDS, BadPreset, Kind, Preset

MAX_DESCRIBED = 32 * 1024  # bytes of preset.json; that of ``quality`` has 4 KB
MAX_GRAPH = 1024 * 1024  # bytes of a graph; one of WAN 2.2 has 4 KB
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
# What a graph's bindings and values mean. Raise it when ``comfy/workflow.py`` makes another graph of the same
# preset and parameters: then workers of other versions leave our jobs alone.
VERSION = 1


def read_all(folder: Path) -> dict[str, Preset]:
    """Every preset in this folder, by its name. Raises BadPreset."""
    return {path.name: read(path) for path in find(folder)}


def find(folder: Path) -> list[Path]:
    """The folders in this one that hold presets, sorted. Raises BadPreset where it is likely that somebody
    means to have a preset, and there is none."""
    try:
        if (folder / "preset.json").exists():
            raise BadPreset(f"{folder}: this is the folder of one preset. Name the folder that it lies in.")
        return sorted(_in(folder))
    except OSError as error:
        raise BadPreset(f"{error.filename or folder}: {error.strerror}.") from None


def _in(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "lost+found" or not path.is_dir():
            continue
        names = {entry.name for entry in path.iterdir()}
        if "preset.json" in names:
            yield path
        elif any(name.endswith(".json") for name in names):
            raise BadPreset(f"{path}: preset.json is missing.")


def read(folder: Path) -> Preset:
    """Raises BadPreset."""
    if not NAME.fullmatch(folder.name):
        raise BadPreset(
            f"{folder}: a preset's name has small letters, digits, - and _, and at most 40 of them."
        )
    path = folder / "preset.json"
    described = files.read(path, MAX_DESCRIBED)
    _check_form(described, path)
    kinds = {name: _kind(name, described, path) for name in KINDS if name in described["kinds"]}
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
        sha256=_sha256(described, kinds),
    )
    checks.check_parameters(preset, path)
    return preset


def _check_form(described: Any, path: Path) -> None:
    if error := jsonschema.exceptions.best_match(_schema().iter_errors(described)):
        where = f" at {'.'.join(map(str, error.absolute_path))[:200]}" if error.absolute_path else ""
        must_be = error.schema.get("description") if error.validator in ("pattern", "oneOf") else None
        what = f"{checks.shown(error.instance)} is not {must_be}" if must_be else error.message[:300]
        raise BadPreset(f"{path}{where}: {what}.")
    for name in ("title", "description"):
        if not described[name].isprintable() or not described[name].strip():
            raise BadPreset(f"{path} at {name}: it must be one line of text that can be printed.")
    # Not in the schema: its library compares each entry of a list with each other one.
    if len(set(described["samplers"])) < len(described["samplers"]):
        raise BadPreset(f"{path} at samplers: a node is there twice.")


@cache
def _schema() -> Any:
    path = Path(__file__).parent / "presets" / "schema.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


def _kind(name: str, described: Mapping[str, Any], path: Path) -> Kind:
    its = described["kinds"][name]
    graph_path = path.parent / its.get("graph", f"{name}.json")
    graph = files.read(graph_path, MAX_GRAPH)
    checks.check_graph(graph, graph_path)
    kind = Kind(
        graph=graph,
        bindings=checks.bindings(its["bindings"], graph, f"{path} at kinds.{name}.bindings"),
        boundary=its.get("boundary"),
        rate=described.get("output", {}).get("rate", 1),
        file=graph_path.name,
    )
    checks.check_kind(name, kind, tuple(described["samplers"]), path, graph_path)
    return kind


def _sha256(described: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str:
    """Of all that decides what a job's video is. A new title, limit or warm-up leaves the preset the same, so
    that jobs which wait do not lose it."""
    graphs = {name: kind.graph for name, kind in kinds.items()}
    parts = [VERSION, described["samplers"], described["kinds"], described.get("output"), graphs]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
