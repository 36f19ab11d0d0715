"""What may be asked of a preset: each parameter is checked against it, and filled in where nothing was asked.

Every door goes through here, so nothing passes an operator's MAX_FRAMES or MAX_PIXELS.
"""

import difflib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from django.conf import settings
from rest_framework.serializers import ValidationError

from comfy import presets
from comfy.presets import Kind, Preset, outside
from jobs.media import sizes
from jobs.queue import engines, timings

FEWEST_FRAMES = 5
FPS = (8, 30)
SEED = (0, 2**53 - 1)
# Sizes that a form may offer, with their pixels.
EXAMPLES = {"auto": 0, "832x480": 832 * 480, "480x832": 832 * 480, "1280x720": 1280 * 720}
EXAMPLES |= {"720x1280": 1280 * 720} | sizes.AREAS
# What every preset takes; what else it takes is in its ``limits``.
COMMON = ("preset", "seed", "size", "fit", "num_frames", "seconds", "fps")
MAX_WARNINGS, MAX_NAME = 10, 64


@dataclass
class Resolved:
    """``parameters`` as a job stores them. ``shape`` is its size, or the area that an image is brought to, as
    ``jobs.media.images.normalise`` takes it."""

    preset: Preset
    kind: str
    seed: int
    shape: str
    fit: str
    parameters: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def work(self, size: str) -> int:
        """Pixels x frames x steps, by which renders of one preset compare."""
        steps = self.parameters.get("steps") or self.preset.steps(self.kind)
        return prod(map(int, size.split("x"))) * self.parameters["num_frames"] * int(steps)


def resolve(asked: Mapping[str, Any], *, image: bool, last_image: bool) -> Resolved:
    """``asked``: the given parameters, each of the right type. Raises ValidationError by field."""
    preset = find_preset(asked.get("preset"))
    kind_name = "first-last-frame" if last_image else "image-to-video" if image else "text-to-video"
    kind = preset.kinds.get(kind_name)
    if kind is None:
        name = "last_image" if last_image else "image" if image else "preset"
        able = ", ".join(preset.kinds)
        raise ValidationError({name: [f"The preset {preset.name} cannot do {kind_name}; it does {able}."]})
    if not image and not last_image and "fit" in asked:
        raise ValidationError({"fit": ["It says what to do with an image, and there is none."]})
    parameters = _of_preset(preset, kind, asked)
    parameters["num_frames"] = _frames(kind, asked)
    parameters["fps"] = asked.get("fps", kind.default("fps"))
    for name in ("num_frames", "fps"):
        _check(name, parameters[name], preset)
    if image or last_image:
        parameters["fit"] = asked.get("fit", "cut")
    return Resolved(
        preset=preset,
        kind=kind_name,
        seed=asked.get("seed", secrets.randbelow(2**48)),
        shape=_shape(kind, asked.get("size"), follows_image=image or last_image),
        fit=asked.get("fit", "cut"),
        parameters=parameters,
        warnings=_warnings(preset, kind, asked, parameters),
    )


def find_preset(name: str | None) -> Preset:
    try:
        return presets.find(name or settings.WORKFLOW_PRESET)
    except KeyError:
        known = ", ".join(presets.names())
        raise ValidationError({"preset": [f"There is no such preset; there are {known}."]}) from None


def _of_preset(preset: Preset, kind: Kind, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Its own parameters, with the graph's values where nothing was asked."""
    taken = {*preset.limits, "negative_prompt"} & kind.bindings.keys()
    for name in asked:
        if name not in taken and name not in COMMON:
            raise ValidationError({name: [f"The preset {preset.name} does not take it."]})
        if name in taken:
            _check(name, asked[name], preset)
    found = {name: asked.get(name, kind.default(name)) for name in sorted(taken)}
    if "guidance_scale" in asked and "guidance_scale_2" in found and "guidance_scale_2" not in asked:
        found["guidance_scale_2"] = asked["guidance_scale"]
    return found


def _check(name: str, value: Any, preset: Preset) -> None:
    if why := outside(value, preset.limits.get(name, {})):
        raise ValidationError({name: [f"The preset {preset.name} does not take this value, {why}."]})


def _frames(kind: Kind, asked: Mapping[str, Any]) -> int:
    """4n+1. ``seconds`` count at the preset's own rate, whatever ``fps`` is."""
    if "num_frames" in asked and "seconds" in asked:
        raise ValidationError({"seconds": ["Give num_frames or seconds, not both."]})
    most = (settings.MAX_FRAMES - 1) // 4 * 4 + 1
    if "seconds" in asked:
        frames = round((asked["seconds"] * kind.default("fps") - 1) / 4) * 4 + 1
        if not FEWEST_FRAMES <= frames <= most:
            least, longest = (round(count / kind.default("fps"), 2) for count in (FEWEST_FRAMES, most))
            raise ValidationError({"seconds": [f"This must be from {least} to {longest}."]})
        return frames
    frames = asked.get("num_frames", min(kind.default("num_frames"), most))
    if not FEWEST_FRAMES <= frames <= most:
        raise ValidationError({"num_frames": [f"This must be from {FEWEST_FRAMES} to {most}."]})
    if frames % 4 != 1:
        below = (frames - 1) // 4 * 4 + 1
        nearest = " or ".join(str(count) for count in (below, below + 4) if FEWEST_FRAMES <= count <= most)
        raise ValidationError({"num_frames": [f"The model makes 4n+1 frames: ask for {nearest}."]})
    return frames


def _shape(kind: Kind, size: str | None, *, follows_image: bool) -> str:
    """A size, or for the aspect of an image the area."""
    width, height = kind.size
    area = min(width * height, settings.MAX_PIXELS)
    if size is None or (size == "auto" and not follows_image):
        if area < width * height:
            width, height = sizes.of_area(area, width / height)
        return f"{width}x{height}"
    if size == "auto":
        return str(area)
    if area := sizes.AREAS.get(size, 0):
        if area > settings.MAX_PIXELS:
            raise ValidationError({"size": [f"This service renders at most {settings.MAX_PIXELS:,} pixels."]})
        return str(area) if follows_image else {"480p": "832x480", "720p": "1280x720"}[size]
    return _exactly(size)


def _exactly(size: str) -> str:
    match = re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", size, re.ASCII)
    if not match:
        raise ValidationError(
            {"size": ["This must be WIDTHxHEIGHT, such as 832x480, or 480p, 720p or auto."]}
        )
    width, height = map(int, match.groups())
    if width not in sizes.SIDES or height not in sizes.SIDES:
        least, most = sizes.SIDES[0], sizes.SIDES[-1]
        raise ValidationError({"size": [f"Both sides must be multiples of 16, from {least} to {most}."]})
    most = min(sizes.LARGEST, settings.MAX_PIXELS)
    if width * height > most:
        raise ValidationError({"size": [f"This has {width * height:,} pixels, and {most:,} is the most."]})
    return f"{width}x{height}"


def _warnings(
    preset: Preset, kind: Kind, asked: Mapping[str, Any], parameters: Mapping[str, Any]
) -> list[str]:
    """Of what was accepted and has no effect."""
    graph = kind.graph
    scales = [graph[name]["inputs"].get("cfg") for name in preset.samplers if name in graph]
    scales = [
        parameters.get(name) for name in ("guidance_scale", "guidance_scale_2") if name in parameters
    ] or scales
    if "negative_prompt" in asked and scales and all(scale == 1 for scale in scales):
        return ["negative_prompt has no effect where the guidance scale is 1, as in this request."]
    return []


def describe_all() -> list[dict[str, Any]]:
    """Every preset, for forms and clients."""
    runnable, seconds = engines.runnable(), timings.of_last_day()
    return [
        {
            "name": preset.name,
            "title": preset.title,
            "description": preset.description,
            "default": preset.name == settings.WORKFLOW_PRESET,
            "kinds": {name: describe(preset, kind) for name, kind in preset.kinds.items()},
            "ready": [kind for kind in preset.kinds if f"{preset.reference}/{kind}" in runnable],
            "render_seconds": seconds.get(preset.name),
        }
        for preset in presets.every()
    ]


def describe(preset: Preset, kind: Kind) -> dict[str, dict[str, Any]]:
    """What a request of this kind may set, with its default and its limits."""
    most = (settings.MAX_FRAMES - 1) // 4 * 4 + 1
    width, height = sizes.SIDES[0], sizes.SIDES[-1]
    pixels = min(sizes.LARGEST, settings.MAX_PIXELS)
    found: dict[str, dict[str, Any]] = {
        "seed": {"default": None, "minimum": SEED[0], "maximum": SEED[1]},
        "size": {
            "default": _shape(kind, None, follows_image=False),
            "examples": [size for size, area in EXAMPLES.items() if area <= pixels],
            "minimum_side": width,
            "maximum_side": height,
            "multiple_of": sizes.STEP,
            "maximum_pixels": pixels,
        },
        "num_frames": {
            "default": min(kind.default("num_frames"), most),
            "minimum": FEWEST_FRAMES,
            "maximum": most,
        },
        "fps": {"default": kind.default("fps"), "minimum": FPS[0], "maximum": FPS[1]},
    }
    if "image" in kind.bindings:
        found["fit"] = {"default": "cut", "choices": ["cut", "pad"]}
    for name in sorted({*preset.limits, "negative_prompt"} & kind.bindings.keys()):
        found[name] = {"default": kind.default(name)} | found.get(name, {})
    return {name: limits | preset.limits.get(name, {}) for name, limits in found.items()}


def of_unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """A warning for each field that was ignored: an honest mistake would be seen in the video only."""
    told = []
    for name in list(names)[:MAX_WARNINGS]:
        near = difflib.get_close_matches(name[:MAX_NAME], list(known), 1, 0.75)
        hint = f"; did you mean {near[0]}?" if near else "."
        told.append(f"{name[:MAX_NAME]} was ignored{hint}")
    return told
