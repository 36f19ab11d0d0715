"""What happened to a job, event by event: for operators, and the source of the job metrics."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.db import models
from django.db.models.functions import Now

from comfy.workflow import Graph
from jobs.models import metric

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from jobs.models.job import Job


# Why jobs fail, for the metrics.
REASONS = ("refused", "node", "out_of_memory", "lost", "worker", "image", "video", "other")


class EventQuerySet(models.QuerySet["Event"]):
    def failures(self) -> "EventQuerySet":
        return self.filter(kind="failed")

    def note(
        self,
        jobs: "Sequence[Job]",
        kind: "Event.Kind",
        *,
        reason: str = "",
        detail: str = "",
        graph: Graph | None = None,
    ) -> None:
        """Writes it down and counts it, in the transaction that made it happen."""
        text = detail.replace("\0", "").encode(errors="replace").decode()  # Postgres takes no other
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
        self.bulk_create(events)  # type: ignore[arg-type]  # the circle of imports hides the model from mypy
        metric.count_events(jobs, kind, reason)
        for job in jobs:
            logger.info("job %s: %s", job.pk, Event.Kind(kind).label.lower(), extra=job.about)


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

    job = models.ForeignKey("jobs.Job", on_delete=models.CASCADE, related_name="events")
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
