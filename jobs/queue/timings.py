"""How long renders took, from our own rows."""

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from django.db.models import F
from django.db.models.functions import Now

from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.job import JobQuerySet

LAST = 300  # jobs that are looked at
OF_A_SORT = 50  # of these, jobs of one preset, kind and work
DAY = 86_400


class Sort(NamedTuple):
    """Jobs that should take equally long. ``preset`` is a name: when a preset is changed, what it took before
    is still the best guess. ``work``: pixels x frames x steps."""

    preset: str
    kind: str
    work: int


class Timings:
    """The newest timings: of each sort the median seconds of its renders, and of all jobs together the median
    seconds from the end of the render to ``completed``."""

    def __init__(self, rows: Iterable[tuple[str, str, int, timedelta, timedelta]]) -> None:
        """``rows``: preset, kind, work, the time to render and the time to publish; newest first."""
        took = defaultdict[tuple[str, str, int], list[timedelta]](list)
        published = []
        for preset, kind, work, render, publish in rows:
            if work and render:  # else of an earlier release, or nobody saw it running
                took[preset.partition("@")[0], kind, work].append(render)
                published.append(publish)
        self.renders = {Sort(*sort): _median(times) for sort, times in took.items()}
        self.publishing = _median(published) if published else 0.0
        self._found = dict(self.renders)

    def __bool__(self) -> bool:
        return bool(self.renders)

    def render(self, preset: str, kind: str, work: int) -> float:
        """The seconds that such a job should render. If none was rendered yet, they are those of the nearest
        sort, in proportion to the work."""
        wanted = Sort(preset.partition("@")[0], kind, work)
        if wanted not in self._found:
            nearest = min(self.renders, key=partial(_distance, wanted))
            self._found[wanted] = self.renders[nearest] * (work / nearest.work if work else 1)
        return self._found[wanted]


def _distance(wanted: Sort, other: Sort) -> tuple[bool, bool, float]:
    apart = abs(math.log(wanted.work / other.work)) if wanted.work else 0.0
    return other.preset != wanted.preset, other.kind != wanted.kind, apart


def _median(times: list[timedelta]) -> float:
    return median(time.total_seconds() for time in times[:OF_A_SORT])


def newest() -> Timings:
    rows = _completed().values_list(
        "preset", "kind", "work", F("rendered_at") - F("started_at"), F("finished_at") - F("rendered_at")
    )
    return Timings(rows[:LAST])


def of_last_day() -> dict[str, float]:
    """The median seconds of the newest renders of each preset, none older than a day."""
    jobs: Any = _completed().filter(finished_at__gte=Now() - seconds(DAY))
    took: dict[str, list[float]] = {}
    for preset, time in jobs.values_list("preset", F("rendered_at") - F("started_at"))[:LAST]:
        took.setdefault(preset.partition("@")[0], []).append(time.total_seconds())
    return {name: round(median(times), 1) for name, times in took.items()}


def _completed() -> JobQuerySet:
    """Newest first."""
    return Job.objects.filter(status=Job.Status.COMPLETED, finished_at__isnull=False).order_by("-finished_at")
