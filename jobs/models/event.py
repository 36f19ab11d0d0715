"""What happened to a job, event by event: for operators, and the source of the job metrics."""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models.functions import Now

from jobs.models import metric
from jobs.models.job import Job
from jobs.models.metric import BUCKETS

logger = logging.getLogger(__name__)

# Why jobs fail, for the metrics.
REASONS = ("refused", "node", "out_of_memory", "lost", "worker", "image", "video", "other")


class EventQuerySet(models.QuerySet["Event"]):
    def failures(self) -> "EventQuerySet":
        return self.filter(kind="failed")

    def note(
        self,
        jobs: Sequence[Job],
        kind: "Event.Kind",
        *,
        reason: str = "",
        detail: str = "",
        graph: dict[str, Any] | None = None,
    ) -> None:
        """Writes an event for each job and counts it, in the transaction of the change that it tells of."""
        # Postgres refuses NUL characters and lone surrogates.
        text = detail.replace("\0", "").encode(errors="replace").decode()
        events = [
            Event(
                job=job,
                kind=kind,
                worker=job.worker,
                attempt=job.attempt,
                render=job.render,
                reason=reason,
                detail=text,
                graph=graph,
            )
            for job in jobs
        ]
        Event.objects.bulk_create(events)
        count(jobs, kind, reason)
        for job in jobs:
            logger.info("job %s: %s", job.pk, Event.Kind(kind).label.lower(), extra=job.log_fields)


class Event(models.Model):
    class Kind(models.TextChoices):
        CREATED = "created"
        CLAIMED = "claimed"
        ADOPTED = "adopted"
        POSTED = "posted"
        STARTED = "started"
        RENDERED = "rendered"
        PUBLISHING = "publishing"
        DELAYED = "delayed", "publishing delayed"
        COMPLETED = "completed"
        FAILED = "failed"
        LOST = "lost", "render lost"
        OUT_OF_MEMORY = "out_of_memory", "out of memory"
        PROMPT_LOST = "prompt_lost", "prompt lost"
        DISK_FULL = "disk_full", "GPU server's disk full"
        HANDED_BACK = "handed_back", "handed back"
        LAPSED = "lapsed", "lease ran out"
        CANCELLED = "cancelled"
        REQUEUED = "requeued"
        MOVED = "moved", "moved to the front"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(db_default=Now())
    kind = models.CharField(max_length=20, choices=Kind)
    worker = models.CharField(max_length=255)
    attempt = models.PositiveIntegerField()
    render = models.PositiveIntegerField()
    reason = models.CharField(max_length=20, default="")  # of a failure, for the metrics
    detail = models.TextField(default="")  # for operators alone: it may hold paths, tracebacks and prompts
    graph = models.JSONField(null=True)  # as it was posted to ComfyUI

    objects = EventQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["at"], name="event_failed", condition=models.Q(kind="failed"))]

    def __str__(self) -> str:
        return self.get_kind_display()


def count(jobs: Sequence[Job], kind: str, reason: str = "") -> None:
    """Raises the counters of ``/metrics`` in which this event counts."""
    amounts: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        amounts[("job_events", kind)] += 1
        if kind == "failed":
            amounts[("jobs_failed", reason or "other")] += 1
        if kind == "started" and job.render == 1:  # a later render did not wait all that time
            observe(amounts, "job_wait_seconds", job.created_at, job.started_at)
        elif kind == "rendered":
            observe(amounts, "job_render_seconds", job.started_at, job.rendered_at)
        elif kind == "completed":
            observe(amounts, "job_publish_seconds", job.rendered_at, job.finished_at)
    metric.add(dict(amounts))


def observe(
    amounts: Counter[tuple[str, str]], name: str, begun: datetime | None, ended: datetime | None
) -> None:
    """One more observation of a histogram: its bucket, and the sum."""
    if begun and ended:
        seconds = max((ended - begun).total_seconds(), 0.0)
        place = bisect_left(BUCKETS, seconds)
        amounts[(name, str(BUCKETS[place]) if place < len(BUCKETS) else "+Inf")] += 1
        amounts[(name, "sum")] += seconds  # type: ignore[assignment]
