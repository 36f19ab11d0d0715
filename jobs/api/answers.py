"""What the API answers: each serializer shows a job, or the service, as the reference describes it."""

from datetime import UTC
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from jobs.media import storage
from jobs.models import Job
from jobs.queue import engines, estimate
from wanapi import timestamps

TIMESTAMP = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$"

# The four states of the API reference, and which rows show as each. A cancelled job shows as failed, since
# clients that follow the reference know no other state at which to stop asking.
SHOWN_AS = {
    "queued": ["queued"],
    "processing": ["processing"],
    "completed": ["completed"],
    "failed": ["failed", "cancelled"],
}


@extend_schema_field({"type": "string", "pattern": TIMESTAMP})
class Timestamp(serializers.DateTimeField):
    """UTC, six digits, no offset: the form of the API reference."""

    def __init__(self, **options: Any):
        super().__init__(format=timestamps.FORMAT, default_timezone=UTC, **options)


class ShownStatus(serializers.ChoiceField):
    def __init__(self, **options: Any):
        super().__init__(choices=list(SHOWN_AS), **options)

    def to_representation(self, status: str) -> str:
        return next(shown for shown, statuses in SHOWN_AS.items() if status in statuses)


@extend_schema_field({"type": ["string", "null"], "format": "uri"})
class VideoUrl(serializers.Field):
    """Signed anew on every read."""

    def __init__(self) -> None:
        super().__init__(source="*", help_text="Presigned S3 download URL (only when completed)")

    def to_representation(self, job: Job) -> str | None:
        return storage.link(job.video_key) if job.status == Job.Status.COMPLETED else None


@extend_schema_field({"type": ["string", "null"], "format": "uri"})
class PosterUrl(serializers.Field):
    """Signed anew on every read."""

    def __init__(self) -> None:
        super().__init__(source="*", help_text="A JPEG of the first frame, at most 416 pixels wide")

    def to_representation(self, job: Job) -> str | None:
        return storage.link(job.poster_key) if job.status == Job.Status.COMPLETED else None


@extend_schema_field({"type": ["string", "null"]})
class ErrorText(serializers.Field):
    def __init__(self) -> None:
        super().__init__(help_text="Error message (only when failed)")

    def to_representation(self, text: str) -> str | None:
        return text or None


class Submitted(serializers.Serializer):
    """What POST /generate answers; the same again when it is repeated with its Idempotency-Key."""

    job_id = serializers.UUIDField(source="pk", help_text="Unique job identifier")
    status = serializers.ChoiceField(choices=["queued"], source="Status.QUEUED")  # as at the submit
    position = serializers.IntegerField(
        source="first_position", min_value=0, help_text="Position in the queue (0 = next to be processed)"
    )


class Preset(serializers.Serializer):
    """One of GET /presets: what may be asked of it."""

    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    default = serializers.BooleanField(help_text="Whether it is taken when a request names none")
    kinds = serializers.DictField(
        child=serializers.DictField(), help_text="Each kind of job with its parameters: default and limits"
    )
    ready = serializers.ListField(
        child=serializers.CharField(), help_text="The kinds that some GPU server can render now"
    )
    render_seconds = serializers.FloatField(
        allow_null=True, help_text="The median of the last day's renders; null if there were none"
    )


class JobStatus(serializers.Serializer):
    job_id = serializers.UUIDField(source="pk")
    status = ShownStatus()
    video_url = VideoUrl()
    error = ErrorText()


class ListedJob(serializers.Serializer):
    job_id = serializers.UUIDField(source="pk")
    status = ShownStatus()
    prompt = serializers.CharField(help_text="The original prompt")
    video_url = VideoUrl()
    error = ErrorText()
    created_at = Timestamp()


class WholeJob(serializers.Serializer):
    """Everything there is to tell about a job."""

    job_id = serializers.UUIDField(source="pk")
    status = serializers.ChoiceField(choices=Job.Status.choices)
    kind = serializers.ChoiceField(choices=Job.Kind.choices)
    prompt = serializers.CharField()
    position = serializers.SerializerMethodField()
    progress = serializers.IntegerField(min_value=0, max_value=100, help_text="Percent of the sampling steps")
    eta_seconds = serializers.SerializerMethodField(help_text="Until completed; null if it cannot be told")
    attempt = serializers.IntegerField(min_value=0, help_text="How often a worker took the job up")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    video_url = VideoUrl()
    poster_url = PosterUrl()
    error = ErrorText()
    parameters = serializers.DictField(
        source="shown_parameters", help_text="All that it is rendered with: what was asked, or the default"
    )
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="What of the request was ignored or has no effect"
    )
    waiting_for = serializers.SerializerMethodField(help_text="Why no GPU server can begin it now")

    @extend_schema_field({"type": ["integer", "null"], "minimum": 0})
    def get_eta_seconds(self, job: Job) -> int | None:
        return estimate.seconds_left(job)

    def get_waiting_for(self, job: Job) -> str | None:
        return engines.hindrance(job)

    def get_position(self, job: Job) -> int | None:
        return job.position if job.status == Job.Status.QUEUED else None


class Health(serializers.Serializer):
    status = serializers.ChoiceField(choices=["ok"])
    model_loaded = serializers.BooleanField(help_text="Whether the model is ready for inference")
    current_job = serializers.UUIDField(allow_null=True, help_text="The job being processed, if any")


class Live(serializers.Serializer):
    status = serializers.ChoiceField(choices=["ok"])


class Ready(serializers.Serializer):
    status = serializers.ChoiceField(choices=["ok", "unavailable"])
    parts = serializers.DictField(child=serializers.CharField(allow_null=True))


class Error(serializers.Serializer):
    detail = serializers.CharField(help_text="One sentence")
    errors = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(child=serializers.CharField()), required=False, help_text="By field"
    )
