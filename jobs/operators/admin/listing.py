"""What keeps the list of jobs quick, and lets an operator choose from it."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import Q
from django.http import HttpRequest
from django.utils.functional import cached_property

from comfy import presets
from jobs.models.job import JobQuerySet


class BoundedPaginator(Paginator):
    """Counts at most MOST rows. For the whole table it shows the estimate that Postgres keeps."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        jobs: Any = self.object_list
        counted: int = jobs.order_by()[: self.MOST].count()
        if counted == self.MOST and not jobs.query.where:
            with connection.cursor() as cursor:
                cursor.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = 'jobs_job'::regclass")
                return max(counted, cursor.fetchone()[0])
        return counted


class PresetFilter(admin.SimpleListFilter):
    """By the name alone, whatever version. The choices are the presets of today, since a look for those in
    the rows would read the whole table."""

    title = parameter_name = "preset"

    def lookups(self, request: HttpRequest, page: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in presets.names()]

    def queryset(self, request: HttpRequest, jobs: Any) -> JobQuerySet:
        if name := self.value():
            return jobs.filter(Q(preset=name) | Q(preset__startswith=f"{name}@"))
        return jobs


def with_view(request: HttpRequest) -> bool:
    """Whether the jobs are shown as a gallery. ``?view=`` chooses, and the session remembers it. It is taken
    out of the query, which the admin would refuse otherwise."""
    query: Any = request.GET
    if view := query.get("view"):
        if request.session.get("gallery", False) != (view == "gallery"):
            request.session["gallery"] = view == "gallery"
        query = query.copy()
        del query["view"]
        request.GET = query
    return bool(request.session.get("gallery"))
