"""The one place where an event of jobs is written: for operators, for the counters, and for webhooks."""

from collections.abc import Sequence
from typing import Any

from jobs.models import Event, Job
from jobs.queue import deliveries


def note(jobs: Sequence[Job], kind: Event.Kind, **more: Any) -> None:
    """Writes the event of each job, and the deliveries that tell of it, in the transaction of the change."""
    deliveries.write(jobs, kind)
    Event.objects.note(jobs, kind, **more)  # last, since it raises counters
