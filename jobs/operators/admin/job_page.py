"""What stands on top of a job's page: where it stands and why, its video, what can be done, its timeline."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from jobs.media import storage
from jobs.models import Job
from jobs.models.event import Event
from jobs.operators.admin.acts import ACTS, applies
from jobs.operators.admin.columns import TONES, parts, state
from jobs.operators.words import duration, in_words
from jobs.queue import engines, estimate

EVENTS = 200  # that are shown, the newest
TONE_OF_EVENT = {"completed": "well", "failed": "unwell", "cancelled": "off"}
SHORT = 200  # characters of a reason; the rest is folded


def told(job: Job, may_change: bool) -> dict[str, Any]:
    left = estimate.seconds_left(job)
    done = job.status == Job.Status.COMPLETED
    return {
        "state": state(job),
        "tone": TONES[job.status],
        "hindrance": engines.hindrance(job),
        "place": _place(job),
        "left": "" if left is None else in_words(left),
        "parts": parts(job),
        "video": storage.link(job.video_key) if done else "",
        "poster": storage.link(job.poster_key) if done else "",
        "images": [{"name": name, "link": storage.link(key)} for key, name in _images(job)],
        "buttons": _buttons(job) if may_change else [],
        "timeline": timeline(job),
    }


def _images(job: Job) -> list[tuple[str, str]]:
    names = {job.input_key: "start image", job.last_input_key: "image of the last frame"}
    return [(key, names[key]) for key in job.input_keys]


def _place(job: Job) -> str:
    if job.status != Job.Status.QUEUED:
        return ""
    if job.engine and not job.lease_until:
        return f"It was begun on {job.engine}, and waits ENGINE_GRACE seconds for its worker."
    if job.lease_until:
        return f"It is next on {job.engine or job.worker}."
    return f"{job.position} job{'' if job.position == 1 else 's'} before it."


def _buttons(job: Job) -> list[dict[str, Any]]:
    """What can be done to it now. "Submit again" makes another job, and is always possible."""
    found = [
        {
            "text": act.button,
            "url": reverse("admin:jobs_job_do", args=[job.pk, act.name]),
            "destroys": act.destroys,
        }
        for act in ACTS.values()
        if applies(act, job)
    ]
    again = {"text": "Submit again with these", "url": reverse("admin:jobs_job_again", args=[job.pk])}
    return (
        [button for button in found if not button["destroys"]]
        + [again]
        + [button for button in found if button["destroys"]]
    )


def timeline(job: Job) -> list[dict[str, Any]]:
    """Each event with the time since the one before, its reason, and who did it."""
    events = list(job.events.defer("graph").order_by("-at", "-pk")[:EVENTS])[::-1]
    found: list[dict[str, Any]] = []
    before: datetime | None = None
    for event in events:
        passed = event.at - before if before else None
        short, _, rest = event.detail.strip().partition("\n")
        found.append(
            {
                "event": event,
                "tone": TONE_OF_EVENT.get(event.kind, "between"),
                "passed": "" if passed is None or passed < timedelta(seconds=1) else f"+{in_words(passed)}",
                "why": short[:SHORT],
                "whole": event.detail if rest or len(short) > SHORT else "",
            }
        )
        before = event.at
    return found


def _lines(texts: Iterable[str]) -> str:
    return format_html_join("", '<div class="wrapped">{}</div>', ((text,) for text in texts)) or "-"


class Details:
    """The fields of the folded part."""

    @admin.display(description="parameters")
    def asked(self, job: Job) -> str:
        return _lines(f"{name}: {value}" for name, value in sorted(job.shown_parameters.items()))

    @admin.display(description="warnings")
    def warned(self, job: Job) -> str:
        return _lines(job.warnings)

    @admin.display(description="waiting")
    def waited(self, job: Job) -> str:
        return duration(job.created_at, job.started_at or job.finished_at or job.created_at)

    @admin.display(description="graph, as it was sent last")
    def graph(self, job: Job) -> str:
        sent = job.events.filter(kind=Event.Kind.POSTED).order_by("at", "pk").last()
        if sent is None:
            return "-"
        text = json.dumps(sent.graph, indent=2, ensure_ascii=False)
        return format_html('<pre class="wrapped">{}</pre>', text)
