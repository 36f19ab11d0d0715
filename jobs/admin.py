"""The operators' view: read-only, but for the action that requeues."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.timezone import now

from jobs import storage
from jobs.engines import Engine
from jobs.keys import ApiKey, ApiKeyQuerySet
from jobs.models import Job, JobQuerySet
from jobs.timeline import Event


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows are changed by the service alone; its code knows which changes are safe."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EventInline(admin.TabularInline):
    model = Event
    fields = readonly_fields = ("at", "kind", "worker", "attempt", "render", "detail")
    ordering = ("at", "pk")
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "status",
        "kind",
        "short_prompt",
        "key",
        "created_at",
        "waited",
        "ran",
        "percent",
        "attempt",
    )
    list_filter = ("status", "kind", "preset", "engine", "key", "created_at")
    search_fields = ("=id", "prompt")
    ordering = ("-created_at", "-id")
    list_select_related = ("key",)
    list_per_page = 50
    show_full_result_count = False
    actions = ("requeue", "cancel")
    inlines = (EventInline,)
    fieldsets = (
        (
            None,
            {"fields": ("id", "status", "error", "percent", "prompt", "kind", "reference_image", "video")},
        ),
        ("Times", {"fields": ("created_at", "started_at", "rendered_at", "finished_at", "waited", "ran")}),
        ("Queue", {"fields": ("key", "priority", "turn")}),
        ("Render", {"fields": ("engine", "preset", "seed", "attempt", "render", "output")}),
        ("Claim", {"fields": ("worker", "fence", "lease_until", "not_before")}),
        ("Troubles", {"fields": ("lost", "out_of_memory", "lapses", "publish_tries")}),
        ("Video file", {"fields": ("video_size", "video_frames", "video_sha256")}),
    )

    @admin.display(description="prompt")
    def short_prompt(self, job: Job) -> str:
        return job.prompt if len(job.prompt) <= 60 else job.prompt[:59] + "…"

    @admin.display(description="progress", ordering="progress")
    def percent(self, job: Job) -> str:
        return format_html('<progress max="100" value="{}"></progress> {}%', job.progress, job.progress)

    @admin.display(description="waiting")
    def waited(self, job: Job) -> str:
        return timesince(job.created_at, job.started_at or job.finished_at or now())

    @admin.display(description="running")
    def ran(self, job: Job) -> str:
        if job.started_at is None or job.status == Job.Status.QUEUED:
            return "-"
        return timesince(job.started_at, job.finished_at or now())

    @admin.display(description="reference image")
    def reference_image(self, job: Job) -> str:
        if job.kind != Job.Kind.IMAGE_TO_VIDEO:
            return "-"
        return format_html('<img src="{}" width="416" alt="reference image">', storage.presign(job.input_key))

    @admin.display(description="video")
    def video(self, job: Job) -> str:
        if job.status != Job.Status.COMPLETED:
            return "-"
        return format_html(
            '<video src="{}" width="832" controls loop muted></video>', storage.presign(job.video_key)
        )

    @admin.action(description="Requeue the selected failed or cancelled jobs", permissions=["manage"])
    def requeue(self, request: HttpRequest, jobs: JobQuerySet) -> None:
        selected, count = jobs.count(), jobs.requeue(f"by {request.user}")
        self._tell(request, count, "requeued", selected - count, "neither failed nor cancelled")

    @admin.action(description="Cancel the selected jobs that are not finished", permissions=["manage"])
    def cancel(self, request: HttpRequest, jobs: JobQuerySet) -> None:
        selected, count = jobs.count(), jobs.cancel(f"by {request.user}")
        self._tell(request, count, "cancelled", selected - count, "finished")

    def _tell(self, request: HttpRequest, done: int, what: str, others: int, why: str) -> None:
        if done:
            self.message_user(request, f"{done} job{pluralize(done)} {what}.", messages.SUCCESS)
        if others:
            stay = pluralize(others, "is,are"), pluralize(others, "stays as it is,stay as they are")
            text = f"{others} job{pluralize(others)} {stay[0]} {why} and {stay[1]}."
            self.message_user(request, text, messages.WARNING)

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_job")


@admin.register(Engine)
class EngineAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "version", "seen_at", "worker", "missing")

    @admin.display(description="state")
    def state(self, engine: Engine) -> str:
        if engine.lease_until is None or engine.lease_until < now():
            return "no worker"
        if engine.trouble:
            return engine.trouble
        if not engine.ready:
            return "ComfyUI does not answer"
        return "model files missing" if engine.lacks else "ready"

    @admin.display(description="missing model files")
    def missing(self, engine: Engine) -> str:
        return ", ".join(engine.lacks) or "-"


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    list_display = ("name", "prefix", "state", "all_jobs", "priority", "last_used_at", "created_at", "note")
    search_fields = ("name", "prefix", "note")
    fields = ("name", "note", "expires_at", "all_jobs", "priority", "max_queued", "max_per_day")
    actions = ("revoke",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its jobs remember it: revoke it

    def save_model(self, request: HttpRequest, key: ApiKey, form: Any, change: bool) -> None:
        if change:
            key.save(update_fields=self.fields)
            return
        text = key.draw()
        key.save()
        self.message_user(request, f"The key, shown this once: {text}", messages.WARNING)

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return "revoked"
        return "expired" if key.expires_at and key.expires_at <= now() else "valid"

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: ApiKeyQuerySet) -> None:
        count = keys.revoke()
        self.message_user(request, f"{count} key{pluralize(count)} revoked.", messages.SUCCESS)
