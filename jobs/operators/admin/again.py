"""A job's page: "Submit again with these", which asks before it does anything."""

import uuid

from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from comfy import presets
from jobs.media.storage import StorageError
from jobs.models import Job
from jobs.models.key import LimitReached
from jobs.queue.again import CannotRepeat, submit_again

PAGE = "admin:jobs_job_change"


def again(page: ModelAdmin, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    if not request.user.has_perm("jobs.change_job"):
        raise PermissionDenied
    job = Job.objects.select_related("key").filter(pk=pk).first()
    if job is None:
        page.message_user(request, f"There is no job {pk} any more.", messages.WARNING)
        return redirect("admin:jobs_job_changelist")
    if request.method != "POST":
        return _question(page, request, job)
    try:
        new = submit_again(job, f"by {request.user}, as job {job.pk} was")
    except CannotRepeat as error:
        return _refused(page, request, job, str(error))
    except LimitReached as error:
        return _refused(page, request, job, f"Nothing was submitted. {error.message}")
    except StorageError as error:
        return _refused(page, request, job, f"S3 failed; nothing was submitted: {error}")
    page.message_user(request, f"Submitted: a new job like job {job.pk}.", messages.SUCCESS)
    return redirect(PAGE, new.pk)


def _question(page: ModelAdmin, request: HttpRequest, job: Job) -> TemplateResponse:
    context = page.admin_site.each_context(request) | {
        "title": "Are you sure?",
        "question": "Submit a new job with the prompt, parameters, seed and images of this one?" + _news(job),
        "button": "Yes, submit",
        "back": job,
        "opts": page.opts,
    }
    return TemplateResponse(request, "console/confirm.html", context)


def _news(job: Job) -> str:
    try:
        presets.find(job.preset)
    except KeyError:
        return f" The preset {job.preset_name} was changed since; the new job is made with what it is now."
    return ""


def _refused(page: ModelAdmin, request: HttpRequest, job: Job, why: str) -> HttpResponse:
    page.message_user(request, why, messages.ERROR)
    return redirect(PAGE, job.pk)
