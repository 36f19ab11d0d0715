"""How jobs are taken from their holders, or removed: leases that ran out, cancel, purge."""

from contextlib import suppress

from django.db import transaction
from django.db.models import Case, F, Value, When
from django.db.models.functions import Now

from jobs.media import storage
from jobs.models import Event, Job, Tombstone
from jobs.models.job import FINAL, JobQuerySet, owner
from jobs.queue.causes import LEASE_RAN_OUT
from jobs.queue.change import change
from jobs.queue.deliveries import let_go
from jobs.queue.wake import tell_of_cancelled


def return_expired() -> int:
    """Does ``return_lapsed`` for all jobs whose lease ran out; returns how many there were."""
    return return_lapsed(Job.objects.filter(lease_until__lt=Now()))


def return_lapsed(jobs: JobQuerySet) -> int:
    """Takes these held jobs back because their worker is gone. The fifth time in a row, a job fails.

    A render goes back to the queue and keeps its engine, where its prompt may still run.
    A finished render stays ``processing``, for the next publisher. Returns how many jobs there were.
    """
    cause = LEASE_RAN_OUT
    with transaction.atomic():
        # change() locks jobs, and then the counters of /metrics. It is called twice, so all jobs are locked
        # before that: no transaction may lock a job after it has locked a counter.
        locked = [job.pk for job in jobs.select_for_update(of=("self",)).order_by("pk")]
        held = Job.objects.filter(pk__in=locked)
        failed = change(
            held.filter(lapses__gte=cause.limit - 1),
            Event.Kind.FAILED,
            reason=cause.reason,
            status=Job.Status.FAILED,
            error=cause.error,
            lapses=cause.limit,
            finished_at=Now(),
            lease_until=None,
        )
        return failed + change(
            held.filter(lease_until__isnull=False),
            cause.event,
            status=Case(
                When(rendered_at=None, then=Value(Job.Status.QUEUED)),
                default=Value(Job.Status.PROCESSING),
            ),
            lapses=F("lapses") + 1,
            lease_until=None,
        )


def cancel(jobs: JobQuerySet, detail: str = "") -> int:
    """Ends those of these jobs that are queued or processing, and returns how many; ``detail`` says who
    wanted it. Their rows are final at once. A worker that holds one of them finds its claim lost, and takes
    the prompt out of ComfyUI."""
    with transaction.atomic():
        tell_of_cancelled()
        return change(
            jobs.filter(status__in=[Job.Status.QUEUED, Job.Status.PROCESSING]),
            Event.Kind.CANCELLED,
            detail=detail,
            status=Job.Status.CANCELLED,
            error="Cancelled.",
            finished_at=Now(),
            lease_until=None,
        )


def remove(job: Job) -> bool:
    """Removes a job for good, whatever its state. For its client it is gone at once. If it is not finished it
    is cancelled, and its row goes when its prompt is no longer in ComfyUI (``JobQuerySet.to_remove``).
    Returns whether it was there. Raises StorageError for a finished job."""
    with transaction.atomic():
        cancelled = cancel(Job.objects.filter(pk=job.pk), "deleted by a client")
        if cancelled:
            Job.objects.filter(pk=job.pk).update(deleted=True, idempotency_key=None)
    if not cancelled:
        return bool(purge(job))
    if Job.objects.to_remove().filter(pk=job.pk).exists():
        with suppress(storage.StorageError):  # retention tries again
            purge(job)
    return True


def purge(job: Job) -> int:
    """Removes a finished job and its objects in S3 for good. Returns 1, or 0 if the job is not finished or
    not there. Raises StorageError.

    The objects go first: a row without objects can be purged again, but nobody would find objects without
    a row.
    """
    with transaction.atomic():
        row = Job.objects.select_for_update().filter(pk=job.pk, status__in=FINAL)
        if not row.exists():
            return 0  # it was requeued, or purged by somebody else
        videos = [key for key, _ in storage.listed(f"videos/{job.pk}/") if owner(key)]
        storage.delete([*{job.input_key, *job.input_keys}, *videos])
        Tombstone.objects.note(job.pk, submitted_at=job.created_at)
        let_go(job)
        return row.delete()[1]["jobs.Job"]
