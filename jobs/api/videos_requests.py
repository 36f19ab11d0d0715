"""What may stand in a request to /v1/videos: the fields of OpenAI, vLLM-Omni and SGLang, in ours.

What would make another video than the one that was asked for, unseen, is refused. What has no meaning here is
ignored, with a warning in ``GET /jobs/{job_id}``.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.http import QueryDict
from rest_framework import serializers
from rest_framework.serializers import ValidationError

from jobs.api import requests
from jobs.api.forms import Upload
from jobs.api.intake import ImageSource
from jobs.media import sizes
from jobs.queue import parameters

# Other names of our own fields.
ALIASES = {"num_inference_steps": "steps"}
NUMBERS = (
    "seed",
    "num_frames",
    "fps",
    "steps",
    "guidance_scale",
    "guidance_scale_2",
    "flow_shift",
    "seconds",
)
OF_A_PRESET = ("steps", "guidance_scale", "guidance_scale_2", "flow_shift")
IMAGES = ("input_reference", "image_reference", "reference_url")
OURS = requests.GenerateRequest().fields.keys()

ONE = ("n", "num_outputs_per_prompt")
OFF = ("enable_frame_interpolation", "enable_upscaling", "generate_sound")
REFUSED = {
    **dict.fromkeys(("lora", "loras", "lora_name", "lora_path"), "LoRAs cannot be chosen by a request."),
    **dict.fromkeys(
        ("video_reference", "video_url", "video_path", "audio_reference"),
        "Videos are made from text and images only.",
    ),
    "input_references": "Give one image, as input_reference.",
}
SHAPES = ("width", "height", "aspect_ratio", "short_edge")
KNOWN = {*OURS, *ALIASES, *IMAGES, *ONE, *OFF, *REFUSED, *SHAPES, "model"}
TRAINED = {"16:9": "832x480", "9:16": "480x832"}
ABSENT = (None, "")


class UploadField(serializers.Field):
    def to_internal_value(self, upload: Upload) -> Upload:
        return upload


class VideoRequest(requests.GenerateRequest):
    """The body of POST /v1/videos. ``names``: how the request calls those of our fields that have another
    name in it."""

    image_file = UploadField(required=False)

    def __init__(self, body: Mapping[str, Any]):
        translation = Translation(_flat(body))
        self.names, self.warnings = translation.names, translation.warnings
        super().__init__(data=translation.fields)

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        found = super().validate(data)
        if upload := data.get("image_file"):
            found["image"] = ImageSource("image_file", upload.whole)
        return found | {"warnings": self.warnings}

    def renamed(self, error: ValidationError) -> ValidationError:
        """The same error, by the names of the request."""
        if not isinstance(error.detail, dict):
            return error
        return ValidationError({self.names.get(name, name): texts for name, texts in error.detail.items()})


class Translation:
    """``fields`` has the values of the request by the names of our own fields."""

    def __init__(self, given: dict[str, Any]):
        self.given = given
        self.fields = {name: value for name, value in given.items() if name in OURS}
        self.names: dict[str, str] = {}
        self.warnings: list[str] = []
        self._refuse()
        for theirs, ours in ALIASES.items():
            if theirs in given:
                self._put(ours, theirs, given[theirs])
        self.fields |= {name: _number(self.fields[name]) for name in NUMBERS if name in self.fields}
        if isinstance(events := self.fields.get("webhook_events"), str):  # of a form
            self.fields["webhook_events"] = [event.strip() for event in events.split(",")]
        self._preset()
        self._image()
        self._size()
        self._length()
        self.warnings += parameters.of_unknown([name for name in given if name not in KNOWN], KNOWN)

    def _put(self, ours: str, theirs: str, value: Any) -> None:
        if ours in self.fields:
            raise ValidationError({theirs: [f"Give {ours} or {theirs}, not both."]})
        self.fields[ours] = value
        self.names[ours] = theirs

    def _refuse(self) -> None:
        for name in ONE:
            if _number(self.given.get(name, 1)) != 1:
                raise ValidationError({name: ["One request makes one video; this must be 1."]})
        for name in OFF:
            if str(self.given.get(name, False)).lower() not in ("false", "0", "no", "off"):
                raise ValidationError({name: ["This is not available; leave it away, or send false."]})
        for name, why in REFUSED.items():
            if name in self.given:
                raise ValidationError({name: [why]})
        for name, value in self.given.items():
            if isinstance(value, str) and "\ufffd" in value:
                raise ValidationError({name: ["This is not text in UTF-8."]})

    def _preset(self) -> None:
        """``model`` names a preset. Any other name stands for the default one: clients send what they were
        written for. What that one does not take is ignored, as it would be by another server."""
        model = self.given.get("model")
        if "preset" not in self.fields and model is not None:
            if model in parameters.preset_names():
                self._put("preset", "model", model)
            else:
                self.warnings.append("model: there is no such preset, and the default one was taken.")
        try:
            preset = parameters.find_preset(self.fields.get("preset"))
        except (ValidationError, TypeError):
            return  # the field itself tells of it
        for name in OF_A_PRESET:
            if name in self.fields and name not in preset.limits:
                del self.fields[name]
                theirs = self.names.pop(name, name)
                self.warnings.append(f"{theirs} was ignored: the preset {preset.name} does not take it.")

    def _image(self) -> None:
        given = [name for name in IMAGES if name in self.given]
        own = [name for name in ("image_url", "image_base64") if name in self.fields]
        if len(given + own) > 1 and given:
            raise ValidationError({given[0]: ["Give one image, in one field."]})
        for name in given:
            value = _reference(name, self.given[name])
            self.names["image"] = name
            if isinstance(value, Upload):
                self._put("image_file", name, value)
            elif value[:5].lower() == "data:":
                self._put("image_base64", name, value)
            else:
                self._put("image_url", name, value)

    def _size(self) -> None:
        """As vLLM-Omni: ``size`` comes before width and height, and both are rounded down to multiples of 16.
        Without any, the video of an image has its shape."""
        asked = [name for name in SHAPES if name in self.given]
        if "size" in self.fields:
            self.warnings += [f"{name} was ignored, since there is a size." for name in asked]
        elif "width" in asked or "height" in asked:
            both = [_number(self.given.get(name)) for name in ("width", "height")]
            for name, value in zip(("width", "height"), both, strict=True):
                if not isinstance(value, int):
                    raise ValidationError({name: ["Give width and height, two whole numbers; or a size."]})
            self._put("size", "width", "{}x{}".format(*both))
        elif "short_edge" in asked:
            raise ValidationError({"short_edge": ["This is not available; give a size."]})
        elif "aspect_ratio" in asked and self.given["aspect_ratio"] != "auto":
            self._put("size", "aspect_ratio", _of_ratio(self.given["aspect_ratio"]))
        elif any(name.startswith("image_") for name in self.fields):
            self.fields["size"] = "auto"
        size = self.fields.get("size")
        if isinstance(size, str) and (match := re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", size, re.ASCII)):
            rounded = "x".join(str(int(side) // sizes.STEP * sizes.STEP) for side in match.groups())
            if rounded != size:
                self.warnings.append(f"The size was rounded down to {rounded}.")
                self.fields["size"] = rounded

    def _length(self) -> None:
        """As vLLM-Omni: num_frames comes before seconds, which count at ``fps`` if that is given; and frames
        are rounded to 4n+1."""
        frames, seconds = self.fields.get("num_frames"), self.fields.get("seconds")
        fps = self.fields.get("fps")
        if frames is not None and seconds is not None:
            del self.fields["seconds"]
            self.warnings.append("seconds was ignored, since there is num_frames.")
        if frames is None and isinstance(seconds, int | float) and isinstance(fps, int) and fps > 0:
            del self.fields["seconds"]
            self.fields["num_frames"] = _frames(seconds, fps)
            self.names["num_frames"] = "seconds"
        elif isinstance(frames, int) and frames > 0 and frames % 4 != 1:
            self.fields["num_frames"] = frames // 4 * 4 + 1
            self.warnings.append(f"num_frames was rounded to {self.fields['num_frames']}.")


def _frames(seconds: float, fps: int) -> int:
    least, most = parameters.FEWEST_FRAMES, settings.MAX_FRAMES
    frames = int(min(max(seconds, 0), most) * fps)
    frames = frames if frames % 4 == 1 else frames // 4 * 4 + 1
    if not least <= frames <= most:
        shortest, longest = (f"{count / fps:.2f}".rstrip("0").rstrip(".") for count in (least, most))
        raise ValidationError(
            {"seconds": [f"At {fps} frames per second this must be from {shortest} to {longest}."]}
        )
    return frames


def _flat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value. Of a form, ``a[b]`` becomes the field ``a`` with an object."""
    if not isinstance(body, QueryDict):
        return {name: value for name, value in body.items() if value not in ABSENT}
    found: dict[str, Any] = {}
    for name, sent in body.lists():
        values = [value for value in sent if value not in ABSENT]
        outer, bracket, inner = name.removesuffix("]").partition("[")
        if values and outer in KNOWN and (len(values) > 1 or (outer in found and not bracket)):
            raise ValidationError({outer: ["Give it once."]})
        if values and not bracket:
            found[name] = values[0]
        elif values:
            inside = found.setdefault(outer, {})
            if not isinstance(inside, dict):
                raise ValidationError({outer: ["Give it once."]})
            inside[inner] = values[0]
    return found


def _number(value: Any) -> Any:
    """The number, if it is a text that holds one; else what it is."""
    if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", value, re.ASCII):
        return value
    number = float(value)
    return int(value) if "." not in value else int(number) if number.is_integer() else number


def _reference(name: str, value: Any) -> Upload | str:
    """The image's file, or its URL. A path is never read: it would be one of this server."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValidationError({name: ["This is not JSON."]}) from None
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if isinstance(value, dict) and value.get("file_id"):
        raise ValidationError({name: ["Files cannot be stored here; send the image itself, or its URL."]})
    if isinstance(value, dict):
        value = value.get("image_url")
        value = value.get("url") if isinstance(value, dict) else value
    if isinstance(value, Upload):
        return value
    if isinstance(value, str) and re.match("https?://|data:", value, re.IGNORECASE):
        return value
    raise ValidationError({name: ["Send one image: a file, a data URL, or an http or https URL."]})


def _of_ratio(ratio: Any) -> str:
    match = re.fullmatch("([0-9]{1,4}):([0-9]{1,4})", ratio, re.ASCII) if isinstance(ratio, str) else None
    if not match or "0" in (match[1].strip("0") or "0", match[2].strip("0") or "0"):
        raise ValidationError({"aspect_ratio": ["This must be two numbers, such as 16:9."]})
    if ratio in TRAINED:
        return TRAINED[ratio]
    width, height = sizes.of_area(sizes.AREAS["480p"], int(match[1]) / int(match[2]))
    return f"{width}x{height}"
