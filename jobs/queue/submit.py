"""How a job gets into the queue: limits, turns, idempotency; and how an operator puts it there again."""

from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max
from django.db.models.functions import Now
from django.template.defaultfilters import pluralize

from jobs.models import ApiKey, Event, Job, Served
from jobs.models.clock import seconds
from jobs.models.job import REQUEUABLE, JobQuerySet
from jobs.models.key import LimitReached
from jobs.queue.causes import COUNTERS
from jobs.queue.change import change
from jobs.queue.events import note
from jobs.queue.wake import RENDER, wake

SUBMISSIONS = 0x57414E  # the number of the advisory lock in Postgres that all submits take
REPEATED_WITHIN = 15 * 60  # seconds; OpenAI's libraries wait ten minutes for an answer


class QueueFull(LimitReached):
    """The limit of all keys together is reached."""


def check_limits(key: ApiKey | None) -> None:
    """Raises LimitReached if one job more of this key would be too many."""
    waiting = Job.objects.queued().count()
    if waiting >= settings.MAX_WAITING:
        raise QueueFull(
            f"The queue is full: {waiting} job{pluralize(waiting, ' is,s are')} waiting.", wait=60
        )
    if key:
        key.check_limits(Job.objects.queued().filter(key=key).count())


def submitted_with(idempotency_key: str, key: ApiKey | None) -> Job | None:
    """The job of this API key that has this idempotency key, or None. A job that is older than
    IDEMPOTENCY_HOURS loses its idempotency key first."""
    jobs = Job.objects.filter(idempotency_key=idempotency_key, key=key)
    jobs.filter(created_at__lt=Now() - seconds(3600 * settings.IDEMPOTENCY_HOURS)).update(
        idempotency_key=None
    )
    return jobs.first()


class Arrival(NamedTuple):
    """When a request came, by Postgres' clock, and whether it says that it was sent before."""

    at: datetime
    repeated: bool

    @classmethod
    def now(cls, repeated: bool) -> "Arrival":
        with connection.cursor() as cursor:
            cursor.execute("SELECT statement_timestamp()")
            return cls(cursor.fetchone()[0], repeated)


def equal(job: Job, arrival: Arrival) -> Job | None:
    """The job of an equal request that this one is a repetition of, or that is a repetition of this one.

    The libraries of OpenAI send a request again when they got no answer, without an idempotency key, and only
    the second one says that it is a repetition. It belongs to the newest equal job of the last
    REPEATED_WITHIN seconds. But the first one may still be under way, and be accepted after it. So a job that
    came of a repetition (``Job.repeated``) is also that of one request that is none, if this arrived before
    the job was accepted.
    """
    equals = Job.objects.filter(key=job.key_id, request_sha256=job.request_sha256, deleted=False)
    if arrival.repeated:
        recent = equals.filter(created_at__gt=Now() - seconds(REPEATED_WITHIN))
        return recent.order_by("-created_at", "-id").first()
    for found in equals.filter(repeated=True, created_at__gte=arrival.at).order_by("created_at", "id"):
        if Job.objects.filter(pk=found.pk, repeated=True).update(repeated=False):
            return found
    return None


def submit(job: Job, detail: str = "", arrival: Arrival | None = None) -> Job:
    """Accepts a job: its row and the wake-up commit together. Raises LimitReached, and IntegrityError if
    its idempotency key was used already. If another request with the same idempotency key is just being
    accepted, this one waits for it. ``detail`` says how it came about, if not by a client's request.

    With an arrival the answer may be an ``equal`` job in place of this one: under the lock, either of two
    equal requests finds the other one's job."""
    with transaction.atomic():
        one_after_the_other()
        if arrival and (earlier := equal(job, arrival)):
            return earlier
        if job.key_id:
            job.key = ApiKey.objects.get(pk=job.key_id)
            job.priority = job.key.priority
        check_limits(job.key)
        if job.key:
            job.key.count_one()
        job.turn = next_turn(job.key, job.priority)
        job.save(force_insert=True)
        job.refresh_from_db()
        job.first_position = job.position
        job.save(update_fields=["first_position"])
        told = [f"with {job.key or 'the API_KEY'}", detail]
        note([job], Event.Kind.CREATED, detail=", ".join(filter(None, told)))
        wake(RENDER)
    return job


def requeue(jobs: JobQuerySet, detail: str = "") -> int:
    """An operator's second chance for those of these jobs that failed or were cancelled: a new render, all
    counters back to 0, and a new turn, so that a hundred failed jobs of one key do not come before everybody
    else's. ``attempt`` goes on, since it tells a webhook of this chance from one of the last. ``detail`` says
    who wanted it. Returns how many were requeued."""
    cleared: dict[str, Any] = dict.fromkeys(COUNTERS, 0)
    with transaction.atomic():
        one_after_the_other()
        chosen = list(jobs.filter(status__in=REQUEUABLE).values_list("pk", flat=True))
        count = change(
            Job.objects.filter(pk__in=chosen, status__in=REQUEUABLE),
            Event.Kind.REQUEUED,
            detail=detail,
            **Job.UNRENDERED,
            **cleared,
            error="",
            finished_at=None,
            not_before=None,
            turn=0,
            deleted=False,
        )
        _give_turns(Job.objects.queued().filter(pk__in=chosen))
        if count:
            wake(RENDER)
    return count


def next_turn(key: ApiKey | None, priority: int) -> int:
    """The turn for the key's next job: the turn now served in this priority, or the one after the key's last,
    whichever is later. So a key with one job waits for one job of each other key, and not for all of them.
    A job that was cancelled before a worker claimed it does not count."""
    claimed = Served.objects.filter(key=key, priority=priority).aggregate(turn=Max("turn"))["turn"] or 0
    queued = Job.objects.queued().filter(key=key, priority=priority)
    waiting = queued.aggregate(turn=Max("turn"))["turn"] or 0
    return max(Served.objects.of(priority), claimed + 1, waiting + 1)


def _give_turns(jobs: JobQuerySet) -> None:
    """Gives these jobs new turns: in the order in which they were submitted, and after the jobs that their
    key has in the queue already."""
    chosen = list(jobs.select_related("key").order_by("created_at", "id"))
    turns: dict[tuple[int | None, int], int] = {}
    for job in chosen:
        share = (job.key_id, job.priority)
        turns[share] = turns[share] + 1 if share in turns else next_turn(job.key, job.priority)
        job.turn = turns[share]
    Job.objects.bulk_update(chosen, ["turn"], batch_size=1000)


def one_after_the_other() -> None:
    """Takes a lock that holds until the transaction ends, so that submits and requeues wait for each other:
    then limits are exact, and each turn is given once. It must be taken before any row is locked."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SUBMISSIONS])
