"""``manage.py job JOB_ID``: everything about one job."""

import json
import uuid
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.forms.models import model_to_dict

from jobs.media import storage
from jobs.models import Delivery, Event, Job
from jobs.queue import engines, estimate
from wanapi.timestamps import timestamp

SHOWN = ("event", "host", "state", "tries", "answer", "took", "trouble")  # of a webhook


class Command(BaseCommand):
    help = "Tells everything about one job: its row, what it waits for, its timeline, a link to its video."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job_id", type=uuid.UUID, metavar="JOB_ID")
        parser.add_argument("--json", action="store_true", help="with the graph that was sent to ComfyUI")

    def handle(self, *, job_id: uuid.UUID, json: bool, **options: Any) -> None:
        job = Job.objects.select_related("key", "engine").filter(pk=job_id).first()
        if job is None:
            raise CommandError(f"There is no job {job_id}.")
        self.stdout.write(as_json(job) if json else as_text(job))


def facts(job: Job) -> dict[str, Any]:
    """The fields of the row, by name, and what GET /jobs/{id} tells beside them; empty ones are left out."""
    row = model_to_dict(job, exclude=["webhook_url"]) | {
        "id": str(job.pk),
        "key": str(job.key or "environment"),
    }
    row |= {"parameters": job.shown_parameters}
    row |= {"waiting_for": engines.hindrance(job), "eta_seconds": estimate.seconds_left(job)}
    row |= {"engine": job.engine and job.engine.name}
    row |= {
        field.name: timestamp(getattr(job, field.name))
        for field in job._meta.fields
        if field.name.endswith(("_at", "_until", "_before"))
    }
    row["video"] = storage.link(job.video_key) if job.status == Job.Status.COMPLETED else None
    return {name: value for name, value in row.items() if value not in (None, "", [])}


def as_text(job: Job) -> str:
    row = facts(job)
    width = max(map(len, row))
    lines = [f"{label:{width}}  {text}" for name, value in row.items() for label, text in _lines(name, value)]
    for event in job.events.order_by("at", "pk"):
        what = str(event).lower()
        lines.append(f"{timestamp(event.at)}  {what}, attempt {event.attempt}, by {event.worker or '-'}")
        lines += [f"    {line}" for line in event.detail.splitlines()]
    for webhook in job.deliveries.order_by("at", "pk"):
        shown = (f"{name} {getattr(webhook, name) or '-'}" for name in SHOWN)
        lines.append(f"{timestamp(webhook.at)}  webhook {webhook.name}: {', '.join(shown)}")
    return "\n".join(lines)


def _lines(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A line for each parameter and each warning; the name stands before the first one."""
    if isinstance(value, dict):
        value = [f"{key}: {part}" for key, part in value.items()]
    texts = value if isinstance(value, list) else [value]
    return zip_longest([name], texts, fillvalue="")


def as_json(job: Job) -> str:
    events = [_event(event) for event in job.events.order_by("at", "pk")]
    webhooks = [_webhook(row) for row in job.deliveries.order_by("at", "pk")]
    return json.dumps(facts(job) | {"events": events, "webhooks": webhooks})


def _webhook(row: Delivery) -> dict[str, Any]:
    told = {"id": row.name, "at": timestamp(row.at)}
    return told | {name: getattr(row, name) for name in SHOWN}


def _event(event: Event) -> dict[str, Any]:
    told = {"at": timestamp(event.at), "event": event.kind}
    more = {
        name: getattr(event, name) for name in ("worker", "attempt", "render", "reason", "detail", "graph")
    }
    return told | {name: value for name, value in more.items() if value not in (None, "")}
