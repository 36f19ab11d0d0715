"""The six columns of the list of jobs."""

from django.contrib import admin
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.timezone import now

from jobs.media import storage
from jobs.models import Job
from jobs.operators.words import ago, duration

TONES = {
    "queued": "between",
    "processing": "busy",
    "completed": "well",
    "failed": "unwell",
    "cancelled": "off",
}
METER = '<span class="meter"><progress max="100" value="{}" aria-label="progress"></progress> {}%</span>'
PROMPT = '<a class="prompt" href="{}/change/" data-job="{}">{}</a>{}<span class="quiet">{} · {} · {}</span>'


def state(job: Job) -> str:
    """The state in one or two words."""
    if job.status == Job.Status.PROCESSING:
        return "publishing" if job.rendered_at else "rendering"
    return job.status


def took(job: Job) -> str:
    """How long it renders or rendered, or how long it waits."""
    if job.started_at and job.status != Job.Status.QUEUED:
        return duration(job.started_at, job.rendered_at or job.finished_at or now())
    return f"waits {duration(job.created_at, job.finished_at or now())}" if not job.finished_at else "-"


def parts(job: Job) -> str:
    """The parts of its way, for a hint."""
    told = [f"waited {duration(job.created_at, job.started_at or job.finished_at or now())}"]
    if job.started_at and job.status != Job.Status.QUEUED:
        verb = "rendered" if job.rendered_at or job.finished_at else "renders since"
        told.append(f"{verb} {duration(job.started_at, job.rendered_at or job.finished_at or now())}")
    if job.rendered_at:
        verb = "published" if job.finished_at else "publishes since"
        told.append(f"{verb} {duration(job.rendered_at, job.finished_at or now())}")
    return ", ".join(told)


class Columns:
    @admin.display(description="video")
    def thumbnail(self, job: Job) -> str:
        if job.status != Job.Status.COMPLETED:
            return format_html('<span class="no-video {}"></span>', TONES[job.status])
        return format_html(
            '<a href="{}/change/" tabindex="-1" aria-hidden="true"><img src="{}" alt="" loading="lazy"></a>',
            job.pk,
            storage.link(job.poster_key),
        )

    @admin.display(description="prompt")
    def told(self, job: Job) -> str:
        cause = format_html('<span class="cause">{}</span>', Truncator(job.error).chars(200))
        prompt, short = Truncator(job.prompt).chars(120), str(job.pk)[:8]
        shown = cause if job.error else ""
        return format_html(PROMPT, job.pk, job.pk, prompt, shown, short, job.preset_name, job.kind)

    @admin.display(description="state")
    def stands(self, job: Job) -> str:
        badge = format_html('<span class="badge {}">{}</span>', TONES[job.status], state(job))
        if job.status != Job.Status.PROCESSING:
            return badge
        return badge + format_html(METER, job.progress, job.progress)

    @admin.display(description="key")
    def from_key(self, job: Job) -> str:
        return str(job.key) if job.key else "API_KEY"

    @admin.display(description="age", ordering="created_at")
    def age(self, job: Job) -> str:
        moment = f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"
        return format_html('<span title="{}">{}</span>', moment, ago(job.created_at))

    @admin.display(description="duration")
    def time(self, job: Job) -> str:
        return format_html('<span title="{}">{}</span>', parts(job), took(job))
