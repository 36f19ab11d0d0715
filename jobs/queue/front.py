"""An operator's word that a job goes first."""

from django.db import transaction
from django.db.models import Max, Min

from jobs.models import Event, Job
from jobs.models.job import JobQuerySet
from jobs.queue.change import change
from jobs.queue.submit import one_after_the_other


def move_to_front(jobs: JobQuerySet, detail: str = "") -> int:
    """Puts those of these jobs that wait, and are not begun, before all others of the queue. Several keep
    their order. ``detail`` says who wanted it. Returns how many were moved."""
    with transaction.atomic():
        one_after_the_other()
        waiting = Job.objects.queued().filter(lease_until=None, engine=None)
        chosen = list(waiting.filter(pk__in=jobs.values("pk")).in_order())
        highest = Job.objects.queued().aggregate(priority=Max("priority"))["priority"]
        first = Job.objects.queued().filter(priority=highest).aggregate(turn=Min("turn"))["turn"]
        moved = 0
        for place, job in enumerate(chosen):
            moved += change(
                waiting.filter(pk=job.pk),
                Event.Kind.MOVED,
                detail=detail,
                priority=highest,
                turn=first - len(chosen) + place,
            )
    return moved
