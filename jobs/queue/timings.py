"""How long renders took, from our own rows."""

from statistics import median
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from jobs.models import Job
from jobs.models.clock import seconds

LAST = 500  # jobs that are looked at
DAY = 86_400


def of_last_day() -> dict[str, float]:
    """The median seconds of the newest renders of each preset, none older than a day."""
    since = Now() - seconds(DAY)
    jobs: Any = Job.objects.filter(status=Job.Status.COMPLETED, finished_at__gte=since)
    rows = jobs.order_by("-finished_at").values_list("preset", F("rendered_at") - F("started_at"))[:LAST]
    took: dict[str, list[float]] = {}
    for preset, time in rows:
        took.setdefault(preset.partition("@")[0], []).append(time.total_seconds())
    return {name: round(median(times), 1) for name, times in took.items()}
