"""Counters that survive every process: rows in Postgres, raised in the transaction that they count.

So they tell the truth about all machines together, whichever process is asked and whatever died. ``/metrics``
shows them in Prometheus' format (``jobs/operators/metrics.py``).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from django.db import connection, models

if TYPE_CHECKING:
    from jobs.models.job import Job

# Upper bounds of the histograms, in seconds.
BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 86400)


class Metric(models.Model):
    """``label``: the value of the one label that the metric has, or nothing."""

    name = models.CharField(max_length=100)
    label = models.CharField(max_length=255, default="")
    value = models.FloatField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "label"], name="metric_once")]

    def __str__(self) -> str:
        return f"{self.name} {self.label}"


def add(amounts: dict[tuple[str, str], float]) -> None:
    """Raises the (name, label) counters. The last thing in its transaction: it locks rows that all share."""
    rows = [(name, label, value) for (name, label), value in sorted(amounts.items()) if value]
    if not rows:
        return
    with connection.cursor() as cursor:  # the ORM can overwrite on a conflict, and cannot add
        cursor.execute(
            "INSERT INTO jobs_metric (name, label, value) VALUES "  # noqa: S608 - placeholders alone
            + ", ".join(["(%s, %s, %s)"] * len(rows))
            + " ON CONFLICT (name, label) DO UPDATE SET value = jobs_metric.value + EXCLUDED.value",
            [item for row in rows for item in row],
        )


def count_events(jobs: "Iterable[Job]", kind: str, reason: str = "") -> None:
    amounts: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        amounts[("job_events", kind)] += 1
        if kind == "failed":
            amounts[("jobs_failed", reason or "other")] += 1
        if kind == "started" and job.render == 1:  # a requeued job has waited before
            observe(amounts, "job_wait_seconds", job.created_at, job.started_at)
        elif kind == "rendered":
            observe(amounts, "job_render_seconds", job.started_at, job.rendered_at)
        elif kind == "completed":
            observe(amounts, "job_publish_seconds", job.rendered_at, job.finished_at)
    add(dict(amounts))


def observe(
    amounts: Counter[tuple[str, str]], name: str, begun: datetime | None, ended: datetime | None
) -> None:
    """One more observation of a histogram: its bucket, and the sum."""
    if begun and ended:
        seconds = max((ended - begun).total_seconds(), 0.0)
        place = bisect_left(BUCKETS, seconds)
        amounts[(name, str(BUCKETS[place]) if place < len(BUCKETS) else "+Inf")] += 1
        amounts[(name, "sum")] += seconds  # type: ignore[assignment]
