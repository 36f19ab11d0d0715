"""The API. Each view: authenticate (by default), validate, act, answer."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import Error
from django.http import HttpResponse
from django.utils.cache import patch_cache_control
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api import answers, bodies, intake, requests, schema, waiting
from jobs.api.authentication import client_of
from jobs.api.errors import Conflict
from jobs.media import storage
from jobs.models import Job
from jobs.operators import health, metrics
from jobs.queue import engines, parameters
from jobs.queue.returns import cancel, purge
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

    @schema.submit
    def post(self, request: Request) -> Response:
        with bodies.place(request):
            return self._post(request)

    def _post(self, request: Request) -> Response:
        idempotency_key = requests.idempotency_key(request)
        body = requests.GenerateRequest(data=request.data)
        job = intake.accept(client_of(request), body, idempotency_key)
        return Response(answers.Submitted(job).data)


class StatusView(View):
    """GET /status/{job_id}: the four fields of the reference."""

    @schema.status
    def get(self, request: Request, job_id: str) -> Response:
        job = get_job(request, job_id)
        return waiting.tell(request, job, lambda job: Response(answers.JobStatus(job).data))


class JobView(View):
    """GET /jobs/{job_id}: everything there is to tell about it. DELETE: removes a finished job for good."""

    @schema.job
    def get(self, request: Request, job_id: str) -> Response:
        job = get_job(request, job_id)
        return waiting.tell(request, job, lambda job: Response(answers.WholeJob(job).data))

    @schema.delete
    def delete(self, request: Request, job_id: str) -> Response:
        job = get_job(request, job_id)
        with storage.slot():
            purged = purge(job)
        if not purged:
            job = get_job(request, job_id)  # it may have been deleted meanwhile
            raise Conflict(f"The job is {job.status}; cancel it before you delete it.")
        return Response(status=204)


class ContentView(View):
    """GET /jobs/{job_id}/content: to the video, by a link that is signed now."""

    @schema.content
    def get(self, request: Request, job_id: str) -> HttpResponse:
        return redirect_to(get_job(request, job_id), lambda job: job.video_key)


class PosterView(View):
    """GET /jobs/{job_id}/poster: the same for its first frame."""

    @schema.poster
    def get(self, request: Request, job_id: str) -> HttpResponse:
        return redirect_to(get_job(request, job_id), lambda job: job.poster_key)


class PresetsView(View):
    """GET /presets: what may be asked for."""

    @schema.presets
    def get(self, request: Request) -> Response:
        return Response(answers.Preset(parameters.describe_all(requests.PARAMETERS), many=True).data)


class CancelView(View):
    """POST /jobs/{job_id}/cancel: ends a job that is not finished."""

    @schema.cancel
    def post(self, request: Request, job_id: str) -> Response:
        job = get_job(request, job_id)
        if not cancel(Job.objects.filter(pk=job.pk), "by a client"):
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
        jobs = client_of(request).jobs.order_by("-created_at", "-id")
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
        loaded = not engines.impossible(settings.WORKFLOW_PRESET)
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
            if not client_of(request).sees_all:
                raise PermissionDenied("This key may not see the metrics: it needs the right to all jobs.")

    @schema.metrics
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(metrics.metrics(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def redirect_to(job: Job, key: Callable[[Job], str]) -> HttpResponse:
    """Its object in S3. The signature in the link is a right of its own, so no page may pass it on."""
    if job.status != Job.Status.COMPLETED:
        raise Conflict(f"The job is {job.status}; there is a video when it is completed.")
    response = HttpResponse(status=302)
    response["Location"] = storage.link(key(job))
    response["Referrer-Policy"] = "no-referrer"
    return response


def get_job(request: Request, text: str) -> Job:
    """The job with this id. Another key's job is answered like one that does not exist."""
    job_id = requests.job_id(text)
    job = client_of(request).jobs.filter(pk=job_id).first() if job_id else None
    if job is None:
        raise NotFound("There is no job with this id.")
    return job
