"""What may stand in a request. Checks text alone: nothing here opens a connection or reads an image."""

import uuid
from functools import partial
from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request

from jobs.api import webhooks
from jobs.api.answers import SHOWN_AS
from jobs.api.intake import ImageSource
from jobs.media.images import from_base64
from jobs.media.public import fetch
from jobs.queue import parameters

MAX_PROMPT = 10_000
MAX_URL = 8192
MAX_LISTED = 1000


class StrictCharField(serializers.CharField):
    """Text only: DRF would turn numbers into it."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.")
        return super().to_internal_value(data)


class TextField(StrictCharField):
    """Up to MAX_PROMPT characters, not counting white space at its ends, but stored as sent."""

    def __init__(self, **options: Any):
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if len(text.strip()) > MAX_PROMPT:
            raise serializers.ValidationError(f"This must have at most {MAX_PROMPT:,} characters.")
        if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise serializers.ValidationError("This must not hold NUL characters or lone surrogates.")
        return text


@extend_schema_field({"type": "string", "maxLength": MAX_PROMPT})
class NegativePromptField(TextField):
    pass


@extend_schema_field(
    {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}
)
class PromptField(TextField):
    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, str) and not 1 <= len(data.strip()) <= MAX_PROMPT:
            raise serializers.ValidationError(f"The prompt must have 1 to {MAX_PROMPT:,} characters.")
        return super().to_internal_value(data)


class WholeNumber(serializers.IntegerField):
    """A JSON number without a fraction; DRF's own field takes text and true as well."""

    def __init__(self, least: int | None = None, most: int | None = None, **options: Any):
        sentence = f"This must be from {least} to {most}."
        messages: dict[str, Any] = {"min_value": sentence, "max_value": sentence}
        super().__init__(min_value=least, max_value=most, error_messages=messages, **options)

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int | float) or data % 1 != 0:
            raise serializers.ValidationError("This must be a whole number.")
        return int(data)


class Number(serializers.FloatField):
    """A JSON number; DRF's own field takes text and true as well."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise serializers.ValidationError("This must be a number.")
        return data


class Choice(serializers.ChoiceField):
    def __init__(self, choices: list[str], **options: Any):
        right = f"This must be {', '.join(choices[:-1])} or {choices[-1]}."
        super().__init__(choices=choices, error_messages={"invalid_choice": right}, **options)


class ImageUrlField(StrictCharField):
    def __init__(self, **options: Any):
        super().__init__(
            max_length=MAX_URL,
            error_messages={"max_length": f"The URL must have at most {MAX_URL:,} characters."},
            **OPTIONAL_TEXT,
            **options,
        )


class WebhookUrlField(ImageUrlField):
    def to_internal_value(self, data: Any) -> str:
        url = super().to_internal_value(data)
        if url:
            webhooks.check(url)
        return url


OPTIONAL: dict[str, Any] = {"required": False, "allow_null": True}
OPTIONAL_TEXT: dict[str, Any] = OPTIONAL | {"allow_blank": True}


class GenerateRequest(serializers.Serializer):
    """The body of POST /generate. What depends on the preset is checked in ``jobs/queue/parameters.py``."""

    prompt = PromptField(help_text="Text description of the video to generate")
    image_url = ImageUrlField(
        help_text="URL of a reference image for image-to-video generation: PNG, JPEG or WebP"
    )
    image_base64 = StrictCharField(
        help_text="The same as Base64; takes precedence over image_url", **OPTIONAL_TEXT
    )
    last_image_url = ImageUrlField(help_text="URL of an image for the last frame")
    last_image_base64 = StrictCharField(
        help_text="The same as Base64; takes precedence over last_image_url", **OPTIONAL_TEXT
    )
    preset = StrictCharField(help_text="A name of GET /presets", max_length=100, **OPTIONAL_TEXT)
    seed = WholeNumber(*parameters.SEED, help_text="Drawn when absent", **OPTIONAL)
    negative_prompt = NegativePromptField(
        help_text="What the video should not show; the preset's own text when absent", **OPTIONAL_TEXT
    )
    size = StrictCharField(
        help_text="832x480, another WIDTHxHEIGHT, 480p, 720p, or auto", max_length=20, **OPTIONAL_TEXT
    )
    fit = Choice(
        ["cut", "pad"],
        help_text="What to do with an image whose aspect is not the size's",
        **OPTIONAL_TEXT,
    )
    num_frames = WholeNumber(help_text="4n+1, from 5", **OPTIONAL)
    seconds = Number(help_text="The length in place of num_frames, at the preset's rate", **OPTIONAL)
    fps = WholeNumber(*parameters.FPS, help_text="Playback rate; the frames are the same", **OPTIONAL)
    steps = WholeNumber(help_text="Sampling steps, where the preset takes them", **OPTIONAL)
    guidance_scale = Number(help_text="Where the preset takes it", **OPTIONAL)
    guidance_scale_2 = Number(help_text="Of the low noise expert; guidance_scale when absent", **OPTIONAL)
    flow_shift = Number(help_text="Where the preset takes it", **OPTIONAL)
    webhook_url = WebhookUrlField(help_text="Where the job's end is told, signed: an https URL")
    webhook_events = serializers.ListField(
        child=serializers.ChoiceField(choices=webhooks.EVENTS),
        help_text="What is told; all but job.started when absent",
        allow_empty=False,
        max_length=len(webhooks.EVENTS),
        **OPTIONAL,
    )

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        """What jobs.api.intake takes: ``prompt``; ``image`` and ``last_image``, an ImageSource or None;
        ``asked``, the parameters that were given; and ``webhook``, its fields that were given."""
        images = {name: _image(name, data) for name in ("image", "last_image")}
        asked = {
            name: value for name, value in data.items() if name in PARAMETERS and value not in (None, "")
        }
        webhook = {name: data[name] for name in WEBHOOK if data.get(name)}
        return {"prompt": data["prompt"], **images, "asked": asked, "webhook": webhook}


WEBHOOK = ("webhook_url", "webhook_events")
PARAMETERS = GenerateRequest().fields.keys() - {
    *("prompt", "image_url", "image_base64", "last_image_url", "last_image_base64", *WEBHOOK)
}


def _image(name: str, data: dict[str, Any]) -> ImageSource | None:
    if text := data.get(f"{name}_base64"):
        return ImageSource(f"{name}_base64", partial(from_base64, text))
    if url := data.get(f"{name}_url"):
        return ImageSource(f"{name}_url", partial(fetch, url))
    return None


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ParseError("The Idempotency-Key must have 1 to 255 printable ASCII characters.")
    return key


def is_repeated(request: Request) -> bool:
    """Whether a library of OpenAI says that it sends this request again."""
    count = request.headers.get("X-Stainless-Retry-Count", "")
    return count.isascii() and count.isdigit() and bool(count.strip("0"))


@extend_schema_field({"type": "integer", "minimum": 1})
class LimitField(serializers.Field):
    def __init__(self, most: int = MAX_LISTED, **options: Any):
        self.most = most
        super().__init__(**options)

    def to_representation(self, limit: int) -> int:
        return limit

    def to_internal_value(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise serializers.ValidationError("This must be a whole number.")
        digits = text.lstrip("0")
        if not digits:
            raise serializers.ValidationError("The limit must be at least 1.")
        return min(int(digits[:5]), self.most)


class JobsQuery(serializers.Serializer):
    """The query of GET /jobs."""

    status = Choice(list(SHOWN_AS), required=False, help_text="Filter by status")
    limit = LimitField(
        default=100, help_text=f"Maximum number of jobs to return; more than {MAX_LISTED} is taken as that"
    )


def single_values(query: QueryDict) -> dict[str, str]:
    """Each name with its value. A name that is given twice is refused: no value can be preferred."""
    for name, values in query.lists():
        if len(values) > 1:
            raise serializers.ValidationError({name: ["Give it once."]})
    return {name: str(value) for name, value in query.items()}


def job_id(text: str) -> uuid.UUID | None:
    """Only the canonical form: uuid.UUID() takes braces, URNs and missing dashes as well."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
