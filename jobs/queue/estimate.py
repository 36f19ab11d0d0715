"""When a job will be completed, as far as anybody can know now: ``seconds_left``.

The work is played forward. Each engine goes on with the jobs that it has, and takes the next one that it can
run when its last one begins, as the renderer does (it keeps one prompt waiting in ComfyUI). Each job takes as
long as jobs of its sort took lately.
"""

import math
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now

from jobs.models import Engine, Job
from jobs.models.job import FINAL, JobQuerySet
from jobs.queue import timings
from jobs.queue.engines import abilities
from jobs.queue.timings import Timings

NEAR = 200  # jobs before a job that are looked at one by one; of a longer queue, so many stand for all
IDS = 2**128
POLL = 1.0  # seconds between two looks of a renderer, within which it claims


class Row(NamedTuple):
    """What is read of an unfinished job. ``since``: the time since its render began, or since it ended if it
    has ended. ``pause``: the time until it may be claimed again."""

    pk: uuid.UUID
    preset: str
    kind: str
    work: int
    progress: int
    held: bool
    engine: uuid.UUID | None
    since: timedelta | None
    pause: timedelta | None

    @property
    def pair(self) -> str:
        return f"{self.preset}/{self.kind}"

    @property
    def is_begun(self) -> bool:
        return self.held or self.engine is not None


class Lane:
    """The work before one engine, in seconds from now."""

    def __init__(self, able: Sequence[str]) -> None:
        self.able = set(able)
        self.opens = 0.0  # when it claims one job more: when its last one begins
        self.free = 0.0  # when that one will begin

    def take(self, seconds: float) -> None:
        self.opens, self.free = self.free, self.free + seconds


Lanes = dict[uuid.UUID | None, Lane]  # by engine


def seconds_left(job: Job) -> int | None:
    """Until the job is completed. None if it is finished, if no engine can run it now, or if there is no
    timing yet."""
    if job.status in FINAL:
        return None
    times = timings.newest()
    rows = _rows(job) if times else []
    own = next((row for row in rows if row.pk == job.pk), None)
    if own is None:
        return None
    if job.rendered_at:
        return math.ceil(max(times.publishing - _seconds(own.since), _seconds(own.pause), 0.0))
    if job.status == Job.Status.PROCESSING:
        rendered: float | None = _render(own, times)
    else:
        rendered = _until_rendered(own, [row for row in rows if row is not own], job.position, times)
    return None if rendered is None else math.ceil(rendered + times.publishing)


def _rows(job: Job) -> list[Row]:
    """The job itself. If it is queued, also those that are begun, and those that come before it, in their
    order.

    If these are many, only a sample of them: those with the lowest ids, since ids are random. A job that is
    in the sample stays in it while the queue gets shorter, so that the estimate does not jump.
    """
    wanted = Q(pk=job.pk)
    if job.status == Job.Status.QUEUED:
        begun = Q(lease_until__isnull=False) | Q(status=Job.Status.QUEUED, engine__isnull=False)
        wanted |= begun & Q(rendered_at=None)
        if not job.is_begun:
            before = Q(status=Job.Status.QUEUED, priority__gte=job.priority) & job.earlier
            if job.position > NEAR:
                before &= Q(pk__lt=uuid.UUID(int=IDS * NEAR // job.position))
            wanted |= before
    return _read(Job.objects.filter(wanted))


def _read(jobs: JobQuerySet, first: int | None = None) -> list[Row]:
    since = Now() - Coalesce("rendered_at", "started_at")
    held: Any = Q(lease_until__isnull=False)
    fields = ("pk", "preset", "kind", "work", "progress", held, "engine", since, F("not_before") - Now())
    return [Row(*row) for row in jobs.in_order().values_list(*fields)[:first]]


def outlook(first: int) -> dict[uuid.UUID, int]:
    """The seconds left, for an overview: of all renders that are begun, and of the ``first`` jobs that wait.
    Jobs that no engine can run now are left out. Four queries, however many jobs and engines there are."""
    times = timings.newest()
    if not times:
        return {}
    unfinished = Job.objects.filter(status__in=[Job.Status.QUEUED, Job.Status.PROCESSING], rendered_at=None)
    begun = _read(unfinished.exclude(lease_until=None, engine=None))
    waiting = _read(Job.objects.queued().filter(lease_until=None, engine=None), first)
    lanes, left = _lanes(), dict[uuid.UUID, float]()
    for row in [*sorted(begun, key=lambda row: row.since is None), *waiting]:
        if row.since is not None:
            left[row.pk] = _render(row, times)
        elif able := _able(row, lanes):
            left[row.pk] = max(_start(able), _seconds(row.pause)) + _render(row, times)
        _give(row, lanes, times)
    return {pk: math.ceil(seconds + times.publishing) for pk, seconds in left.items()}


def _until_rendered(own: Row, ahead: list[Row], position: int, times: Timings) -> float | None:
    """The seconds until this queued job is rendered, after those ahead of it."""
    lanes = _lanes()
    begun = sorted((row for row in ahead if row.is_begun), key=lambda row: row.since is None)
    waiting = [row for row in ahead if not row.is_begun]
    for row in begun:
        _give(row, lanes, times)
    if position <= NEAR:
        for row in waiting:
            _give(row, lanes, times)
    elif waiting:
        all_waiting = position - sum(row.since is None for row in begun)
        _spread(waiting, all_waiting / len(waiting), lanes, times)
    able = _able(own, lanes)
    return max(_start(able), _seconds(own.pause)) + _render(own, times) if able else None


def _lanes() -> Lanes:
    """A paused engine finishes what it has, and takes nothing more."""
    answering = Engine.objects.answering().only("runs", "lacks", "paused")
    return {engine.pk: Lane([] if engine.paused else abilities(engine)) for engine in answering}


def _give(row: Row, lanes: Lanes, times: Timings) -> None:
    """Gives the job to its engine, or else to the one that can claim it first."""
    if able := _able(row, lanes):
        min(able, key=lambda lane: (lane.opens, lane.free)).take(_render(row, times))


def _able(row: Row, lanes: Lanes) -> list[Lane]:
    """The engine that has the job, or else those that can run it."""
    if row.engine in lanes:
        return [lanes[row.engine]]
    return [lane for lane in lanes.values() if row.pair in lane.able]


def _start(able: list[Lane]) -> float:
    """When the next job will begin on one of these.

    The one that opens first will claim it, but the further away that is, the less it is known which one that
    will be; and the job may begin much later on one than on another. So it is a mean, in which those weigh
    most that open first. With the first one alone, estimates would jump up and down.
    """
    if any(lane.free == 0 for lane in able):
        return 0.0
    first = min(lane.opens for lane in able)
    weights = [math.exp((first - lane.opens) / (first + POLL)) for lane in able]
    return sum(weight * lane.free for weight, lane in zip(weights, able, strict=True)) / sum(weights)


def _spread(rows: list[Row], each: float, lanes: Lanes, times: Timings) -> None:
    """Spreads jobs over the engines that can run them, so that these become free at the same time. Each row
    stands for ``each`` jobs. There are so many that their order does not matter."""
    shares: dict[str, list[Row]] = {}
    for row in rows:
        shares.setdefault(row.pair, []).append(row)
    # What few engines can run goes first, since what all can run fits in anywhere.
    for alike in sorted(shares.values(), key=lambda alike: len(_able(alike[0], lanes))):
        seconds = each * sum(_render(row, times) for row in alike)
        able = sorted(_able(alike[0], lanes), key=lambda lane: lane.free)
        while able:
            level = (seconds + sum(lane.free for lane in able)) / len(able)
            if level >= able[-1].free:
                break
            busy = able.pop()  # for longer than that, and it will not take the next one before
            busy.opens = busy.free
        for lane in able:
            lane.opens = lane.free = level


def _render(row: Row, times: Timings) -> float:
    """The seconds that its render still takes. They never grow. A render that takes longer than it should has
    half of the time left that its progress tells: a model that loads for long, or a lost connection, keeps
    the progress low, and must not hold the estimate up."""
    whole = times.render(row.preset, row.kind, row.work)
    return max(whole - _seconds(row.since), whole * (1 - row.progress / 100) / 2)


def _seconds(time: timedelta | None) -> float:
    return time.total_seconds() if time else 0.0
