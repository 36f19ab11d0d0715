"""What /openapi.json says of each operation beyond what its serializers show: errors, headers, examples."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
)

from jobs.api import answers, requests, waiting

ERRORS = {
    400: "The body, the query or the image cannot be used; the sentence says why.",
    401: "No API key, or one that is wrong, revoked or expired.",
    403: "The key lacks the right to all jobs.",
    404: "There is no such job, or it is another key's.",
    409: "The job's state does not allow it.",
    411: "The body came without a Content-Length.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    414: "The address is too long.",
    415: "The body is no application/json, or has a Content-Encoding.",
    422: "The Idempotency-Key was used with another body.",
    429: "A limit of the key is reached.",
    503: "The database, the storage or the queue cannot take it now; try again later.",
}
# One answer of each, as it comes.
SENTENCES = {
    400: "prompt: This field is required.",
    401: "Send a valid API key in the X-API-Key header.",
    403: "This key may not see the metrics: it needs the right to all jobs.",
    404: "There is no job with this id.",
    408: "The request body came too slowly.",
    409: "The job is finished (completed) and cannot be cancelled.",
    411: "Send the body with a Content-Length; chunked bodies are not accepted.",
    413: "The request body is too large.",
    414: "The address is too long.",
    415: "Send the body as application/json, and say so in the Content-Type header.",
    422: "This Idempotency-Key was used with another request body; use a new key.",
    429: "This key has 100 jobs queued, its limit is 100.",
    503: "The database is not available; please try again later.",
}

WRONG_STATE = "status: This must be queued, processing, completed or failed."
NOT_FINISHED = "The job is queued; cancel it before you delete it."
NO_VIDEO_YET = "The job is queued; there is a video when it is completed."

# The groups of /docs; SPECTACULAR_SETTINGS has their order.
MAKE, JOBS, SERVICE = ("Make a video", "Your jobs", "The service")

JOB_ID = OpenApiParameter(
    "job_id", {"type": "string", "format": "uuid"}, OpenApiParameter.PATH, description="The job identifier."
)
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[ -~]{1,255}$"},
    OpenApiParameter.HEADER,
    description="The same key with the same body makes no second job; the first answer comes again.",
)
RETRY_AFTER = OpenApiParameter(
    "Retry-After",
    {"type": "integer", "minimum": 1},
    OpenApiParameter.HEADER,
    description="Seconds after which to come back.",
    response=[429, 503],
)

WAIT = OpenApiParameter(
    "wait",
    {"type": "integer", "minimum": 0, "maximum": waiting.LONGEST},
    description="Seconds for which the answer may wait until the job is final; with If-None-Match, until "
    "anything changes.",
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    str,
    OpenApiParameter.HEADER,
    description="The ETag of an earlier answer: if nothing changed since, a 304.",
)
ETAG = OpenApiParameter(
    "ETag",
    str,
    OpenApiParameter.HEADER,
    description="Stands for the job's state, without links, position and time left.",
    response=[200, 304],
)
COME_BACK = OpenApiParameter(
    "Retry-After",
    {"type": "integer", "minimum": 1},
    OpenApiParameter.HEADER,
    description="Seconds after which to wait again, if too many clients wait now.",
    response=[200, 304],
)
WAITING = [WAIT, IF_NONE_MATCH, ETAG, COME_BACK]
UNCHANGED = {304: OpenApiResponse(description="Nothing changed since the answer with this ETag.")}

_ID = "550e8400-e29b-41d4-a716-446655440000"
_LINK = "https://s3.amazonaws.com/..."
_CAT = "A cat dancing on the moon"
_WAVE = "Make this character wave hello"
_IMAGE = (  # a PNG of 16x16 pixels
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR4"
    "2mP8dNCPgRTAxEAiGNUwqmHoaAAAVBwCIdU8R1sAAAAASUVORK5CYII="
)


def submit(view: Any) -> Any:
    return extend_schema(
        operation_id="generate",
        tags=[MAKE],
        summary="Submit a video generation job",
        description="Text-to-video, or image-to-video if an image is given. `image_base64` takes precedence.",
        parameters=[IDEMPOTENCY_KEY, RETRY_AFTER],
        request=requests.GenerateRequest,
        responses=_answers(answers.Submitted, 400, 401, 408, 411, 413, 415, 422, 429, 503),
        examples=[
            _asked("Text-to-video", {"prompt": _CAT}),
            _asked(
                "Image-to-video (URL)", {"prompt": _WAVE, "image_url": "https://example.com/character.jpg"}
            ),
            _asked("Image-to-video (Base64)", {"prompt": _WAVE, "image_base64": _IMAGE}),
            _answered("Queued", {"job_id": _ID, "status": "queued", "position": 0}),
        ],
    )(view)


def status(view: Any) -> Any:
    return extend_schema(
        operation_id="status",
        tags=[MAKE],
        summary="Check a job's status",
        description="The `video_url` expires after an hour (a setting); each call gives a fresh one.",
        parameters=[JOB_ID, *WAITING],
        responses=_answers(answers.JobStatus, 400, 401, 404, 414, 503) | UNCHANGED,
        examples=[
            _answered("Completed", {"job_id": _ID, "status": "completed", "video_url": _LINK, "error": None})
        ],
    )(view)


def list_jobs(view: Any) -> Any:
    return extend_schema(
        operation_id="list_jobs",
        tags=[JOBS],
        summary="List jobs, newest first",
        description="Those that the key may see.",
        parameters=[requests.JobsQuery],
        responses=_answers(answers.ListedJob(many=True), 400, 401, 414, 503, told={400: WRONG_STATE}),
        examples=[
            _answered(
                "One job",
                {
                    "job_id": _ID,
                    "status": "completed",
                    "prompt": _CAT,
                    "video_url": _LINK,
                    "error": None,
                    "created_at": "2026-02-21T15:01:21.000000",
                },
            )
        ],
    )(view)


def job(view: Any) -> Any:
    return extend_schema(
        operation_id="job",
        tags=[MAKE],
        summary="Everything about one job",
        description="Its stage, progress and times; here a cancelled job is `cancelled`.",
        parameters=[JOB_ID, *WAITING],
        responses=_answers(answers.WholeJob, 400, 401, 404, 414, 503) | UNCHANGED,
    )(view)


def delete(view: Any) -> Any:
    return extend_schema(
        operation_id="delete_job",
        tags=[JOBS],
        summary="Remove a finished job",
        description="Its row, its video and its image, for good.",
        parameters=[JOB_ID],
        responses={204: OpenApiResponse(description="It is gone.")}
        | _errors(401, 404, 409, 503, told={409: NOT_FINISHED}),
    )(view)


def cancel(view: Any) -> Any:
    return extend_schema(
        operation_id="cancel_job",
        tags=[JOBS],
        summary="Cancel a job",
        description="One that is queued or processing. `/status` and `/jobs` show it as `failed`.",
        parameters=[JOB_ID],
        request=None,
        responses=_answers(answers.WholeJob, 401, 404, 409, 503),
    )(view)


def content(view: Any) -> Any:
    return extend_schema(
        operation_id="content",
        tags=[MAKE],
        summary="The video",
        description="A redirect to its link. Many HTTP clients send their own headers, the key too, along "
        "with a redirect; `video_url` avoids that.",
        parameters=[JOB_ID],
        responses={302: OpenApiResponse(description="To the presigned link.")}
        | _errors(401, 404, 409, 503, told={409: NO_VIDEO_YET}),
    )(view)


def poster(view: Any) -> Any:
    return extend_schema(
        operation_id="poster",
        tags=[MAKE],
        summary="The first frame",
        description="A redirect to a JPEG of at most 416 pixels in width and height.",
        parameters=[JOB_ID],
        responses={302: OpenApiResponse(description="To the presigned link.")}
        | _errors(401, 404, 409, 503, told={409: NO_VIDEO_YET}),
    )(view)


def presets(view: Any) -> Any:
    return extend_schema(
        operation_id="presets",
        tags=[MAKE],
        summary="What may be asked for",
        description="Each preset with its kinds of job, and their parameters with defaults and limits.",
        responses=_answers(answers.Preset(many=True), 401, 503),
    )(view)


def health(view: Any) -> Any:
    return extend_schema(
        operation_id="health",
        tags=[SERVICE],
        summary="Check if the server is running and the model is loaded",
        description="Needs no key, and answers within seconds also when the database does not.",
        auth=[],
        responses={200: answers.Health},
        examples=[_answered("Idle", {"status": "ok", "model_loaded": True, "current_job": None})],
    )(view)


def live(view: Any) -> Any:
    return extend_schema(
        operation_id="live",
        tags=[SERVICE],
        summary="Whether the process answers",
        description="Needs no key.",
        auth=[],
        responses={200: answers.Live},
    )(view)


def ready(view: Any) -> Any:
    return extend_schema(
        operation_id="ready",
        tags=[SERVICE],
        summary="Whether a job could be accepted and rendered now",
        description="By part: null, or a sentence. Needs no key.",
        auth=[],
        responses={200: answers.Ready, 503: answers.Ready},
    )(view)


def metrics(view: Any) -> Any:
    return extend_schema(
        operation_id="metrics",
        tags=[SERVICE],
        summary="Counters for Prometheus",
        description="Needs a key with the right to all jobs; on METRICS_PORT none.",
        responses={(200, "text/plain"): str} | _errors(401, 403),
    )(view)


def _answers(success: Any, *errors: int, told: Mapping[int, str] | None = None) -> dict[int, Any]:
    return {200: success} | _errors(*errors, told=told)


def _errors(*statuses: int, told: Mapping[int, str] | None = None) -> dict[int, OpenApiResponse]:
    """``told``: sentences of this operation, in place of those in SENTENCES."""
    sentences = SENTENCES | dict(told or {})
    return {
        status: OpenApiResponse(answers.Error, ERRORS[status], examples=[_refused(status, sentences[status])])
        for status in statuses
    }


def _refused(status: int, sentence: str) -> OpenApiExample:
    field, _, reason = sentence.partition(": ")
    errors = {"errors": {field: [reason]}} if status == 400 else {}
    answer = {"detail": sentence} | errors
    return OpenApiExample(f"Refused with {status}", answer, response_only=True, status_codes=[str(status)])


def _asked(name: str, value: Any) -> OpenApiExample:
    return OpenApiExample(name, value, request_only=True)


def _answered(name: str, value: Any) -> OpenApiExample:
    return OpenApiExample(name, value, response_only=True, status_codes=["200"])


class KeyScheme(OpenApiAuthenticationExtension):
    target_class = "jobs.api.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "X-API-Key"}


def without_slash(endpoints: list[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """A trailing slash is accepted everywhere; the schema tells the form of the reference."""
    return [(path.rstrip("/"), regex, method, view) for path, regex, method, view in endpoints]


def without_marks(result: Any, **_: Any) -> Any:
    """Removes the marks that drf-spectacular puts on states for a hook of its own, which is not used here."""
    if isinstance(result, dict):
        result.pop("x-spec-enum-id", None)
    for part in result.values() if isinstance(result, dict) else result if isinstance(result, list) else ():
        without_marks(part)
    return result
