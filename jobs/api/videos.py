"""/v1/videos and /v1/models: the same jobs in the wire format of OpenAI, vLLM-Omni and SGLang.

A video's id is the id of its job. Every create goes through jobs/api/intake.py, as at the other doors.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.api import bodies, errors, intake, requests, waiting
from jobs.api import schema_videos as schema
from jobs.api.authentication import client_of
from jobs.api.forms import Multipart, UrlEncoded
from jobs.api.parsers import StrictJSONParser
from jobs.api.videos_requests import VideoRequest
from jobs.api.views import View, get_job, redirect_to
from jobs.media import storage
from jobs.models import Job, Tombstone
from jobs.models.job import FINAL
from jobs.queue import estimate, parameters
from jobs.queue.returns import remove
from jobs.queue.submit import Arrival

STATUSES = {"queued": "queued", "processing": "in_progress", "completed": "completed"}  # any other: failed
MAX_LISTED = 100


def video(job: Job) -> dict[str, Any]:
    """A job as OpenAI shows a video."""
    (width, height), _, _ = job.video_wanted
    completed = job.status == Job.Status.COMPLETED
    return {
        "id": str(job.pk),
        "object": "video",
        "status": STATUSES.get(job.status, "failed"),
        "progress": job.progress,
        "created_at": _unix(job.created_at),
        "completed_at": _unix(job.finished_at) if completed else None,
        "expires_at": _expires_at(job),
        "model": job.preset_name,
        "prompt": job.prompt,
        "seconds": _seconds(job),
        "size": f"{width}x{height}",
        "error": _error(job),
        "remixed_from_video_id": None,
    }


def _unix(time: datetime | None) -> int | None:
    return int(time.timestamp()) if time else None


def _expires_at(job: Job) -> int | None:
    if not job.finished_at or not settings.RETENTION_DAYS:
        return None
    return _unix(job.finished_at + timedelta(days=settings.RETENTION_DAYS))


def _seconds(job: Job) -> str:
    """A whole number where a client asked for one: 5 seconds are 81 frames, of which the first is at 0."""
    asked = job.shown_parameters
    return f"{round((asked['num_frames'] - 1) / asked['fps'], 2):g}"


def _error(job: Job) -> dict[str, str] | None:
    if job.status == Job.Status.CANCELLED:
        return {"code": "cancelled", "message": job.error}
    return {"code": "failed", "message": job.error} if job.status == Job.Status.FAILED else None


class Door(View):
    """Its errors have OpenAI's form."""

    def get_exception_handler(self) -> Callable[..., Response | None]:
        return errors.handle_as_openai


class VideosQuery(serializers.Serializer):
    """The query of GET /v1/videos."""

    after = serializers.CharField(required=False, help_text="The id after which the page begins")
    limit = requests.LimitField(
        MAX_LISTED, default=20, help_text=f"How many at most; more than {MAX_LISTED} is taken as that"
    )
    order = serializers.ChoiceField(
        choices=["asc", "desc"], default="desc", help_text="By the time of creation"
    )


class VideosView(Door):
    """POST /v1/videos: accepts a job. GET: the jobs, in pages."""

    parser_classes = (StrictJSONParser, Multipart, UrlEncoded)

    @schema.create
    def post(self, request: Request) -> Response:
        arrival = Arrival.now(requests.is_repeated(request))  # before the body, which may take its time
        job = waiting.resumed(request)
        if job is None:
            with bodies.place(request, chunked_forms=True):
                job = self._accepted(request, arrival)
        return waiting.tell(request, job, answer, waiting.preferred(request))

    def _accepted(self, request: Request, arrival: Arrival) -> Job:
        key = requests.idempotency_key(request)
        body = VideoRequest(cast(Mapping[str, Any], request.data))
        try:
            return intake.accept(client_of(request), body, key, arrival)
        except ValidationError as error:
            raise body.renamed(error) from None

    @schema.list_videos
    def get(self, request: Request) -> Response:
        query = VideosQuery(data=requests.single_values(request.query_params))
        query.is_valid(raise_exception=True)
        limit = query.validated_data["limit"]
        jobs = self._page(request, **query.validated_data)
        data = [video(job) for job in jobs[:limit]]
        return Response(
            {
                "object": "list",
                "data": data,
                "has_more": len(jobs) > limit,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
            }
        )

    @staticmethod
    def _page(request: Request, limit: int, order: str, after: str | None = None) -> list[Job]:
        """One more than ``limit``, if there are more."""
        sign, than = ("-", "lt") if order == "desc" else ("", "gt")
        jobs = client_of(request).jobs.order_by(f"{sign}created_at", f"{sign}id")
        if after is not None:
            job_id = requests.job_id(after)
            time = _submitted_at(request, job_id) if job_id else None
            if time is None:
                raise ValidationError({"after": ["There is no video with this id."]})
            beyond = Q(**{f"created_at__{than}": time}) | Q(created_at=time) & Q(**{f"pk__{than}": job_id})
            jobs = jobs.filter(beyond)
        return list(jobs[: limit + 1])


def _submitted_at(request: Request, job_id: UUID) -> datetime | None:
    """Also of a job that is removed: clients delete what they list, and then ask for the next page."""
    if job := client_of(request).submitted.filter(pk=job_id).first():
        return job.created_at
    tombstone = Tombstone.objects.filter(pk=job_id).first()
    return tombstone.submitted_at if tombstone else None


class VideoView(Door):
    """GET /v1/videos/{video_id}: one job. DELETE: cancels it if it is not finished, and removes it."""

    @schema.retrieve
    def get(self, request: Request, job_id: str) -> Response:
        return waiting.tell(request, get_job(request, job_id), answer)

    @schema.delete
    def delete(self, request: Request, job_id: str) -> Response:
        job = get_job(request, job_id)
        with storage.slot():
            if not remove(job):
                raise NotFound("There is no job with this id.")
        return Response({"id": str(job.pk), "object": "video.deleted", "deleted": True})


class ContentView(Door):
    """GET /v1/videos/{video_id}/content: to the MP4, or to its first frame."""

    KEYS: dict[str, Callable[[Job], str]] = {
        "video": lambda job: job.video_key,
        "thumbnail": lambda job: job.poster_key,
    }

    @schema.content
    def get(self, request: Request, job_id: str) -> HttpResponse:
        variant = requests.single_values(request.query_params).get("variant", "video")
        if variant not in self.KEYS:
            raise ValidationError({"variant": ["This must be video or thumbnail."]})
        return redirect_to(get_job(request, job_id), self.KEYS[variant])


class ModelsView(Door):
    """GET /v1/models: the presets."""

    @schema.models
    def get(self, request: Request) -> Response:
        names = parameters.preset_names()
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "wanapi"} for name in names]
        return Response({"object": "list", "data": data})


def answer(job: Job) -> Response:
    """The video, and when to ask again: OpenAI's library for Python keeps the pause that the first answer to
    its polling says, so it is a small part of the time that is left."""
    left = estimate.seconds_left(job)
    pause = 5.0 if left is None else min(max(left / 10, 1.0), 10.0)
    headers = {} if job.status in FINAL else {"OpenAI-Poll-After-Ms": str(int(1000 * pause))}
    return Response(video(job), headers=headers)
