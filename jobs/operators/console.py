"""The operators' console: Django's admin, with a bar of pages, and a first page that tells how things are."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import SimpleLazyObject

from jobs.models import ApiKey, Engine, Job
from jobs.operators import overview

# title, address, the permission to see it
PAGES = (
    ("Overview", "index", ""),
    ("Jobs", "jobs_job_changelist", "jobs.view_job"),
    ("Engines", "jobs_engine_changelist", "jobs.view_engine"),
    ("Keys", "jobs_apikey_changelist", "jobs.view_apikey"),
    ("Users", "auth_user_changelist", "auth.view_user"),
    ("Locks", "axes_accessattempt_changelist", "axes.view_accessattempt"),
)


class Console(admin.AdminSite):
    site_header = site_title = "WANAPI"
    index_title = "Overview"
    index_template = "console/overview.html"
    enable_nav_sidebar = False  # the bar leads everywhere

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return super().each_context(request) | {"bar": SimpleLazyObject(lambda: bar(request))}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        seen = overview.situation() if request.user.has_perm("jobs.view_job") else {}
        return super().index(request, (extra_context or {}) | seen)


def bar(request: HttpRequest) -> list[dict[str, Any]]:
    """The pages that this user may see, those of the service with a count."""
    return [
        {"title": title, "url": reverse(f"admin:{name}"), "current": _is_current(request, name)}
        | (COUNTS[title]() if title in COUNTS else {})
        for title, name, permission in PAGES
        if not permission or request.user.has_perm(permission)
    ]


def _is_current(request: HttpRequest, name: str) -> bool:
    url = reverse(f"admin:{name}")
    return request.path == url if name == "index" else request.path.startswith(url)


def _jobs() -> dict[str, Any]:
    unfinished = Job.objects.filter(status__in=["queued", "processing"]).count()
    return {"count": f"{unfinished:,}", "hint": "queued or processing"}


def _engines() -> dict[str, Any]:
    ready, all_engines = Engine.objects.loaded().count(), Engine.objects.count()
    return {"count": f"{ready}/{all_engines}", "hint": f"{ready} of {all_engines} ready"}


def _keys() -> dict[str, Any]:
    return {"count": f"{ApiKey.objects.valid().count()}", "hint": "valid"}


COUNTS = {"Jobs": _jobs, "Engines": _engines, "Keys": _keys}
