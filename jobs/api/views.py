"""The API. Each view: authenticate (by default), validate, act, answer."""

import threading
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db import Error, IntegrityError
from django.http import HttpResponse
from django.utils.cache import patch_cache_control
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api import answers, requests, schema
from jobs.api.authentication import client
from jobs.api.errors import Conflict, KeyReused, LengthRequired
from jobs.media import storage
from jobs.media.images import Busy
from jobs.models import Job
from jobs.models.engine import Engine
from jobs.models.key import LimitReached
from jobs.models.tombstone import Tombstone
from jobs.operators import health, metrics
from wanapi import limits
from wanapi.within import Threads


class View(APIView):
    """Its answers hold prompts and signed links: nobody between us and the client may keep them."""

    def finalize_response(self, *args: Any, **options: Any) -> Response:
        response = super().finalize_response(*args, **options)
        patch_cache_control(response, no_store=True)
        return response


class GenerateView(View):
    """POST /generate: accepts a job, once for each Idempotency-Key."""

    # Places for large bodies: to be read and answered, and to be taken apart.
    _large = threading.BoundedSemaphore(limits.LARGE_BODIES)
    _parsed = threading.BoundedSemaphore(limits.PARSED_BODIES)

    @schema.submit
    def post(self, request: Request) -> Response:
        if int(request.META.get("CONTENT_LENGTH") or 0) <= limits.LARGE:
            return self._post(request)
        if not self._large.acquire(blocking=False):
            raise Busy
        try:
            _ = request._request.body  # read it first: a slow client must not keep the others from _parsed
            with self._parsed:
                return self._post(request)
        finally:
            self._large.release()

    def _post(self, request: Request) -> Response:
        if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
            raise LengthRequired  # it would look like an empty body
        once, sha256 = requests.idempotency_key(request), requests.fingerprint(dict(request.data))
        key = client(request).key
        if once and (earlier := Job.objects.submitted_with(once, key)):
            return self._replay(earlier, sha256)
        try:
            Job.objects.check_limits(key)  # again in submit(), exactly: this one saves the image's way
        except LimitReached:
            if once and (earlier := Job.objects.submitted_with(once, key)):  # it took the last place
                return self._replay(earlier, sha256)
            raise
        body = requests.GenerateRequest(data=request.data)
        body.is_valid(raise_exception=True)
        prompt, image = body.validated_data["prompt"], body.validated_data["image"]
        kind = Job.Kind.IMAGE_TO_VIDEO if image else Job.Kind.TEXT_TO_VIDEO
        job = Job(kind=kind, prompt=prompt, key=key, idempotency_key=once, request_sha256=sha256)
        if image:
            Tombstone.objects.note(job.pk)  # so that purge_leftovers knows the image if we end before the row
            with storage.slot():
                storage.put_image(job.input_key, image)  # before the row: an accepted job has its image
        try:
            job = Job.objects.submit(job)
        except (IntegrityError, LimitReached):
            if image:
                with suppress(storage.StorageError), storage.slot():  # or purge_leftovers finds it
                    storage.delete([job.input_key])
            earlier = Job.objects.submitted_with(once, key) if once else None
            if earlier is None:
                raise
            return self._replay(earlier, sha256)
        return Response(answers.Submitted(job).data)

    @staticmethod
    def _replay(earlier: Job, sha256: str) -> Response:
        if earlier.request_sha256 != sha256:
            raise KeyReused
        return Response(answers.Submitted(earlier).data)


class StatusView(View):
    """GET /status/{job_id}: the four fields of the reference."""

    @schema.status
    def get(self, request: Request, job_id: str) -> Response:
        return Response(answers.JobStatus(find(request, job_id)).data)


class JobView(View):
    """GET /jobs/{job_id}: everything there is to tell about it. DELETE: removes a finished job for good."""

    @schema.job
    def get(self, request: Request, job_id: str) -> Response:
        return Response(answers.WholeJob(find(request, job_id)).data)

    @schema.delete
    def delete(self, request: Request, job_id: str) -> Response:
        job = find(request, job_id)
        with storage.slot():
            purged = job.purge()
        if not purged:
            job = find(request, job_id)  # it may have been deleted meanwhile
            raise Conflict(f"The job is {job.status}; cancel it before you delete it.")
        return Response(status=204)


class CancelView(View):
    """POST /jobs/{job_id}/cancel: ends a job that is not finished."""

    @schema.cancel
    def post(self, request: Request, job_id: str) -> Response:
        job = find(request, job_id)
        if not Job.objects.filter(pk=job.pk).cancel("by a client"):
            job.refresh_from_db()
            raise Conflict(f"The job is finished ({job.status}) and cannot be cancelled.")
        job.refresh_from_db()
        return Response(answers.WholeJob(job).data)


class JobsView(View):
    """GET /jobs: newest first."""

    @schema.list_jobs
    def get(self, request: Request) -> Response:
        query = requests.JobsQuery(data=requests.single_values(request.query_params))
        query.is_valid(raise_exception=True)
        jobs = client(request).jobs.order_by("-created_at", "-id")
        if "status" in query.validated_data:
            jobs = jobs.filter(status__in=answers.SHOWN_AS[query.validated_data["status"]])
        jobs = jobs[: query.validated_data["limit"]]
        return Response(answers.ListedJob(jobs, many=True).data)


class HealthView(View):
    """GET /health: no key, and an answer even when Postgres hangs."""

    authentication_classes = ()
    permission_classes = ()
    PATIENCE = 2.0  # seconds
    _threads = Threads(limits.HEALTH_THREADS, "health")

    @schema.health
    def get(self, request: Request) -> Response:
        try:
            loaded, current = self._threads.within(self.PATIENCE, self._look)
        except (Error, TimeoutError):  # every error of Postgres: before the migrations its tables are missing
            loaded, current = False, None
        return Response({"status": "ok", "model_loaded": loaded, "current_job": current})

    @staticmethod
    def _look() -> tuple[bool, str | None]:
        current = Job.objects.filter(status=Job.Status.PROCESSING).order_by("started_at").first()
        loaded = not Engine.objects.impossible(settings.WORKFLOW_PRESET)
        return loaded, str(current.pk) if current else None


class LiveView(View):
    """GET /health/live: this process answers."""

    authentication_classes = ()
    permission_classes = ()

    @schema.live
    def get(self, request: Request) -> Response:
        return Response({"status": "ok"})


class ReadyView(LiveView):
    """GET /health/ready: every part that a job needs, or 503."""

    @schema.ready
    def get(self, request: Request) -> Response:
        parts = health.report()
        well = not any(parts.values())
        answer = {"status": "ok" if well else "unavailable", "parts": parts}
        return Response(answer, status=200 if well else 503)


class MetricsView(View):
    """GET /metrics: for Prometheus, with a key that sees all jobs; on METRICS_PORT without one."""

    def initial(self, request: Request, *args: Any, **options: Any) -> None:
        if str(settings.METRICS_PORT) != request.META["SERVER_PORT"]:
            super().initial(request, *args, **options)
            if not client(request).sees_all:
                raise PermissionDenied("This key may not see the metrics: it needs the right to all jobs.")

    @schema.metrics
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(metrics.metrics(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def find(request: Request, text: str) -> Job:
    """The job with this id; another key's is as unknown as none."""
    job_id = requests.job_id(text)
    job = client(request).jobs.filter(pk=job_id).first() if job_id else None
    if job is None:
        raise NotFound("There is no job with this id.")
    return job
