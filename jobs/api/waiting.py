"""Answers about a job that may wait for it (``?wait=``), and those that only say that nothing changed.

A view ends with ``tell``. What waits holds no thread (``wanapi/parking.py``), so that a view is called twice
for one request: first it is parked, and when the wait is over it answers.
"""

import hashlib
import re
from collections.abc import Callable

from django.utils.http import parse_etags
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.api.authentication import client_of
from jobs.api.readers import SHOWN, Reader
from jobs.models import Job
from jobs.models.job import FINAL
from wanapi import parking

LONGEST = 50  # seconds; many proxies give up after 60
COME_BACK = 5  # seconds, for a client for which there was no place


def tell(
    request: Request, job: Job, answer: Callable[[Job], Response], seconds: int | None = None
) -> Response:
    """The ``answer`` about the job: now, or when it is final, or after these seconds; by default as many as
    ``?wait=`` says. With If-None-Match also when anything changed since that answer; if
    nothing did, a 304."""
    seconds = asked(request) if seconds is None else seconds
    known = set()
    if request.method != "POST":
        known = {tag.removeprefix("W/") for tag in parse_etags(request.headers.get("If-None-Match", ""))}

    def is_over(job: Job) -> bool:
        return job.status in FINAL or (bool(known) and not known & {"*", tag_of(job)})

    if seconds and not is_over(job) and parking.possible(request.META):
        key = client_of(request).key
        raise Reader(job, key.pk if key else None, seconds, is_over)
    unchanged = known & {"*", tag_of(job)}
    response = Response(status=304) if unchanged else answer(job)
    response["ETag"] = f"W/{tag_of(job)}"
    if getattr(parking.earlier(request.META), "turned_away", False):
        response["Retry-After"] = str(COME_BACK)
    return response


def tag_of(job: Job) -> str:
    """Of what is told about it, without what changes by itself: the links, which are signed anew on each
    read, and its place in the queue with the time left."""
    state = repr([job.pk, *(getattr(job, name) for name in SHOWN)])
    return f'"{hashlib.sha256(state.encode()).hexdigest()[:16]}"'


def asked(request: Request) -> int:
    """The seconds of ``?wait=``."""
    given = request.query_params.getlist("wait")
    if not given:
        return 0
    [text] = given if len(given) == 1 else [""]
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= LONGEST):
        raise serializers.ValidationError(
            {"wait": [f"This must be a whole number of seconds from 0 to {LONGEST}, given once."]}
        )
    return int(text)


def preferred(request: Request) -> int:
    """The seconds of ``Prefer: wait=`` (RFC 7240), for views that make a job. It is a wish: what
    cannot be granted is no error."""
    wish = re.search(
        r"(?:^|[,;])\s*wait\s*=\s*([0-9]{1,9})\s*(?:$|[,;])", request.headers.get("Prefer", ""), re.I
    )
    return min(int(wish[1]), LONGEST) if wish else 0


def resumed(request: Request) -> Job | None:
    """For a view that makes a job and ends with ``tell``: the job that this request made before it was
    parked; None in its first call. Its body was read then and must not be asked for again."""
    earlier = parking.earlier(request.META)
    if not isinstance(earlier, Reader):
        return None
    job = client_of(request).jobs.filter(pk=earlier.job_id).first()
    if job is None:
        raise NotFound("There is no job with this id.")
    return job
