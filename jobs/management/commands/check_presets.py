"""``manage.py check_presets``: tries the presets, before the first job does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize

from comfy import node_classes, preset_folders, presets, workflow
from comfy.answers import ComfyError
from comfy.client import Comfy, shown
from comfy.presets import BadPreset, Graph, Preset
from jobs.api.requests import PARAMETERS
from jobs.management.arguments import url
from jobs.queue import parameters


class Command(BaseCommand):
    help = (
        "Checks the built-in presets and those of PRESETS_DIR, or those of a folder that you name: a line "
        "for each, exit code 1 if something is wrong. Each parameter is tried with its limits and choices."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "folder", nargs="?", type=Path, help="of presets, or of one preset; it need not be in use"
        )
        parser.add_argument(
            "--url", type=url, help="a ComfyUI that must have all nodes and model files, and know all inputs"
        )

    def handle(self, *, folder: Path | None, url: str | None, **options: Any) -> None:
        try:
            found = _presets_of(folder) if folder else _of_service()
            if url:
                with Comfy(url) as comfy:
                    self.stdout.write(str(comfy.system()))
                    classes = Classes(comfy)
                    wrong = [self._check(path, classes) for path in found]
            else:
                wrong = [self._check(path, None) for path in found]
        except BadPreset as error:
            raise CommandError(str(error)) from None
        except ComfyError as error:
            raise CommandError(f"{shown(url or '')}: {error.message} {error.detail}".strip()) from error
        if bad := sum(wrong):
            raise CommandError(f"{bad} preset{pluralize(bad)} cannot be used like this.")

    def _check(self, path: Path, classes: "Classes | None") -> bool:
        """Whether something is wrong. Writes the preset's line, or what is wrong."""
        try:
            preset = preset_folders.read(path)
        except BadPreset as error:
            self.stdout.write(str(error))
            return True
        wrong = [f"{path}/{problem}." for problem in _problems(preset, classes)]
        for sentence in wrong or [_line(preset)]:
            self.stdout.write(sentence)
        for sentence in dict.fromkeys(classes.notes(preset)) if classes else ():
            self.stdout.write(f"  {sentence}.")
        return bool(wrong)


def _of_service() -> list[Path]:
    found = {path.name: path for path in preset_folders.find(presets.BUILT_IN)}
    if settings.PRESETS_DIR:
        found |= {path.name: path for path in preset_folders.find(Path(settings.PRESETS_DIR))}
    return list(found.values())


def _presets_of(folder: Path) -> list[Path]:
    folder = folder.resolve()
    if (folder / "preset.json").exists():
        return [folder]
    found = preset_folders.find(folder)
    if not found:
        raise BadPreset(f"{folder}: there is no preset in it. A preset is a folder with a preset.json.")
    return found


def _line(preset: Preset) -> str:
    taken = ", ".join(f"{name} {_limits(limits)}" for name, limits in preset.limits.items())
    return f"{preset.reference}: {', '.join(preset.kinds)}; {taken or 'no parameters of its own'}"


def _limits(limits: dict[str, Any]) -> str:
    if "choices" in limits:
        return " or ".join(map(str, limits["choices"]))
    return " ".join(f"{word} {limits[key]}" for key, word in WORDS.items() if key in limits)


WORDS = {"minimum": "from", "maximum": "to"}


def _problems(preset: Preset, classes: "Classes | None") -> Iterator[str]:
    """Each begins with the name of its file."""
    for name in sorted(preset.limits.keys() - PARAMETERS):
        yield f"preset.json at parameters.{name}: no request can set it; leave its value in the graph"
    for name, kind in preset.kinds.items():
        for file in classes.missing_files(preset, name) if classes else ():
            yield f"{kind.file}: ComfyUI lacks models/{file}"
        told = set()
        for tried, values in _trials(preset, name):
            for problem in _of_trial(preset, name, values, classes):
                if problem not in told:
                    yield f"{kind.file}: {problem}{tried}"
                told.add(problem)


def _of_trial(preset: Preset, kind: str, values: dict[str, Any], classes: "Classes | None") -> list[str]:
    try:
        graph = workflow.build(preset, kind, values)
        workflow.steps(preset, graph)
        json.dumps(graph, allow_nan=False)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return [f"no graph can be made: {type(error).__name__} {error}"]
    return list(classes.problems(preset, kind, graph)) if classes else []


def _trials(preset: Preset, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values of requests that go to the ends of what may be asked, each with words that tell it."""
    kind = preset.kinds[name]
    first = {"prompt": "A (red) cat", "seed": 0, "prefix": "wanapi/check/1"}
    images = {"image": "wanapi/check/input.png", "last_image": "wanapi/check/last.png"}
    given = {"text-to-video": (), "image-to-video": ("image",)}.get(name, ("image", "last_image"))
    first |= {image: images[image] for image in given}
    yield "", first
    if name == "first-last-frame":
        yield " (with a last image alone)", {key: first[key] for key in first if key != "image"}
    for parameter, limits in parameters.describe(preset, kind).items():
        ends = [limits.get(key) for key in ("default", "minimum", "maximum")]
        sizes = [size for size in limits.get("examples", ()) if "x" in size]
        for value in (*ends, *limits.get("choices", ()), *sizes):
            if value is not None:
                tried = "" if parameter == "negative_prompt" else f" (with {parameter} {value})"
                yield tried, {**first, parameter: value}


class Classes:
    """What a ComfyUI tells of its classes of nodes; each is asked for once."""

    def __init__(self, comfy: Comfy):
        self._comfy = comfy
        self._known: dict[str, dict[str, Any] | None] = {}

    def of(self, preset: Preset) -> dict[str, dict[str, Any] | None]:
        for name in preset.nodes:
            if name not in self._known:
                self._known[name] = self._comfy.node_class(name)
        return self._known

    def missing_files(self, preset: Preset, kind: str) -> list[str]:
        return self._comfy.missing(preset.files_of(kind))

    def problems(self, preset: Preset, kind: str, graph: Graph) -> Iterator[str]:
        bindings = preset.kinds[kind].bindings
        bound = {place for places in bindings.values() for place in places}
        save = bindings["prefix"][0][0]
        yield from node_classes.problems(graph, self.of(preset), save=save, bound=bound)

    def notes(self, preset: Preset) -> Iterator[str]:
        for kind in preset.kinds.values():
            yield from node_classes.unknown(kind.graph, self.of(preset))
