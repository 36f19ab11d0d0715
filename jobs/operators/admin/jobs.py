"""The pages of jobs. They change by actions alone, each of which asks before it does anything."""

import json
import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator
from django.utils.timezone import now

from jobs.media import storage
from jobs.models import Job
from jobs.models.event import Event
from jobs.models.job import FINAL, REQUEUABLE, JobQuerySet
from jobs.operators import export
from jobs.operators.admin.again import again
from jobs.operators.admin.deliveries import DeliveryInline
from jobs.operators.admin.listing import BoundedPaginator, PresetFilter
from jobs.operators.admin.read_only import ReadOnlyAdmin
from jobs.operators.console import duration
from jobs.queue import engines, estimate
from jobs.queue.returns import cancel, purge
from jobs.queue.submit import requeue

logger = logging.getLogger(__name__)

LOOKUPS = {
    *("status__exact", "kind__exact", "created_at__gte", "created_at__lt"),
    *("engine__id__exact", "engine__isnull", "key__id__exact", "key__isnull", PresetFilter.parameter_name),
}
SEARCHED = 50_000  # prompts at most, since there is no index of their words
MOST_PURGED = 200  # jobs at once: each costs some requests to S3, while a browser waits


class EventInline(admin.TabularInline):
    model = Event
    verbose_name_plural = "timeline"
    fields = readonly_fields = ("at", "kind", "worker", "attempt", "render", "told")
    ordering = ("at", "pk")
    extra = 0
    can_delete = False

    @admin.display(description="detail")
    def told(self, event: Event) -> str:
        return format_html('<span class="wrapped">{}</span>', event.detail or "-")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _lines(texts: Iterable[str]) -> str:
    return format_html_join("", '<div class="wrapped">{}</div>', ((text,) for text in texts)) or "-"


def _image(job: Job, key: str, name: str) -> str:
    if key not in job.input_keys:
        return "-"
    return format_html('<img src="{}" width="416" alt="{}">', storage.link(key), name)


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = (
        "short_id",
        "thumbnail",
        "status",
        "percent",
        "cause",
        "short_prompt",
        "kind",
        "key",
        "created_at",
        "waited",
        "ran",
        "attempt",
    )
    list_filter = ("status", "kind", PresetFilter, "engine", "key", "created_at")
    search_fields = ("id", "prompt")  # get_search_results() has its own way
    search_help_text = f"An id, or words of the prompt: of the newest {SEARCHED:,} that the filters leave."
    sortable_by = ("created_at",)  # the others would sort the whole table
    list_select_related = ("key",)
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each would count the whole table
    paginator = BoundedPaginator
    actions = ("requeue", "cancel", "purge", "export")
    change_form_template = "console/job.html"
    inlines = (EventInline, DeliveryInline)
    fieldsets = (
        (None, {"fields": ("id", "status", "error", "percent", "waiting_for", "time_left", "video")}),
        (
            "Request",
            {"fields": ("prompt", "kind", "preset", "asked", "warned", "reference_image", "last_image")},
        ),
        ("Times", {"fields": ("created_at", "started_at", "rendered_at", "finished_at", "waited", "ran")}),
        ("Queue", {"fields": ("key", "priority", "turn", "place")}),
        ("Render", {"fields": ("engine", "attempt", "render", "output", "graph")}),
        ("Claim", {"fields": ("worker", "fence", "lease_until", "not_before")}),
        ("Troubles", {"fields": ("lost", "out_of_memory", "lapses", "publish_tries")}),
        ("Video file", {"fields": ("video_size", "video_frames", "video_sha256")}),
    )

    class Media:
        css: ClassVar = {"all": ["console/console.css"]}

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(partial(again, self))
        return [path("<uuid:pk>/again/", view, name="jobs_job_again"), *super().get_urls()]

    def change_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        options["extra_context"] = {"may_submit": self.has_manage_permission(request)}
        return super().change_view(request, *args, **options)

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

    @admin.display(description="job")
    def short_id(self, job: Job) -> str:
        return format_html('<span title="{}">{}</span>', job.pk, str(job.pk)[:8])

    @admin.display(description="prompt")
    def short_prompt(self, job: Job) -> str:
        return Truncator(job.prompt).chars(60)

    @admin.display(description="cause of failure")
    def cause(self, job: Job) -> str:
        return Truncator(job.error).chars(120) or "-"

    @admin.display(description="")
    def thumbnail(self, job: Job) -> str:
        if job.status != Job.Status.COMPLETED:
            return ""
        link = storage.link(job.poster_key)
        return format_html('<img src="{}" alt="first frame" loading="lazy">', link)

    @admin.display(description="progress")
    def percent(self, job: Job) -> str:
        return format_html('<progress max="100" value="{}"></progress> {}%', job.progress, job.progress)

    @admin.display(description="waiting")
    def waited(self, job: Job) -> str:
        return duration(job.created_at, job.started_at or job.finished_at or now())

    @admin.display(description="rendering")
    def ran(self, job: Job) -> str:
        if job.started_at is None or job.status == Job.Status.QUEUED:
            return "-"
        return duration(job.started_at, job.rendered_at or job.finished_at or now())

    @admin.display(description="jobs before it")
    def place(self, job: Job) -> str:
        if job.status != Job.Status.QUEUED:
            return "-"
        if job.engine and not job.lease_until:
            return f"none: it was begun on {job.engine}, and waits ENGINE_GRACE seconds for its worker"
        return str(job.position)

    @admin.display(description="waiting for")
    def waiting_for(self, job: Job) -> str:
        return engines.hindrance(job) or "-"

    @admin.display(description="time left")
    def time_left(self, job: Job) -> str:
        left, moment = estimate.seconds_left(job), now()
        return "-" if left is None else duration(moment, moment + timedelta(seconds=left))

    @admin.display(description="parameters")
    def asked(self, job: Job) -> str:
        return _lines(f"{name}: {value}" for name, value in sorted(job.shown_parameters.items()))

    @admin.display(description="warnings")
    def warned(self, job: Job) -> str:
        return _lines(job.warnings)

    @admin.display(description="reference image")
    def reference_image(self, job: Job) -> str:
        return _image(job, job.input_key, "reference image")

    @admin.display(description="last frame")
    def last_image(self, job: Job) -> str:
        return _image(job, job.last_input_key, "image of the last frame")

    @admin.display(description="video")
    def video(self, job: Job) -> str:
        if job.status != Job.Status.COMPLETED:
            return "-"
        return format_html(
            '<video src="{}" width="832" controls loop muted></video>', storage.link(job.video_key)
        )

    @admin.display(description="graph, as it was sent last")
    def graph(self, job: Job) -> str:
        sent = job.events.filter(kind=Event.Kind.POSTED).order_by("at", "pk").last()
        if sent is None:
            return "-"
        text = json.dumps(sent.graph, indent=2, ensure_ascii=False)
        return format_html('<details><summary>show</summary><pre class="wrapped">{}</pre></details>', text)

    # Actions

    @admin.action(description="Requeue the selected failed or cancelled jobs", permissions=["manage"])
    def requeue(self, request: HttpRequest, jobs: JobQuerySet) -> TemplateResponse | None:
        if page := self._confirm(request, jobs.filter(status__in=REQUEUABLE), "requeue", "Render {} anew?"):
            return page
        selected, count = jobs.count(), requeue(jobs, f"by {request.user}")
        self._tell(request, count, "requeued", selected - count, "neither failed nor cancelled")
        return None

    @admin.action(description="Cancel the selected jobs that are not finished", permissions=["manage"])
    def cancel(self, request: HttpRequest, jobs: JobQuerySet) -> TemplateResponse | None:
        if page := self._confirm(request, jobs.exclude(status__in=FINAL), "cancel", "Cancel {}?"):
            return page
        selected, count = jobs.count(), cancel(jobs, f"by {request.user}")
        self._tell(request, count, "cancelled", selected - count, "finished")
        return None

    @admin.action(description="Purge the selected finished jobs", permissions=["manage"])
    def purge(self, request: HttpRequest, jobs: JobQuerySet) -> TemplateResponse | None:
        selected, finished, count = jobs.count(), jobs.filter(status__in=FINAL), 0
        if finished.count() > MOST_PURGED:
            text = f"At most {MOST_PURGED} at once here; for more there is manage.py purge_jobs."
            self.message_user(request, text, messages.ERROR)
            return None
        question = "Remove {} with videos and images, for good?"
        if page := self._confirm(request, finished, "purge", question):
            return page
        try:
            for job in finished:
                with storage.slot():
                    purged = purge(job)
                if purged:
                    logger.info("job %s: purged by %s", job.pk, request.user)  # there is no other trace of it
                count += purged
        except storage.StorageError as error:
            self.message_user(request, f"S3 failed; the others stay: {error}", messages.ERROR)
        self._tell(request, count, "removed", selected - count, "not finished, or was not reached")
        return None

    @admin.action(description="Export the selected jobs as CSV", permissions=["view"])
    def export(self, request: HttpRequest, jobs: JobQuerySet) -> StreamingHttpResponse:
        answer = StreamingHttpResponse(export.lines(jobs), content_type="text/csv; charset=utf-8")
        answer["Content-Disposition"] = 'attachment; filename="jobs.csv"'
        return answer

    def _confirm(
        self, request: HttpRequest, jobs: JobQuerySet, action: str, question: str
    ) -> TemplateResponse | None:
        """The page that asks the operator to confirm the action. None if that is done, or if the action does
        not apply to any of the jobs."""
        count = jobs.count()
        if "confirmed" in request.POST or not count:
            return None
        context = self.admin_site.each_context(request) | {
            "title": "Are you sure?",
            "question": question.format(f"{count} job{pluralize(count)}"),
            "button": f"Yes, {action}",
            "action": action,
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "across": request.POST.get("select_across", "0"),
            "opts": self.model._meta,
        }
        return TemplateResponse(request, "console/confirm.html", context)

    def _tell(self, request: HttpRequest, done: int, what: str, others: int, why: str) -> None:
        if done:
            self.message_user(request, f"{done} job{pluralize(done)} {what}.", messages.SUCCESS)
        if others:
            stay = pluralize(others, "is,are"), pluralize(others, "stays as it is,stay as they are")
            text = f"{others} job{pluralize(others)} {stay[0]} {why} and {stay[1]}."
            self.message_user(request, text, messages.WARNING)

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_job")
