"""What may be asked of a preset: each parameter is checked against it, and filled in where nothing was asked.

Every door goes through here, so nothing passes an operator's MAX_FRAMES or MAX_PIXELS.
"""

import difflib
import itertools
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
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
# What may be asked beside the parameters that ``describe`` tells.
COMMON = ("preset", "seconds")
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


def resolve(asked: Mapping[str, Any], *, image: str = "", last_image: str = "") -> Resolved:
    """``asked``: the given parameters, each of the right type. ``image`` and ``last_image``: the fields in
    which images were given. Raises ValidationError by field."""
    preset = find_preset(asked.get("preset"))
    kind_name = "first-last-frame" if last_image else "image-to-video" if image else "text-to-video"
    kind = preset.kinds.get(kind_name)
    if kind is None:
        able = ", ".join(preset.kinds)
        sentence = f"The preset {preset.name} cannot do {kind_name}; it does {able}."
        raise ValidationError({last_image or image or "preset": [sentence]})
    if not image and not last_image and "fit" in asked:
        raise ValidationError({"fit": ["It says what to do with an image, and there is none."]})
    parameters = _of_preset(preset, kind, asked)
    parameters["num_frames"] = _frames(preset, kind, asked)
    parameters["fps"] = asked.get("fps", kind.default("fps"))
    if image or last_image:
        parameters["fit"] = asked.get("fit", "cut")
    return Resolved(
        preset=preset,
        kind=kind_name,
        seed=asked.get("seed", secrets.randbelow(2**48)),
        shape=_shape(kind, asked.get("size"), follows_image=bool(image or last_image)),
        fit=asked.get("fit", "cut"),
        parameters=parameters,
        warnings=_warnings(preset, kind, asked, parameters),
    )


def preset_names() -> list[str]:
    """All of them, the default one first."""
    return sorted(presets.names(), key=lambda name: (name != settings.WORKFLOW_PRESET, name))


def find_preset(name: str | None) -> Preset:
    """By its name alone: the reference that a job holds is ours."""
    name = name or settings.WORKFLOW_PRESET
    if name not in presets.names():
        known = ", ".join(presets.names())
        raise ValidationError({"preset": [f"There is no such preset; there are {known}."]})
    return presets.find(name)


def _of_preset(preset: Preset, kind: Kind, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Its own parameters, with the graph's values where nothing was asked."""
    limits = describe(preset, kind)
    for name in asked:
        if name not in limits and name not in COMMON:
            raise ValidationError({name: [f"The preset {preset.name} does not take it."]})
    found = {name: asked.get(name, kind.default(name)) for name in sorted(_own(preset, kind))}
    if "guidance_scale" in asked and "guidance_scale_2" in found and "guidance_scale_2" not in asked:
        found["guidance_scale_2"] = asked["guidance_scale"]
    for name, value in (dict(asked) | found).items():
        if name != "num_frames" and (why := outside(value, limits.get(name, {}))):
            raise ValidationError({name: [f"The preset {preset.name} does not take this value, {why}."]})
    return found


def _own(preset: Preset, kind: Kind) -> set[str]:
    """The parameters that it takes beside those of every preset."""
    return {*preset.limits, "negative_prompt"} & kind.bindings.keys() - {"num_frames", "fps"}


def _frames(preset: Preset, kind: Kind, asked: Mapping[str, Any]) -> int:
    """4n+1. ``seconds`` count at the preset's own rate, whatever ``fps`` is, and the nearest number is
    taken."""
    if "num_frames" in asked and "seconds" in asked:
        raise ValidationError({"seconds": ["Give num_frames or seconds, not both."]})
    able = _lengths(preset)
    if not able:
        sentence = (
            f"The preset {preset.name} has no video as short as {settings.MAX_FRAMES} frames, the most here."
        )
        raise ValidationError({"preset": [sentence]})
    if "seconds" in asked:
        rate = kind.default("fps")
        frames = asked["seconds"] * rate
        if not able[0] - 2 <= frames <= able[-1] + 2:
            least, most = (round(count / rate, 2) for count in (able[0], able[-1]))
            raise ValidationError({"seconds": [f"This must be from {least} to {most}."]})
        return min(able, key=lambda count: abs(count - frames))
    frames = asked.get("num_frames", _length(kind, able))
    if not able[0] <= frames <= able[-1]:
        raise ValidationError({"num_frames": [f"This must be from {able[0]} to {able[-1]}."]})
    if frames not in able:
        below, above = max(n for n in able if n < frames), min(n for n in able if n > frames)
        sentence = f"There is no video of {frames} frames: ask for {below} or {above}."
        raise ValidationError({"num_frames": [sentence]})
    return frames


def _lengths(preset: Preset) -> list[int]:
    """The numbers of frames that may be asked for."""
    numbers = range(FEWEST_FRAMES, settings.MAX_FRAMES + 1, 4)
    return [number for number in numbers if not outside(number, preset.limits.get("num_frames", {}))]


def _length(kind: Kind, able: list[int]) -> int:
    """The one that is taken when none is asked for: the preset's own, or one that is near it."""
    return max((number for number in able if number <= kind.default("num_frames")), default=able[0])


def _shape(kind: Kind, size: str | None, *, follows_image: bool) -> str:
    """A size, or for the aspect of an image the area."""
    width, height = kind.size
    area = min(width * height, settings.MAX_PIXELS)
    if area < width * height:
        width, height = sizes.of_area(area, width / height)
    default = f"{width}x{height}"
    if size in (None, default) or (size == "auto" and not follows_image):
        return default
    if size == "auto":
        return str(area)
    if area := sizes.AREAS.get(size, 0):
        if area > settings.MAX_PIXELS:
            raise ValidationError({"size": [f"This service renders at most {settings.MAX_PIXELS:,} pixels."]})
        return str(area) if follows_image else {"480p": "832x480", "720p": "1280x720"}[size]
    return _exactly(size)


def _exactly(size: str) -> str:
    match = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
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


def describe_all(names: Collection[str]) -> list[dict[str, Any]]:
    """Every preset, for forms and clients. ``names``: what a request can say at all."""
    runnable, seconds = engines.runnable(), timings.of_last_day()
    return [
        {
            "name": preset.name,
            "title": preset.title,
            "description": preset.description,
            "default": preset.name == settings.WORKFLOW_PRESET,
            "kinds": {
                kind_name: {name: told for name, told in describe(preset, kind).items() if name in names}
                for kind_name, kind in preset.kinds.items()
            },
            "ready": [kind for kind in preset.kinds if f"{preset.reference}/{kind}" in runnable],
            "render_seconds": seconds.get(preset.name),
        }
        for preset in presets.every()
    ]


def describe(preset: Preset, kind: Kind) -> dict[str, dict[str, Any]]:
    """What a request of this kind may set, with its default and its limits, by which it is checked, too."""
    pixels = min(sizes.LARGEST, settings.MAX_PIXELS)
    frames, fps = (preset.limits.get(name, {}) for name in ("num_frames", "fps"))
    able = _lengths(preset)
    rates = [rate for rate in range(FPS[0], FPS[1] + 1) if not outside(rate, fps)]
    found: dict[str, dict[str, Any]] = {
        "seed": {"default": None, "minimum": SEED[0], "maximum": SEED[1]},
        "size": {
            "default": _shape(kind, None, follows_image=False),
            "examples": [size for size, area in EXAMPLES.items() if area <= pixels],
            "minimum_side": sizes.SIDES[0],
            "maximum_side": sizes.SIDES[-1],
            "multiple_of": sizes.STEP,
            "maximum_pixels": pixels,
        },
        "num_frames": _span(_length(kind, able) if able else None, able, frames, step=4),
        "fps": _span(kind.default("fps"), rates, fps),
    }
    if "image" in kind.bindings:
        found["fit"] = {"default": "cut", "choices": ["cut", "pad"]}
    for name in sorted(_own(preset, kind)):
        found[name] = {"default": kind.default(name)} | preset.limits.get(name, {})
    return found


def _span(default: int | None, able: list[int], told: Mapping[str, Any], **more: int) -> dict[str, Any]:
    """The limits of a parameter that may have these values, as choices where the preset has choices."""
    if "choices" in told or not able:
        return {"default": default, "choices": able}
    return {"default": default, "minimum": able[0], "maximum": able[-1], **more}


def of_unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """A warning for each field that was ignored: an honest mistake would be seen in the video only. What
    cannot be printed becomes ?, since a name may hold characters that Postgres does not take."""
    told, known = [], list(known)
    for name in itertools.islice(names, MAX_WARNINGS):
        shown = "".join(c if c.isprintable() else "?" for c in name[:MAX_NAME])
        near = difflib.get_close_matches(shown.lower(), known, 1, 0.75)
        hint = f"; did you mean {near[0]}?" if near else "."
        told.append(f"{shown or 'A field without a name'} was ignored{hint}")
    return told
