"""Figures for operators. Every query uses an index, so that it stays quick however many jobs there are."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Aggregate, Count, F, FloatField, Min, Q
from django.db.models.functions import Coalesce, Extract, Now, TruncHour
from django.utils import timezone

from jobs.models import Delivery, Event, Job, Receiver
from jobs.models.clock import ago
from jobs.models.engine import Engine
from jobs.queue.engines import runnable


class Percentile(Aggregate):
    """The percentile of an expression; ``share`` is between 0 and 1, and 0.5 gives the median."""

    function = "PERCENTILE_CONT"
    template = "%(function)s(%(share)s) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()

    def __init__(self, expression: Any, share: float, **options: Any):
        super().__init__(expression, share=share, **options)


HOUR = timedelta(hours=1)
MINUTE = 60.0  # seconds; a rate over less says nothing
PARTS = {  # the parts of a completed job's way
    "wait": ("created_at", "started_at"),
    "render": ("started_at", "rendered_at"),
    "publish": ("rendered_at", "finished_at"),
}


def queue() -> dict[str, Any]:
    processing = Job.objects.filter(status=Job.Status.PROCESSING)
    oldest = Job.objects.queued().aggregate(age=Now() - Min("created_at"))["age"]
    return {
        "queued": Job.objects.queued().count(),
        "oldest_seconds": oldest.total_seconds() if oldest else 0.0,
        "rendering": processing.filter(rendered_at=None).count(),
        "publishing": processing.filter(rendered_at__isnull=False).count(),
    }


def impossible() -> list[dict[str, Any]]:
    """The queued jobs that no engine can run now: preset, kind, and the number of jobs."""
    pairs = runnable()
    waiting: Any = Job.objects.queued().order_by().values("preset", "kind").annotate(jobs=Count("pk"))
    return [row for row in waiting if f"{row['preset']}/{row['kind']}" not in pairs]


def engines() -> list[dict[str, Any]]:
    rendering = Job.objects.filter(status=Job.Status.PROCESSING, rendered_at=None, engine__isnull=False)
    running = {job.engine_id: job for job in rendering}
    return [
        {
            "name": engine.name,
            "version": engine.version,
            "state": engine.state,
            "worker": engine.worker,
            "seen_at": engine.seen_at,
            "job": str(running[engine.pk].pk) if engine.pk in running else None,
            "progress": running[engine.pk].progress if engine.pk in running else None,
        }
        for engine in Engine.objects.order_by("name")
    ]


def age() -> timedelta:
    """The time since the first engine or job. A service of an hour has no figures of a day."""
    first: Any = Engine.objects.aggregate(at=Min("created_at"))["at"], _first_job()
    moments = [moment for moment in first if moment]
    return timezone.now() - min(moments) if moments else timedelta(0)


def _first_job() -> datetime | None:
    return Job.objects.order_by("created_at", "id").values_list("created_at", flat=True).first()


def failed_by_reason(within: timedelta) -> dict[str, int]:
    """From the events: a job that was requeued failed all the same."""
    failures = Event.objects.failures().filter(at__gte=ago(within)).order_by()
    return dict(failures.values_list("reason").annotate(Count("pk")))


def finished(within: timedelta) -> dict[str, Any]:
    jobs = Job.objects.filter(finished_at__gte=ago(within))
    counts = {name: Count("pk", filter=Q(status=name)) for name in ("completed", "cancelled")}
    found: dict[str, Any] = {"within_seconds": within.total_seconds()} | jobs.aggregate(**counts)
    found["failed"] = Event.objects.failures().filter(at__gte=ago(within)).count()
    found["over_seconds"] = min(max(age().total_seconds(), MINUTE), within.total_seconds())
    found["per_hour"] = found["completed"] / (found["over_seconds"] / 3600)
    ended = found["completed"] + found["failed"]
    found["failure_rate"] = found["failed"] / ended if ended else 0.0
    completed = jobs.filter(status=Job.Status.COMPLETED)
    for part, (begun, done) in PARTS.items():
        seconds = Extract(F(done) - F(begun), "epoch")
        found[f"{part}_seconds"] = completed.aggregate(
            median=Percentile(seconds, 0.5), p90=Percentile(seconds, 0.9), p99=Percentile(seconds, 0.99)
        )
    return found


def hours() -> list[dict[str, Any]]:
    """Each of the last 24 hours: completed, failed, the median render time, the share of GPU time unused."""
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    starts = [now - back * HOUR for back in range(23, -1, -1)]
    jobs = Job.objects.filter(finished_at__gte=starts[0]).annotate(hour=TruncHour("finished_at"))
    seconds = Extract(F("rendered_at") - F("started_at"), "epoch")
    counts: dict[str, Any] = {"completed": Count("pk", filter=Q(status=Job.Status.COMPLETED))}
    rows: Any = jobs.values("hour").annotate(median=Percentile(seconds, 0.5), **counts)
    found: dict[datetime, dict[str, Any]] = {row["hour"]: row for row in rows}
    busy, there, failed = _busy(starts), _there(starts), _failed(starts)
    return [
        {"completed": 0, "failed": 0, "median": None}
        | found.get(start, {})
        | {"hour": start, "failed": failed.get(start, 0)}
        | {"idle": 1 - min(busy[start] / there[start], 1) if there[start] else None}
        for start in starts
    ]


def _failed(starts: list[datetime]) -> dict[datetime, int]:
    """From the events: a job that was requeued failed all the same."""
    hours = Event.objects.failures().filter(at__gte=starts[0]).annotate(hour=TruncHour("at"))
    return dict(hours.order_by().values_list("hour").annotate(Count("pk")))


def _there(starts: list[datetime]) -> dict[datetime, float]:
    """Seconds of GPU time in each hour, from an engine's first sign of life to its last."""
    engines = Engine.objects.filter(seen_at__gte=starts[0])
    return _spread(starts, engines.values_list("created_at", Coalesce("seen_at", Now())))


def _busy(starts: list[datetime]) -> dict[datetime, float]:
    """Seconds of rendering in each hour."""
    recent = Q(finished_at__gte=starts[0]) | Q(status=Job.Status.PROCESSING)
    jobs = Job.objects.filter(recent, started_at__isnull=False)
    return _spread(starts, jobs.values_list("started_at", Coalesce("rendered_at", "finished_at", Now())))


def _spread(starts: list[datetime], times: Iterable[tuple[datetime, datetime]]) -> dict[datetime, float]:
    """The seconds between each pair of times, added up by the hour."""
    hours = dict.fromkeys(starts, 0.0)
    for begin, end in times:
        start = max(begin, starts[0]).replace(minute=0, second=0, microsecond=0)
        while start < end and start in hours:
            hours[start] += (min(end, start + HOUR) - max(begin, start)).total_seconds()
            start += HOUR
    return hours


def webhooks() -> dict[str, int]:
    """``due``: those that should have been sent by now; ``waiting``: those that wait for their next try;
    ``failing``: hosts that took none for an hour, although they were sent some."""
    due = Q(due_at__lte=Now())
    found = Delivery.objects.pending().aggregate(
        due=Count("pk", filter=due), waiting=Count("pk", filter=~due)
    )
    return found | {"failing": Receiver.objects.filter(failing_since__lt=ago(HOUR)).count()}
