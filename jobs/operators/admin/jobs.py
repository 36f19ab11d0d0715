"""The pages of jobs. They change by what ``acts`` lists alone, each of which asks before it does anything."""

import re
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from jobs.models import Job
from jobs.models.job import JobQuerySet
from jobs.operators import export
from jobs.operators.admin.acts import ACTS, on_chosen, on_one
from jobs.operators.admin.again import again
from jobs.operators.admin.columns import Columns
from jobs.operators.admin.deliveries import DeliveryInline
from jobs.operators.admin.job_page import Details, told
from jobs.operators.admin.listing import BoundedPaginator, PresetFilter, with_view
from jobs.operators.admin.read_only import ReadOnlyAdmin

LOOKUPS = {
    *("status__exact", "kind__exact", "created_at__gte", "created_at__lt"),
    *("engine__id__exact", "engine__isnull", "key__id__exact", "key__isnull", PresetFilter.parameter_name),
}
SEARCHED = 50_000  # prompts at most, since there is no index of their words
QUEUE = ("priority", "turn", "worker", "fence", "lease_until", "not_before")
FOLDED: Any = {"classes": ("collapse",)}


@admin.register(Job)
class JobAdmin(Columns, Details, ReadOnlyAdmin):
    list_display = ("thumbnail", "told", "stands", "from_key", "age", "time")
    list_display_links = None
    list_filter = ("status", "kind", PresetFilter, "engine", "key", "created_at")
    search_fields = ("id", "prompt")  # get_search_results() has its own way
    search_help_text = f"An id, or words of the prompt: of the newest {SEARCHED:,} that the filters leave."
    sortable_by = ("age",)  # the others would sort the whole table
    list_select_related = ("key",)
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each would count the whole table
    paginator = BoundedPaginator
    actions = ("requeue", "front", "cancel", "purge", "export")
    change_list_template = "console/jobs.html"
    change_form_template = "console/job.html"
    fieldsets = (
        ("Request", {"fields": ("id", "kind", "preset", "key", "asked", "warned")} | FOLDED),
        ("Times", {"fields": ("created_at", "started_at", "rendered_at", "finished_at", "waited")} | FOLDED),
        ("Queue and claim", {"fields": QUEUE} | FOLDED),
        ("Render", {"fields": ("engine", "attempt", "render", "output")} | FOLDED),
        ("Troubles", {"fields": ("lost", "out_of_memory", "lapses", "publish_tries")} | FOLDED),
        ("Video file", {"fields": ("video_size", "video_frames", "video_sha256")} | FOLDED),
        ("Graph", {"fields": ("graph",)} | FOLDED),
    )

    def get_urls(self) -> list[Any]:
        repeat, one = (self.admin_site.admin_view(partial(view, self)) for view in (again, on_one))
        return [
            path("<uuid:pk>/again/", repeat, name="jobs_job_again"),
            path("<uuid:pk>/do/<slug:name>/", one, name="jobs_job_do"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        gallery = with_view(request)
        return super().changelist_view(request, (extra_context or {}) | {"gallery": gallery})

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found: Any = super().get_changelist_instance(request)
        found.gallery = with_view(request)
        return found

    def get_inlines(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [DeliveryInline] if obj and obj.deliveries.exists() else []

    def top(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return told(row, self.has_manage_permission(request))

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """The newest first; queued jobs alone in the order in which they will be claimed."""
        if request.GET.get("status__exact") == Job.Status.QUEUED:
            return ("-priority", "turn", "id")
        return ("-created_at", "-id")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Only the lookups of our filters. Django would allow others, such as a regular expression over all
        prompts."""
        return lookup in LOOKUPS

    def get_search_results(self, request: HttpRequest, jobs: Any, text: str) -> tuple[Any, bool]:
        if not (words := text.split()):
            return jobs, False
        if re.fullmatch("[0-9a-f]{8}", text.strip().lower()):  # as the list shows it
            first = UUID(text.strip() + 24 * "0")
            return jobs.filter(pk__range=(first, UUID(text.strip() + 24 * "f"))), False
        with suppress(ValueError):
            return jobs.filter(pk=UUID(text.strip())), False
        newest = jobs.order_by("-created_at", "-id")[:SEARCHED].values("pk")
        return jobs.filter(*[Q(prompt__icontains=word) for word in words], pk__in=newest), False

    # Actions

    @admin.action(description="Requeue the selected failed or cancelled jobs", permissions=["manage"])
    def requeue(self, request: HttpRequest, jobs: JobQuerySet) -> HttpResponse | None:
        return on_chosen(self, request, jobs, ACTS["requeue"])

    @admin.action(description="Move the selected queued jobs to the front", permissions=["manage"])
    def front(self, request: HttpRequest, jobs: JobQuerySet) -> HttpResponse | None:
        return on_chosen(self, request, jobs, ACTS["front"])

    @admin.action(description="Cancel the selected jobs that are not finished", permissions=["manage"])
    def cancel(self, request: HttpRequest, jobs: JobQuerySet) -> HttpResponse | None:
        return on_chosen(self, request, jobs, ACTS["cancel"])

    @admin.action(description="Purge the selected finished jobs", permissions=["manage"])
    def purge(self, request: HttpRequest, jobs: JobQuerySet) -> HttpResponse | None:
        return on_chosen(self, request, jobs, ACTS["purge"])

    @admin.action(description="Export the selected jobs as CSV", permissions=["view"])
    def export(self, request: HttpRequest, jobs: JobQuerySet) -> StreamingHttpResponse:
        answer = StreamingHttpResponse(export.lines(jobs), content_type="text/csv; charset=utf-8")
        answer["Content-Disposition"] = 'attachment; filename="jobs.csv"'
        return answer

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_job")
