"""What may stand in a request. Checks text alone: nothing here opens a connection or reads an image."""

import uuid
from functools import partial
from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request

from jobs.api.answers import SHOWN_AS
from jobs.api.intake import ImageSource
from jobs.media.images import from_base64
from jobs.media.public import fetch

MAX_PROMPT = 10_000
MAX_URL = 8192
MAX_LISTED = 1000


class StrictCharField(serializers.CharField):
    """Text only: DRF would turn numbers into it."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.")
        return super().to_internal_value(data)


@extend_schema_field(
    {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}
)
class PromptField(StrictCharField):
    """1 to MAX_PROMPT characters, not counting white space at its ends, but stored as sent."""

    def __init__(self, **options: Any):
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        prompt = super().to_internal_value(data)
        if not 1 <= len(prompt.strip()) <= MAX_PROMPT:
            raise serializers.ValidationError(f"The prompt must have 1 to {MAX_PROMPT:,} characters.")
        if "\x00" in prompt or any("\ud800" <= character <= "\udfff" for character in prompt):
            raise serializers.ValidationError("The prompt must not hold NUL characters or lone surrogates.")
        return prompt


class GenerateRequest(serializers.Serializer):
    """The body of POST /generate."""

    prompt = PromptField(help_text="Text description of the video to generate")
    image_url = StrictCharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        max_length=MAX_URL,
        error_messages={"max_length": f"The URL must have at most {MAX_URL:,} characters."},
        help_text="URL of a reference image for image-to-video generation: PNG, JPEG or WebP",
    )
    image_base64 = StrictCharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="The same as Base64; takes precedence over image_url",
    )

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        """What jobs.api.intake takes: ``prompt``, and ``image``, an ImageSource or None."""
        image = None
        if text := data.get("image_base64"):
            image = ImageSource("image_base64", partial(from_base64, text))
        elif url := data.get("image_url"):
            image = ImageSource("image_url", partial(fetch, url))
        return {"prompt": data["prompt"], "image": image}


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ParseError("The Idempotency-Key must have 1 to 255 printable ASCII characters.")
    return key


@extend_schema_field({"type": "integer", "minimum": 1})
class LimitField(serializers.Field):
    def to_representation(self, limit: int) -> int:
        return limit

    def to_internal_value(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise serializers.ValidationError("This must be a whole number.")
        digits = text.lstrip("0")
        if not digits:
            raise serializers.ValidationError("The limit must be at least 1.")
        return min(int(digits[:5]), MAX_LISTED)


class JobsQuery(serializers.Serializer):
    """The query of GET /jobs."""

    status = serializers.ChoiceField(choices=list(SHOWN_AS), required=False, help_text="Filter by status")
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
