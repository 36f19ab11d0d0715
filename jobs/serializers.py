"""Request fields in, public representations out."""

import hashlib
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request

from jobs import images, storage
from jobs.fetch import fetch
from jobs.models import Job

MAX_PROMPT = 10_000

# The four states of the reference, and the rows that show as each: its clients leave their loops on "failed".
SHOWN_AS = {
    "queued": ["queued"],
    "processing": ["processing"],
    "completed": ["completed"],
    "failed": ["failed", "cancelled"],
}


class StrictCharField(serializers.CharField):
    """Text only: DRF would turn numbers into it."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.")
        return super().to_internal_value(data)


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
    """The body of POST /generate. ``image`` in the validated data is the PNG for the model, or None."""

    prompt = PromptField()
    image_url = StrictCharField(required=False, allow_null=True, allow_blank=True)
    image_base64 = StrictCharField(required=False, allow_null=True, allow_blank=True)

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        image = None
        if data.get("image_base64"):
            image = self._image("image_base64", images.from_base64, data["image_base64"])
        elif data.get("image_url"):
            image = self._image("image_url", fetch, data["image_url"])
        return {"prompt": data["prompt"], "image": image}

    @staticmethod
    def _image(field: str, source: Any, value: str) -> bytes:
        try:
            return images.normalise(source(value))
        except images.BadImage as error:
            raise serializers.ValidationError({field: [str(error)]}) from None


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ParseError("The Idempotency-Key must have 1 to 255 printable ASCII characters.")
    return key


def fingerprint(data: dict[str, Any]) -> str:
    """Tells whether two bodies ask for the same job."""
    asked = [data.get("prompt"), data.get("image_url") or None, data.get("image_base64") or None]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


class JobsQuery(serializers.Serializer):
    """The query of GET /jobs."""

    MAX = 1000

    status = serializers.ChoiceField(choices=list(SHOWN_AS), required=False)
    limit = serializers.RegexField(
        r"^[0-9]+$", default="100", error_messages={"invalid": "This must be a whole number."}
    )

    def validate_limit(self, digits: str) -> int:
        limit = int(digits[-4:]) if not digits[:-4].strip("0") else self.MAX
        if limit < 1:
            raise serializers.ValidationError("The limit must be at least 1.")
        return min(limit, self.MAX)


def timestamp(moment: datetime | None) -> str | None:
    """UTC, six digits, no offset: the form of the API reference."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") if moment else None


def video_url(job: Job) -> str | None:
    """Signed anew on every read."""
    return storage.presign(job.video_key) if job.status == Job.Status.COMPLETED else None


def shown_status(job: Job) -> str:
    return next(shown for shown, statuses in SHOWN_AS.items() if job.status in statuses)


def submitted(job: Job) -> dict[str, Any]:
    return {"job_id": str(job.pk), "status": Job.Status.QUEUED, "position": job.first_position}


def status(job: Job) -> dict[str, Any]:
    return {
        "job_id": str(job.pk),
        "status": shown_status(job),
        "video_url": video_url(job),
        "error": job.error or None,
    }


def listed(job: Job) -> dict[str, Any]:
    return {
        "job_id": str(job.pk),
        "status": shown_status(job),
        "prompt": job.prompt,
        "video_url": video_url(job),
        "error": job.error or None,
        "created_at": timestamp(job.created_at),
    }


def everything(job: Job) -> dict[str, Any]:
    return {
        "job_id": str(job.pk),
        "status": job.status,
        "kind": job.kind,
        "prompt": job.prompt,
        "position": job.position if job.status == Job.Status.QUEUED else None,
        "progress": job.progress,
        "attempt": job.attempt,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "video_url": video_url(job),
        "error": job.error or None,
    }


def job_id(text: str) -> uuid.UUID | None:
    """Only the canonical form: uuid.UUID() takes braces, URNs and missing dashes as well."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
