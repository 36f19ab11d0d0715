"""Every error answer is JSON: ``{"detail": "<one sentence>"}``, plus ``errors`` by field for a bad body."""

import errno
import logging
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import exception_handler, set_rollback

from jobs.media.images import Busy, CannotRead
from jobs.media.storage import StorageError
from jobs.models.key import LimitReached
from jobs.queue.submit import QueueFull
from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)


class LengthRequired(exceptions.APIException):
    status_code = status.HTTP_411_LENGTH_REQUIRED
    default_detail = "Send the body with a Content-Length; chunked bodies are not accepted."


class TooSlow(exceptions.APIException):
    status_code = status.HTTP_408_REQUEST_TIMEOUT
    default_detail = "The request body came too slowly."


class PayloadTooLarge(exceptions.APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The request body is too large."


class WrongType(exceptions.APIException):
    status_code = status.HTTP_415_UNSUPPORTED_MEDIA_TYPE


class Conflict(exceptions.APIException):
    status_code = status.HTTP_409_CONFLICT


class KeyReused(exceptions.APIException):
    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_detail = "This Idempotency-Key was used with another request body; use a new key."


class TryLater(exceptions.APIException):
    """``wait``: seconds, for Retry-After."""

    def __init__(self, detail: str, wait: int | None = None):
        super().__init__(detail)
        self.wait = wait


class Unavailable(TryLater):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE


class TooManyJobs(TryLater):
    status_code = status.HTTP_429_TOO_MANY_REQUESTS


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(error, AWAY):
        logger.error("the database: %s", error)
        error = Unavailable("The database is not available; please try again later.")
    elif isinstance(error, StorageError):
        logger.error("S3: %s", error)
        error = Unavailable("The video storage is not available; please try again later.")
    elif isinstance(error, QueueFull):
        error = Unavailable(error.message, error.wait)
    elif isinstance(error, LimitReached):
        error = TooManyJobs(error.message, error.wait)
    elif isinstance(error, Busy):
        error = Unavailable("Too many images are being taken in at the moment; please try again shortly.", 5)
    elif isinstance(error, CannotRead):
        error = Unavailable("The server cannot read images at the moment; please try again later.")
    elif isinstance(error, RequestDataTooBig):
        error = PayloadTooLarge()
    elif isinstance(error, UnreadablePostError):
        error = _unreadable(error)
    elif isinstance(error, exceptions.UnsupportedMediaType) and "Content-Encoding" not in error.detail:
        kinds = " or ".join(parser.media_type for parser in context["view"].parser_classes)
        error = WrongType(f"Send the body as {kinds}, and say so in the Content-Type header.")
    elif isinstance(error, exceptions.ValidationError):
        set_rollback()
        return _invalid(error.detail)
    return exception_handler(error, context)


CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "idempotency_key_reused",
    429: "rate_limit_exceeded",
    503: "unavailable",
}
PATIENCE = 120  # seconds; for a longer Retry-After the libraries of OpenAI give up


def handle_as_openai(error: Exception, context: dict[str, Any]) -> Response | None:
    """The same answers in OpenAI's form."""
    response = handle(error, context)
    if response is None:
        return None
    status = response.status_code
    param = next(iter(response.data.get("errors", ())), None)
    wait = int(response.headers.get("Retry-After", 0))
    response.data = _as_openai(status, response.data["detail"], param)
    if status < 500 and (status not in (408, 429) or wait > PATIENCE):
        response["X-Should-Retry"] = "false"
    return response


def _as_openai(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    kind = (
        "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    )
    code = CODES.get(status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _unreadable(error: UnreadablePostError) -> exceptions.APIException:
    """The error for a body that did not come whole, by the number that wanapi/slow_clients.py gave it."""
    if error.errno == errno.EBUSY:
        return Unavailable("Too many clients send slowly at the moment; please try again shortly.", 5)
    if error.errno == errno.ETIMEDOUT:
        return TooSlow()
    return exceptions.ParseError("The request body ended early.")


def _invalid(detail: Any) -> Response:
    """An answer with the first field's first message as its sentence, and all messages by field."""
    if not isinstance(detail, dict):
        return Response({"detail": _text(detail)}, status.HTTP_400_BAD_REQUEST)
    errors = {field: [str(text) for text in texts] for field, texts in detail.items()}
    field, texts = next(iter(errors.items()))
    if field == "non_field_errors":
        return Response({"detail": texts[0]}, status.HTTP_400_BAD_REQUEST)
    return Response({"detail": f"{field}: {texts[0]}", "errors": errors}, status.HTTP_400_BAD_REQUEST)


def _text(detail: Any) -> str:
    return " ".join(str(text) for text in detail) if isinstance(detail, list) else str(detail)


# Django's own handlers, for what never reaches a view of the API


def _answer(request: HttpRequest, code: int, detail: str) -> HttpResponse:
    if not request.path.startswith("/v1/"):
        return JsonResponse({"detail": detail}, status=code)
    headers = {"X-Should-Retry": "false"} if code < 500 else {}
    return JsonResponse(_as_openai(code, detail), status=code, headers=headers)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 400, "The request is malformed, or its Host header is not in ALLOWED_HOSTS.")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 403, "Forbidden.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 404, "There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(request, 500, "Something went wrong on our side; it has been logged.")
