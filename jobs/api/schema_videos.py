"""What /openapi.json says of /v1/videos and /v1/models."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema

from jobs.api.schema import ERRORS


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
MODELS = _object(
    object={"enum": ["list"]},
    data={
        "type": "array",
        "items": _object(id=TEXT, object={"enum": ["model"]}, created=TIME, owned_by=TEXT),
    },
)


def _errors(*statuses: int) -> dict[int, OpenApiResponse]:
    return {status: OpenApiResponse(ERROR, ERRORS[status]) for status in statuses}


def create(view: Any) -> Any:
    return extend_schema(operation_id="create_video", responses={200: VIDEO})(view)


def list_videos(view: Any) -> Any:
    return extend_schema(operation_id="list_videos", responses={200: LIST})(view)


def retrieve(view: Any) -> Any:
    return extend_schema(operation_id="video", responses={200: VIDEO})(view)


def delete(view: Any) -> Any:
    return extend_schema(operation_id="delete_video", responses={200: DELETED})(view)


def content(view: Any) -> Any:
    return extend_schema(operation_id="video_content", responses={302: None})(view)


def models(view: Any) -> Any:
    return extend_schema(operation_id="models", responses={200: MODELS})(view)
