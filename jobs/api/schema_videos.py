"""What /openapi.json says of /v1/videos and /v1/models."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from jobs.api.schema import ERRORS, IDEMPOTENCY_KEY, JOB_ID, RETRY_AFTER, UNCHANGED, WAITING

OPENAI = "As at OpenAI"


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


TEXT: dict[str, Any] = {"type": "string"}
TIME = {"type": "integer", "minimum": 0}
MAYBE_TEXT = {"type": ["string", "null"]}
MAYBE_TIME = {"type": ["integer", "null"], "minimum": 0}
ERROR = _object(error=_object(message=TEXT, type=TEXT, param=MAYBE_TEXT, code=MAYBE_TEXT))
VIDEO = _object(
    id={"type": "string", "format": "uuid"},
    object={"enum": ["video"]},
    status={"enum": ["queued", "in_progress", "completed", "failed"]},
    progress={"type": "integer", "minimum": 0, "maximum": 100},
    created_at=TIME,
    completed_at=MAYBE_TIME,
    expires_at=MAYBE_TIME,
    model=TEXT,
    prompt=TEXT,
    seconds=TEXT,
    size=TEXT,
    error={"anyOf": [_object(code=TEXT, message=TEXT), {"type": "null"}]},
    remixed_from_video_id={"type": "null"},
)
LIST = _object(
    object={"enum": ["list"]},
    data={"type": "array", "items": VIDEO},
    has_more={"type": "boolean"},
    first_id=MAYBE_TEXT,
    last_id=MAYBE_TEXT,
)
DELETED = _object(id=TEXT, object={"enum": ["video.deleted"]}, deleted={"type": "boolean"})
MODEL = _object(id=TEXT, object={"enum": ["model"]}, created=TIME, owned_by=TEXT)
MODELS = _object(object={"enum": ["list"]}, data={"type": "array", "items": MODEL})

PROMPT = {"type": "string", "minLength": 1, "maxLength": 10_000, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}
FIELDS: dict[str, Any] = {
    "prompt": PROMPT,
    "model": {"description": "A name of GET /v1/models; any other one takes the default"},
    "seconds": {"type": ["string", "number", "null"], "description": "The length, such as 5"},
    "size": MAYBE_TEXT | {"description": "Such as 832x480, 480x832, 1280x720 or 720x1280"},
}
URL = {"type": ["string", "null"], "pattern": "^$|^[Hh][Tt][Tt][Pp][Ss]?://|^[Dd][Aa][Tt][Aa]:"}
FILE = {"type": "string", "format": "binary", "description": "An image for the first frame"}
IMAGE = {
    "anyOf": [URL, {"type": "object", "properties": {"image_url": URL}, "required": ["image_url"]}],
    "description": "The URL of an image for the first frame, or a data URL",
}


def _body(image: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": FIELDS | {"input_reference": image}, "required": ["prompt"]}


REPEATED = OpenApiParameter(
    "X-Stainless-Retry-Count",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description="Of OpenAI's libraries. Above 0: an equal request of the last 15 minutes is answered.",
)

PREFER = OpenApiParameter(
    "Prefer",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description="`wait=N`: the answer may wait N seconds, 50 at most, until the job is final.",
)


def create(view: Any) -> Any:
    return extend_schema(
        operation_id="create_video",
        tags=[OPENAI],
        summary="Submit a job, as at OpenAI, vLLM-Omni or SGLang",
        description="A form or JSON. The parameters of vLLM-Omni and SGLang, and our own, may stand in it as "
        "well (`docs/clients.md`).",
        parameters=[IDEMPOTENCY_KEY, REPEATED, PREFER, RETRY_AFTER],
        request={"multipart/form-data": _body(FILE), "application/json": _body(IMAGE)},
        responses={200: VIDEO} | _errors(400, 401, 408, 411, 413, 415, 422, 429, 503),
        examples=[
            OpenApiExample(
                "Text-to-video",
                {"prompt": "A cat dancing on the moon", "seconds": "5", "size": "832x480"},
                request_only=True,
            )
        ],
    )(view)


def list_videos(view: Any) -> Any:
    return extend_schema(
        operation_id="list_videos",
        tags=[OPENAI],
        summary="The jobs in pages, as at OpenAI",
        description="Those that the key may see, newest first; whichever way they were submitted.",
        parameters=[
            OpenApiParameter("after", {"type": "string", "format": "uuid"}, description="The page's last id"),
            OpenApiParameter("limit", {"type": "integer", "minimum": 1, "default": 20}),
            OpenApiParameter("order", {"enum": ["asc", "desc"], "default": "desc"}),
        ],
        responses={200: LIST} | _errors(400, 401, 414, 503),
    )(view)


def retrieve(view: Any) -> Any:
    return extend_schema(
        operation_id="retrieve_video",
        tags=[OPENAI],
        summary="One job, as OpenAI shows a video",
        description="A cancelled job is `failed`, with the code `cancelled`.",
        parameters=[JOB_ID, *WAITING],
        responses={200: VIDEO} | UNCHANGED | _errors(400, 401, 404, 414, 503),
    )(view)


def delete(view: Any) -> Any:
    return extend_schema(
        operation_id="delete_video",
        tags=[OPENAI],
        summary="Remove a job",
        description="For good. One that is not finished is cancelled first.",
        parameters=[JOB_ID],
        responses={200: DELETED} | _errors(401, 404, 503),
    )(view)


def content(view: Any) -> Any:
    return extend_schema(
        operation_id="video_content",
        tags=[OPENAI],
        summary="The MP4, or its first frame",
        description="A redirect to the signed link.",
        parameters=[
            JOB_ID,
            OpenApiParameter("variant", {"enum": ["video", "thumbnail"], "default": "video"}),
        ],
        responses={302: OpenApiResponse(description="To the presigned link.")}
        | _errors(400, 401, 404, 409, 414, 503),
    )(view)


def models(view: Any) -> Any:
    return extend_schema(
        operation_id="models",
        tags=[OPENAI],
        summary="The presets, as OpenAI lists models",
        responses={200: MODELS} | _errors(401, 503),
    )(view)


def _errors(*statuses: int) -> dict[int, OpenApiResponse]:
    return {status: OpenApiResponse(ERROR, ERRORS[status]) for status in statuses}
