"""Changes of jobs without a claim: by an operator, by a client, or because the jobs' holder is gone."""

from typing import Any

from django.db import transaction

from jobs.models import Event, Job
from jobs.models.job import JobQuerySet
from jobs.queue.events import note
from jobs.queue.wake import tell_of_change


def change(jobs: JobQuerySet, kind: Event.Kind, *, reason: str = "", detail: str = "", **changes: Any) -> int:
    """Changes these rows, whoever holds them, and notes the event; returns how many rows there were.

    The rows are locked first, in the order of their ids, and the counters of ``/metrics`` last. Every
    transaction that locks several rows keeps to this order, so that no two of them wait for each other.
    """
    with transaction.atomic():
        locked = list(jobs.select_for_update(of=("self",)).order_by("pk"))
        Job.objects.filter(pk__in=[job.pk for job in locked]).update(**changes)
        note(locked, kind, reason=reason, detail=detail)
        tell_of_change(locked)
        return len(locked)
