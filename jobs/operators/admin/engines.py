"""The page of engines. They change by themselves; an operator can pause, resume, restart or remove one."""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join

from jobs.models import Job
from jobs.models.engine import Engine, EngineQuerySet
from jobs.operators.admin.columns import TONES, state
from jobs.operators.admin.read_only import ReadOnlyAdmin
from jobs.operators.overview import badge, tone
from jobs.operators.troubles import advice
from jobs.operators.words import ago
from jobs.queue import engines as queue

logger = logging.getLogger(__name__)

EVENTS = 20  # that are shown


@dataclass(frozen=True)
class Act:
    button: str
    question: str
    done: str
    why_not: str
    do: Callable[[EngineQuerySet, str], list[str]]
    destroys: bool = False


def _remove(engines: EngineQuerySet, detail: str) -> list[str]:
    names = queue.remove(engines)
    logger.info("engines removed %s: %s", detail, ", ".join(names))
    return names


ACTS = {
    "pause": Act("Pause after this job",
        "Pause {}? It ends the job that it renders now, and gets no new ones until you resume it. A job that "
        "only waits in its ComfyUI goes back to the queue.",
        "Paused", "It is paused already.", queue.pause),
    "resume": Act("Resume", "Resume {}? It gets new jobs again.", "Resumed", "It is not paused.",
        queue.resume),
    "restart": Act("Restart ComfyUI",
        "Restart the ComfyUI of {} with its worker's COMFYUI_RESTART_COMMAND? What it renders now is lost "
        "and begins anew. To lose nothing, pause it first and wait for its job.",
        "Restart wanted", "Its worker has no COMFYUI_RESTART_COMMAND.", queue.want_restart, destroys=True),
    "remove": Act("Remove",
        "Remove {}? Renders that were begun on it begin anew on another engine. If its worker comes back, it "
        "makes a new row.",
        "Removed", "An engine that a worker holds stays: stop it first.", _remove, destroys=True),
}  # fmt: skip


def applicable(engine: Engine) -> list[str]:
    held = engine.state != "no worker"
    restart = ["restart"] if held and engine.can_restart else []
    return ["resume" if engine.paused else "pause", *restart, *([] if held else ["remove"])]


@admin.register(Engine)
class EngineAdmin(ReadOnlyAdmin):
    list_display = ("name", "stands", "jobs", "can_run", "missing_files", "seen")
    readonly_fields = ("address",)
    fields = ("name", "address", "version", "worker", "lease_until", "seen_at", "created_at")
    list_per_page = 100
    show_full_result_count = False
    change_form_template = "console/engine.html"
    change_list_template = "console/engines.html"
    actions = ("pause", "resume", "remove")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(partial(_act, self))
        return [path("<uuid:pk>/do/<slug:name>/", view, name="jobs_engine_do"), *super().get_urls()]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Reads the jobs of all engines in one query."""
        found = super().get_changelist_instance(request)
        jobs = list(Job.objects.begun_on_any())
        for engine in found.result_list:
            engine.begun = [job for job in jobs if job.engine_id == engine.pk]
        return found

    def top(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return told(row, self.has_manage_permission(request))

    @admin.action(description="Pause the selected engines", permissions=["manage"])
    def pause(self, request: HttpRequest, engines: EngineQuerySet) -> HttpResponse | None:
        return _on_chosen(self, request, engines, "pause")

    @admin.action(description="Resume the selected engines", permissions=["manage"])
    def resume(self, request: HttpRequest, engines: EngineQuerySet) -> HttpResponse | None:
        return _on_chosen(self, request, engines, "resume")

    @admin.action(description="Remove the selected engines that have no worker", permissions=["manage"])
    def remove(self, request: HttpRequest, engines: EngineQuerySet) -> HttpResponse | None:
        return _on_chosen(self, request, engines, "remove")

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_engine")

    @admin.display(description="state")
    def stands(self, engine: Engine) -> str:
        shown = format_html('<span class="badge {}">{}</span>', tone(engine), badge(engine))
        told = f"{engine.trouble} {advice(engine)}" if engine.trouble else advice(engine)
        return shown + format_html('<span class="advice quiet">{}</span>', told)

    @admin.display(description="jobs")
    def jobs(self, engine: Any) -> str:
        links = (
            (reverse("admin:jobs_job_change", args=[job.pk]), job.prompt[:60], TONES[job.status], state(job))
            for job in engine.begun
        )
        one = '<div class="one"><a href="{}">{}</a> <span class="badge {}">{}</span></div>'
        return format_html_join("", one, links) or "-"

    @admin.display(description="can run")
    def can_run(self, engine: Engine) -> str:
        return format_html_join("", "<div>{}</div>", ((pair,) for pair in abilities(engine))) or "nothing"

    @admin.display(description="lacks")
    def missing_files(self, engine: Engine) -> str:
        return format_html_join("", "<div>{}</div>", ((name,) for name in lacking(engine)[:5])) or "-"

    @admin.display(description="last answer", ordering="seen_at")
    def seen(self, engine: Engine) -> str:
        return f"{ago(engine.seen_at)} ago" if engine.seen_at else "never"


def begun(engine: Engine) -> list[Job]:
    return list(Job.objects.begun_on(engine).order_by("started_at", "id")[:10])


def abilities(engine: Engine) -> list[str]:
    """What it can run: a line for each preset, without versions."""
    kinds: dict[str, set[str]] = {}
    for preset, kind in (pair.split("/") for pair in queue.abilities(engine)):
        kinds.setdefault(preset.partition("@")[0], set()).add(kind)
    return [f"{preset}: {', '.join(sorted(found))}" for preset, found in sorted(kinds.items())]


def lacking(engine: Engine) -> list[str]:
    return sorted({*engine.lacks, *engine.missing})


def told(engine: Engine, may_change: bool) -> dict[str, Any]:
    """What stands on top of an engine's page."""
    names = applicable(engine) if may_change else []
    return {
        "tone": tone(engine),
        "badge": badge(engine),
        "advice": advice(engine),
        "jobs": [{"job": job, "tone": TONES[job.status], "state": state(job)} for job in begun(engine)],
        "abilities": abilities(engine),
        "lacking": lacking(engine),
        "events": engine.events.order_by("-at", "-pk")[:EVENTS],
        "buttons": [
            {
                "text": ACTS[name].button,
                "url": reverse("admin:jobs_engine_do", args=[engine.pk, name]),
                "destroys": ACTS[name].destroys,
            }
            for name in names
        ],
    }


def ask(page: Any, request: HttpRequest, act: Act, names: str, **more: Any) -> TemplateResponse:
    context = page.admin_site.each_context(request) | {
        "title": "Are you sure?",
        "question": act.question.format(names),
        "destroys": act.destroys,
        "button": f"Yes, {act.button[0].lower()}{act.button[1:]}",
        "opts": page.opts,
    }
    return TemplateResponse(request, "console/confirm.html", context | more)


def _on_chosen(
    page: EngineAdmin, request: HttpRequest, engines: EngineQuerySet, name: str
) -> HttpResponse | None:
    engines = Engine.objects.filter(pk__in=[engine.pk for engine in engines])
    if "confirmed" not in request.POST:
        chosen, names = [engine.pk for engine in engines], ", ".join(engine.name for engine in engines)
        return ask(page, request, ACTS[name], names, chosen=chosen, action=name, across="0")
    _do(page, request, engines, ACTS[name])
    return None


def _do(page: EngineAdmin, request: HttpRequest, engines: EngineQuerySet, act: Act) -> None:
    chosen, names = engines.count(), act.do(engines, f"by {request.user}")
    if names:
        page.message_user(request, f"{act.done}: {', '.join(names)}.", messages.SUCCESS)
    if chosen > len(names):
        page.message_user(request, act.why_not, messages.WARNING)


def _act(page: EngineAdmin, request: HttpRequest, pk: uuid.UUID, name: str) -> HttpResponse:
    if not page.has_manage_permission(request):
        raise PermissionDenied
    if name not in ACTS:
        raise Http404
    act, engines = ACTS[name], Engine.objects.filter(pk=pk)
    engine = engines.first()
    if engine is None:
        page.message_user(request, "There is no such engine any more.", messages.WARNING)
        return redirect("admin:jobs_engine_changelist")
    back = reverse("admin:jobs_engine_change", args=[pk])
    if request.method != "POST":
        return ask(page, request, act, engine.name, back_url=back)
    _do(page, request, engines, act)
    return redirect(back if engines.exists() else "admin:jobs_engine_changelist")
