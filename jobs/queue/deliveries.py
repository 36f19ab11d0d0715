"""Deliveries: written with the event, claimed by a lease under a fence as jobs are, tried again after pauses.

At most PER_HOST tries run at once per host, and PER_KEY per API key, of all publish workers together. The
claim itself keeps to that, so that deliveries that must wait are rows and hold no thread. ``job.started``
leaves one place of each free, so that the event of a job's end never waits for it.
"""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from jobs.media import receivers
from jobs.media.receivers import MOST_OF_A_HOST
from jobs.models import ApiKey, Delivery, Job, Receiver, SwitchedOff, metric
from jobs.models.clock import seconds
from jobs.models.delivery import DeliveryQuerySet, kept
from jobs.models.event import Event, observe
from jobs.queue.wake import DELIVER, wake
from wanapi.sealed import Unreadable, mark, unseal

CLAIMS = 0x57414F  # the number of the advisory lock in Postgres that all claims take
PER_HOST, PER_KEY = 2, 4
LOOKED_AT = 100  # rows at a time, when a claim chooses
MARGIN = 5  # seconds after the end of a try until another worker takes the delivery over
PAUSES = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)  # seconds; as Standard Webhooks says
JITTER = 0.2  # of a pause, at most, is added to it
LONGEST_WAIT = 86_400  # seconds that a receiver's Retry-After may ask for
TOLD = {
    Event.Kind.STARTED: Delivery.Event.STARTED,
    Event.Kind.COMPLETED: Delivery.Event.COMPLETED,
    Event.Kind.FAILED: Delivery.Event.FAILED,
    Event.Kind.CANCELLED: Delivery.Event.CANCELLED,
}
STARTED = Delivery.Event.STARTED


def write(jobs: Sequence[Job], kind: Event.Kind) -> None:
    """Writes the deliveries of this event, in the caller's transaction. ``jobs`` may be as they were before
    the change: what is told is read anew."""
    event = TOLD.get(kind)
    chosen = [job.pk for job in jobs if job.webhook_url and event in job.webhook_events]
    if not event or not chosen:
        return
    rows = [_row(job, event) for job in Job.objects.filter(pk__in=chosen)]
    off = SwitchedOff.objects.filter(url_mark__in={row.url_mark for row in rows})
    unwanted = set(off.values_list("key", "url_mark"))
    if rows := [row for row in rows if (row.key_id, row.url_mark) not in unwanted]:
        Delivery.objects.bulk_create(rows, batch_size=500)
        wake(DELIVER)


def _row(job: Job, event: Delivery.Event) -> Delivery:
    row = Delivery(event=event, job=job, told=kept(job), key_id=job.key_id, url=job.webhook_url)
    try:
        url = unseal(job.webhook_url)
        row.url_mark, row.host = mark(url), receivers.host_of(urlsplit(url))[:MOST_OF_A_HOST]
    except Unreadable:  # the first try will say so
        row.url_mark, row.host = mark(job.webhook_url), "unknown"
    return row


def is_off(key: ApiKey | None, url: str) -> bool:
    return SwitchedOff.objects.filter(key=key, url_mark=mark(url)).exists()


# The claim


class Bounds:
    """How many tries may still begin: in all, and of what fails, of each host and of each API key."""

    def __init__(self, free: int, failing: int):
        self.free, self.failing = free, failing
        self.hosts, self.keys = Counter[str](), Counter[int | None]()
        self.started_hosts, self.started_keys = Counter[str](), Counter[int | None]()
        for event, host, key in Delivery.objects.flying().values_list("event", "host", "key"):
            self._count(event, host, key)

    def _count(self, event: str, host: str, key: int | None) -> None:
        self.hosts[host] += 1
        self.keys[key] += 1
        self.started_hosts[host] += event == STARTED
        self.started_keys[key] += event == STARTED

    def candidates(self) -> DeliveryQuerySet:
        """Those due of which each alone may begin. What waits for a bound is left out here, so that however
        much of it there is, the others are found."""
        failing = Receiver.objects.filter(pk=OuterRef("host"))
        rows = Delivery.objects.due().annotate(failing=Exists(failing), now=Now())
        rows = rows.exclude(_any(self.hosts, PER_HOST, self.keys, PER_KEY))
        started = _any(self.started_hosts, PER_HOST - 1, self.started_keys, PER_KEY - 1)
        rows = rows.exclude(Q(started, event=STARTED))
        return rows if self.failing > 0 else rows.exclude(failing=True)

    def take(self, row: Any) -> bool:
        """Counts it, and says whether it may begin beside those that were counted before."""
        full = self.hosts[row.host] >= PER_HOST or self.keys[row.key_id] >= PER_KEY
        if row.event == STARTED:
            full |= self.started_hosts[row.host] >= PER_HOST - 1
            full |= self.started_keys[row.key_id] >= PER_KEY - 1
        if full or self.free < 1 or (row.failing and self.failing < 1):
            return False
        self._count(row.event, row.host, row.key_id)
        self.free -= 1
        self.failing -= row.failing
        return True


def _any(hosts: Counter[str], per_host: int, keys: Counter[int | None], per_key: int) -> Q:
    full_keys = [key for key, count in keys.items() if count >= per_key]
    full = Q(host__in=[host for host, count in hosts.items() if count >= per_host])
    full |= Q(key__in=[key for key in full_keys if key is not None])
    return full | Q(key=None) if None in full_keys else full


def claim(free: int, failing: int) -> list["Try"]:
    """Up to ``free`` deliveries to try now, in the order in which they are due; of these at most ``failing``
    to hosts that take nothing at the moment."""
    with transaction.atomic():
        _one_after_the_other()
        bounds = Bounds(free, failing)
        chosen: list[Any] = []
        while bounds.free:
            rows = bounds.candidates().exclude(pk__in=[row.pk for row in chosen]).order_by("due_at", "id")
            rows = rows.select_related("key").select_for_update(skip_locked=True, of=("self",))
            taken = [row for row in rows[:LOOKED_AT] if bounds.take(row)]
            if not taken:
                break
            chosen += taken
        Delivery.objects.filter(pk__in=[row.pk for row in chosen]).update(
            fence=F("fence") + 1,
            tried_at=Now(),
            due_at=Now(),  # if the worker dies, those that wait for longer come first
            lease_until=Now() + seconds(settings.WEBHOOK_TIMEOUT + MARGIN),
        )
    there = set(Job.objects.filter(pk__in={row.job_id for row in chosen}).values_list("pk", flat=True))
    return [Try(row, job_is_there=row.job_id in there) for row in chosen]


class Try:
    """A delivery in the hands of whoever tries it. What is written after the lease ran out, and another one
    took it over, changes nothing."""

    def __init__(self, delivery: Any, *, job_is_there: bool) -> None:
        self.delivery, self.job_is_there = delivery, job_is_there
        self.fails, self.began = delivery.failing, delivery.now
        self.number = delivery.tries + 1  # one that ends with the worker's death is not counted
        delivery.fence += 1

    def finish(self, answer: receivers.Answer, took: float) -> None:
        row, changes = self.delivery, self._changes(answer)
        with transaction.atomic():
            if answer.status == receivers.GONE:
                _one_after_the_other()
            mine = Delivery.objects.pending().filter(pk=row.pk, fence=row.fence)
            changes |= {"tries": F("tries") + 1, "lease_until": None, "took": took}
            if not mine.update(answer=answer.status, trouble=answer.trouble, **changes):
                return
            if answer.status == receivers.GONE:
                _switch_off(row)
            _note(row.host, well=answer.taken)
            remove_finished(Delivery.objects.orphans().filter(pk=row.pk))
            self._measure(answer, took)

    def _changes(self, answer: receivers.Answer) -> dict[str, Any]:
        if answer.taken:
            return {"state": Delivery.State.DELIVERED}
        if answer.status == receivers.GONE:
            return {"state": Delivery.State.OFF}
        if self.number > len(PAUSES):
            return {"state": Delivery.State.FAILED}
        pause = PAUSES[self.number - 1] * (1 + random.uniform(0, JITTER))  # noqa: S311 - no secret
        return {"due_at": Now() + seconds(max(pause, min(answer.wait, LONGEST_WAIT)))}

    def _measure(self, answer: receivers.Answer, took: float) -> None:
        outcome = "delivered" if answer.taken else "refused" if answer.status else "unreachable"
        amounts = Counter({("webhook_tries", outcome): 1})
        if answer.taken:
            observe(amounts, "webhook_delay_seconds", self.delivery.at, self.began + timedelta(seconds=took))
        metric.add(dict(amounts))


def _note(host: str, *, well: bool) -> None:
    """Whether the host takes what it is sent."""
    if not well and Delivery.objects.pending().filter(host=host).exists():
        Receiver.objects.bulk_create([Receiver(host=host)], ignore_conflicts=True)
    else:
        Receiver.objects.filter(host=host).delete()


def _switch_off(row: Delivery) -> None:
    """Nothing more goes to this URL for this API key."""
    off = SwitchedOff(key_id=row.key_id, url_mark=row.url_mark, host=row.host)
    SwitchedOff.objects.bulk_create([off], ignore_conflicts=True)
    others = Delivery.objects.pending().filter(key=row.key_id, url_mark=row.url_mark)
    locked = [other.pk for other in others.select_for_update().order_by("pk")]
    Delivery.objects.filter(pk__in=locked).update(state=Delivery.State.OFF, lease_until=None)
    remove_finished(Delivery.objects.orphans().filter(key=row.key_id, url_mark=row.url_mark))


def remove_finished(deliveries: DeliveryQuerySet) -> None:
    deliveries.exclude(state=Delivery.State.PENDING).delete()


def let_go(job: Job) -> None:
    """The job is being removed: what is still to be told outlives it, the rest goes. The rows are locked, so
    that a try that ends meanwhile finds out that the job is gone."""
    locked = Delivery.objects.filter(job=job).select_for_update().order_by("pk")
    remove_finished(Delivery.objects.filter(pk__in=[row.pk for row in locked]))


def send_again(deliveries: DeliveryQuerySet) -> int:
    """Tries these once more, from the first try on, also those that were taken, given up or switched off. A
    URL that was switched off gets its events again from now on. Returns how many there are."""
    with transaction.atomic():
        _one_after_the_other()
        for key, url_mark in set(deliveries.values_list("key", "url_mark")):
            SwitchedOff.objects.filter(key=key, url_mark=url_mark).delete()
        rows = [row.pk for row in deliveries.select_for_update(of=("self",)).order_by("pk")]
        count = Delivery.objects.filter(pk__in=rows).update(
            state=Delivery.State.PENDING, tries=0, due_at=Now()
        )
        if count:
            wake(DELIVER)
        return count


def _one_after_the_other() -> None:
    """Takes a lock until the transaction ends: then the bounds are exact. It must be taken before any row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CLAIMS])
