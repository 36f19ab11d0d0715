"""The operators' console: Django's admin, with a first page that tells how the service is."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone

from jobs.models import Job
from jobs.operators import statistics

DAY = timedelta(days=1)
KEPT = 30  # seconds for which the last day's figures are not counted anew
WIDTH, HEIGHT, GAP = 240, 60, 2  # of a chart, in its own units


class Console(admin.AdminSite):
    site_header = site_title = "WANAPI"
    index_title = "Console"
    index_template = "console/index.html"

    def get_urls(self) -> list[Any]:
        return [path("now/", self.admin_view(self.now), name="now"), *super().get_urls()]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        seen = situation() if request.user.has_perm("jobs.view_job") else {}
        return super().index(request, (extra_context or {}) | seen)

    def now(self, request: HttpRequest) -> Any:
        """The part of the first page that refreshes itself."""
        if not request.user.has_perm("jobs.view_job"):
            raise PermissionDenied
        return render(request, "console/now.html", situation())


def duration(begin: datetime, end: datetime) -> str:
    """The time between two moments, such as 12 s, 3 min 20 s, 5 h 12 min or 4 d 3 h."""
    seconds = max(round((end - begin).total_seconds()), 0)
    for unit, length, part, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            return f"{seconds // length} {unit} {seconds % length // smaller} {part}"
    return f"{seconds} s"


def situation() -> dict[str, Any]:
    hours: Any = cache.get_or_set("hours", statistics.hours, KEPT)
    finished: Any = cache.get_or_set("finished", lambda: statistics.finished(DAY), KEPT)
    queue, engines, now = statistics.queue(), statistics.engines(), timezone.now()
    for engine in engines:
        engine["seen"] = duration(engine["seen_at"], now) + " ago" if engine["seen_at"] else "never"
    return {
        "queue": queue,
        "oldest": duration(now - timedelta(seconds=queue["oldest_seconds"]), now),
        "engines": engines,
        "impossible": statistics.impossible(),
        "finished": finished,
        "failed_percent": 100 * finished["failure_rate"],
        "failures": Job.objects.filter(status=Job.Status.FAILED).order_by("-created_at", "-id")[:5],
        "charts": [
            chart("Completed jobs an hour", hours, lambda hour: hour["completed"], "{:.0f}"),
            chart("Failed jobs an hour", hours, lambda hour: hour["failed"], "{:.0f}"),
            chart("Median render time", hours, lambda hour: hour["median"], "{:.0f} s"),
            chart("GPU time unused", hours, lambda hour: hour["idle"], "{:.0%}", top=1.0),
        ],
    }


def chart(
    title: str,
    hours: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    unit: str,
    top: float = 0.0,
) -> dict[str, Any]:
    """A bar for each hour that has a value. ``unit`` formats a value; ``top`` is the highest bar's, or 0 to
    take the largest value."""
    values = [value(hour) for hour in hours]
    top = top or max(filter(None, values), default=0) or 1
    step = WIDTH / len(hours)
    bars = [
        {
            "x": f"{place * step:.1f}",
            "y": f"{HEIGHT - HEIGHT * found / top:.1f}",
            "width": f"{step - GAP:.1f}",
            "height": f"{HEIGHT * found / top:.1f}",
            "text": f"{hour['hour']:%H:%M} UTC: {unit.format(found)}",
        }
        for place, (hour, found) in enumerate(zip(hours, values, strict=True))
        if found is not None
    ]
    last = values[-1]
    return {
        "title": title,
        "bars": bars,
        "box": f"0 0 {WIDTH} {HEIGHT}",
        "top": unit.format(top),
        "last": "-" if last is None else unit.format(last),
    }
