"""What the first page tells: what each GPU does, what waits, what came out, and what is wrong."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.core.cache import cache

from jobs.media import storage
from jobs.models import Engine, Event, Job
from jobs.operators import statistics, troubles
from jobs.operators.charts import chart
from jobs.operators.words import in_words
from jobs.queue import estimate

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
KEPT = 30  # seconds for which the last day's figures are not counted anew
NEXT, LATEST, FAILURES = 8, 12, 5  # jobs that are shown


def situation() -> dict[str, Any]:
    hours: Any = cache.get_or_set("hours", statistics.hours, KEPT)
    finished: Any = cache.get_or_set("finished", lambda: statistics.finished(DAY), KEPT)
    queue, impossible = statistics.queue(), statistics.impossible()
    engines, left = list(Engine.objects.order_by("name")), estimate.outlook(NEXT)
    return {
        "queue": queue,
        "oldest": in_words(queue["oldest_seconds"]),
        "troubles": [
            *troubles.of_engines(engines),
            *troubles.of_queue(queue, impossible),
            *troubles.of_webhooks(statistics.webhooks()),
            *troubles.of_failures(statistics.failed_by_reason(HOUR)),
        ],
        "engines": at_work(engines, left),
        "waiting": _waiting(left),
        "latest": latest(),
        "finished": finished,
        "period": "the last day" if finished["over_seconds"] >= DAY.total_seconds() else "since the start",
        "failed_percent": 100 * finished["failure_rate"],
        "failures": Event.objects.failures().select_related("job").order_by("-at")[:FAILURES],
        "charts": charts(hours),
        "hours": hours,
    }


def at_work(engines: Sequence[Engine], left: dict[Any, int]) -> list[dict[str, Any]]:
    """Each engine with the job that it renders, and the number of those that wait behind it."""
    jobs = list(Job.objects.begun_on_any())
    found = []
    for engine in engines:
        own = [job for job in jobs if job.engine_id == engine.pk]
        job = next((job for job in own if job.status == Job.Status.PROCESSING), None)
        found.append(
            {
                "engine": engine,
                "tone": tone(engine),
                "badge": badge(engine),
                "advice": troubles.advice(engine),
                "job": job,
                "image": storage.link(job.input_keys[0]) if job and job.input_keys else "",
                "left": in_words(left[job.pk]) if job and job.pk in left else "",
                "behind": len(own) - (job is not None),
            }
        )
    return found


def tone(engine: Engine) -> str:
    if engine.state == "ready":
        return "well"
    return "unwell" if troubles.advice(engine) else "between"


def badge(engine: Engine) -> str:
    """Its state in few words; what it lacks and its trouble are told beside it."""
    if engine.state.startswith("lacks "):
        return "lacks files"
    return "cannot work" if engine.state == engine.trouble else engine.state


def _waiting(left: dict[Any, int]) -> list[dict[str, Any]]:
    """The first jobs in the order in which they will be served."""
    first = Job.objects.queued().filter(lease_until=None, engine=None).select_related("key").in_order()[:NEXT]
    return [{"job": job, "left": in_words(left[job.pk]) if job.pk in left else ""} for job in first]


def latest() -> list[dict[str, Any]]:
    done = Job.objects.filter(status=Job.Status.COMPLETED, finished_at__isnull=False).order_by("-finished_at")
    return [{"job": job, "poster": storage.link(job.poster_key)} for job in done[:LATEST]]


def charts(hours: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        chart("Completed jobs", hours, lambda hour: hour["completed"], "{:.0f}"),
        chart("Failed jobs", hours, lambda hour: hour["failed"], "{:.0f}"),
        chart("Median render time", hours, lambda hour: hour["median"], "{:.0f} s"),
        chart("GPU time unused", hours, lambda hour: hour["idle"], "{:.0%}", top=1.0),
    ]
