"""Places for large bodies, so that a few of them cannot take all memory and all threads of a web process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from rest_framework.request import Request

from jobs.api.errors import LengthRequired, PayloadTooLarge
from jobs.media.images import Busy
from wanapi import limits

# One of _large is held until the answer, one of _parsed while a body is parsed that is whole in memory.
_large = threading.BoundedSemaphore(limits.LARGE_BODIES)
_parsed = threading.BoundedSemaphore(limits.PARSED_BODIES)


@contextmanager
def place(request: Request, *, chunked_forms: bool = False) -> Iterator[None]:
    """Within this block the body may be parsed. Raises LengthRequired, PayloadTooLarge, and Busy if there is
    no place. ``chunked_forms``: forms may come without a length (jobs/api/forms.py counts their bytes)."""
    form = request.content_type.lower().startswith("multipart/")
    length = int(request.META.get("CONTENT_LENGTH") or 0)
    if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        if not (chunked_forms and form):
            raise LengthRequired  # to Django a chunked body looks empty
        length = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        request._stream = request.META["wsgi.input"]
    if length > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise PayloadTooLarge
    if length <= limits.LARGE:
        yield
        return
    if not _large.acquire(blocking=False):
        raise Busy
    try:
        if form:
            yield  # it is parsed while it comes, and its files go to disk
            return
        _ = request._request.body  # read before a place of _parsed is taken: the client may send slowly
        with _parsed:
            yield
    finally:
        _large.release()
