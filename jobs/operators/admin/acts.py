"""What an operator can do to jobs, from the list or from a job's page. Each asks before it does anything."""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse

from jobs.media import storage
from jobs.models import Job
from jobs.models.job import FINAL, REQUEUABLE, JobQuerySet
from jobs.queue.front import move_to_front
from jobs.queue.returns import cancel, purge
from jobs.queue.submit import requeue

logger = logging.getLogger(__name__)

MOST_PURGED = 200  # jobs at once: each costs some requests to S3, while a browser waits
NAMED = 20  # jobs that a question names


@dataclass(frozen=True)
class Act:
    """``question``, ``done`` and ``why_not`` are parts of sentences about "3 jobs". ``statuses``: of the jobs
    that it can be done to. ``destroys``: whether something is lost by it."""

    name: str
    button: str
    question: str
    done: str
    why_not: str
    statuses: tuple[str, ...]
    do: Callable[[JobQuerySet, str], int]
    destroys: bool = False
    loses: str = ""


class Interrupted(Exception):
    """S3 failed when some were done already."""

    def __init__(self, done: int, why: storage.StorageError):
        super().__init__(f"S3 failed; the others stay: {why}")
        self.done = done


def _purge(jobs: JobQuerySet, detail: str) -> int:
    count = 0
    for job in jobs:
        try:
            with storage.slot():
                purged = purge(job)
        except storage.StorageError as error:
            raise Interrupted(count, error) from error
        if purged:
            logger.info("job %s: purged %s", job.pk, detail)  # there is no other trace of it
        count += purged
    return count


ALL = (
    Act("requeue", "Requeue", "Render {} anew?", "requeued", "neither failed nor cancelled", REQUEUABLE,
        requeue),
    Act("front", "Move to front", "Move {} to the front of the queue?", "moved to the front",
        "not waiting in the queue", ("queued",), move_to_front),
    Act("cancel", "Cancel", "Cancel {}?", "cancelled", "finished", ("queued", "processing"), cancel,
        destroys=True, loses="What is rendered of it by now is lost."),
    Act("purge", "Purge", "Remove {} with videos and images, for good?", "removed",
        "not finished, or was not reached", FINAL, _purge, destroys=True, loses="This cannot be undone."),
)  # fmt: skip
ACTS = {act.name: act for act in ALL}


def applies(act: Act, job: Job) -> bool:
    if act.name == "front" and job.is_begun:
        return False
    return job.status in act.statuses


# From the list


def on_chosen(page: ModelAdmin, request: HttpRequest, jobs: JobQuerySet, act: Act) -> HttpResponse | None:
    """Asks, or does it if that was confirmed."""
    fitting = jobs.filter(status__in=act.statuses)
    selected, count = jobs.count(), fitting.count()
    if act.name == "purge" and count > MOST_PURGED:
        text = f"At most {MOST_PURGED} at once here; for more there is manage.py purge_jobs."
        page.message_user(request, text, messages.ERROR)
        return None
    if "confirmed" not in request.POST and count:
        chosen = request.POST.getlist(ACTION_CHECKBOX_NAME)
        across = request.POST.get("select_across", "0")
        return ask(page, request, fitting, act, chosen=chosen, across=across, action=act.name)
    done = _do(page, request, fitting, act)
    _tell(page, request, act, done, selected - done)
    return None


def ask(page: ModelAdmin, request: HttpRequest, jobs: JobQuerySet, act: Act, **more: Any) -> TemplateResponse:
    """The page that asks the operator to confirm it, and names the jobs."""
    count = jobs.count()
    context = page.admin_site.each_context(request) | {
        "title": "Are you sure?",
        "question": act.question.format(f"{count} job{pluralize(count)}"),
        "loses": act.loses,
        "destroys": act.destroys,
        "named": jobs[:NAMED],
        "more": max(count - NAMED, 0),
        "button": f"Yes, {act.button.lower()}",
        "opts": page.opts,
    }
    return TemplateResponse(request, "console/confirm.html", context | more)


def _do(page: ModelAdmin, request: HttpRequest, jobs: JobQuerySet, act: Act) -> int:
    try:
        return act.do(jobs, f"by {request.user}")
    except Interrupted as error:
        page.message_user(request, str(error), messages.ERROR)
        return error.done


def _tell(page: ModelAdmin, request: HttpRequest, act: Act, done: int, others: int) -> None:
    if done:
        page.message_user(request, f"{done} job{pluralize(done)} {act.done}.", messages.SUCCESS)
    if others:
        stay = pluralize(others, "is,are"), pluralize(others, "stays as it is,stay as they are")
        text = f"{others} job{pluralize(others)} {stay[0]} {act.why_not} and {stay[1]}."
        page.message_user(request, text, messages.WARNING)


# From a job's page


def on_one(page: ModelAdmin, request: HttpRequest, pk: uuid.UUID, name: str) -> HttpResponse:
    if not request.user.has_perm("jobs.change_job"):
        raise PermissionDenied
    if name not in ACTS:
        raise Http404
    act, jobs = ACTS[name], Job.objects.filter(pk=pk)
    job = jobs.first()
    if job is None:
        page.message_user(request, f"There is no job {pk} any more.", messages.WARNING)
        return redirect("admin:jobs_job_changelist")
    if request.method != "POST" and applies(act, job):
        return ask(page, request, jobs, act, back=job)
    done = _do(page, request, jobs.filter(status__in=act.statuses), act) if request.method == "POST" else 0
    _tell(page, request, act, done, 1 - done)
    if done and act.name == "purge":
        return redirect("admin:jobs_job_changelist")
    return redirect("admin:jobs_job_change", pk)
