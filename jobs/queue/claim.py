"""Claims: how a worker gets a job, keeps it, and what it may write to it.

A claim is a lease in time under a fence number that goes up with each claim. Every write of a holder names
its fence; if somebody else claimed the job meanwhile, or it was cancelled, the write changes nothing and
raises ClaimLost.
"""

import uuid
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, Q
from django.db.models.functions import Coalesce, Least, Now

from jobs.models import Engine, Event, Job, Served
from jobs.models.clock import seconds
from jobs.models.job import SUSPECT, JobQuerySet
from jobs.queue import events
from jobs.queue.causes import NOT_PUBLISHED, Cause
from jobs.queue.engines import abilities
from jobs.queue.wake import PUBLISH, RENDER, tell_of_change, wake


class ClaimLost(Exception):
    """Somebody else holds this job by now, or it is finished: let go of it and change nothing."""


def waiting_for(engine: Engine) -> JobQuerySet:
    """The queued jobs that this engine may render now: those that were begun on it, and new ones of a kind
    that it can run, unless it is paused. Those begun on another engine are left to that engine, unless it
    fell silent."""
    free = Q(engine=None) | Q(engine__in=Engine.objects.silent().exclude(pk=engine.pk))
    runnable = Q(pk__in=[])
    for preset, kind in (pair.split("/") for pair in abilities(engine) if not engine.paused):
        runnable |= Q(preset=preset, kind=kind)
    return Job.objects.to_render().filter(Q(engine=engine) | free & runnable)


def has_work(engine: Engine) -> bool:
    """Whether there is something to render on this engine, or to take out of its ComfyUI."""
    return waiting_for(engine).exists() or Job.objects.leaving(engine).exists()


def claim_render(engine: Engine, *, images: bool = True, suspects: bool = True) -> "Claim | None":
    """The next job for this engine; None if there is none, or if the engine is not ready or not ours.

    Renders that were begun on this engine come first: their prompts may still be in its ComfyUI. Without
    ``images``, no image job is begun. Without ``suspects``, no job is claimed whose last workers died
    while they held it (``jobs.models.job.SUSPECT``).
    """
    ready = Engine.objects.held_by(engine.worker).filter(pk=engine.pk, ready=True)
    waiting = waiting_for(engine).filter(Exists(ready)).in_order()
    if not suspects:
        waiting = waiting.filter(lapses__lt=SUSPECT)
    new = waiting.exclude(engine=engine).filter(Exists(ready.filter(paused=False)))
    if not images:
        new = new.filter(kind=Job.Kind.TEXT_TO_VIDEO)
    begun = waiting.filter(engine=engine)
    for jobs, kind in ((begun, Event.Kind.ADOPTED), (new, Event.Kind.CLAIMED)):
        if claim := _claim(jobs, engine.worker, kind, attempt=F("attempt") + 1):
            return claim
    return None


def claim_publish(worker: str) -> "Claim | None":
    """The rendered job that waits for the longest time; None if there is none."""
    return _claim(Job.objects.to_publish().order_by("rendered_at", "id"), worker, Event.Kind.PUBLISHING)


def _claim(jobs: JobQuerySet, worker: str, kind: Event.Kind, **changes: Any) -> "Claim | None":
    """The first of these jobs that nobody else takes at this moment."""
    with transaction.atomic():
        job = jobs.select_for_update(skip_locked=True, of=("self",)).first()
        if job is None:
            return None
        Job.objects.filter(pk=job.pk).update(
            worker=worker,
            fence=F("fence") + 1,
            lease_until=Now() + seconds(settings.JOB_LEASE),
            not_before=None,
            **changes,
        )
        job.refresh_from_db()
        if kind == Event.Kind.CLAIMED:
            Served.objects.note(job.key_id, job.priority, job.turn)
        events.note([job], kind)
        tell_of_change([job])
        return Claim(job)


def renew(claims: "Iterable[Claim]") -> None:
    """The heartbeat: extends the leases of those claims that still hold their jobs."""
    for claim in claims:
        claim.row().update(lease_until=Now() + seconds(settings.JOB_LEASE))


def holding(claims: "Iterable[Claim]") -> "list[Claim]":
    """Those of these claims that still hold: whose job was neither cancelled nor taken over."""
    claims = list(claims)
    jobs = Job.objects.filter(pk__in=[claim.job.pk for claim in claims], lease_until__isnull=False)
    fences: dict[uuid.UUID, int] = dict(jobs.values_list("pk", "fence")) if claims else {}
    return [claim for claim in claims if fences.get(claim.job.pk) == claim.fence]


class Claim:
    """A job in the hands of its holder, who alone may write to its row, and only through this object.

    Every method but ``row`` raises ClaimLost if the job is not held under this claim any more; then nothing
    was changed.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.fence = job, job.fence

    def row(self) -> JobQuerySet:
        """The job's row, if we still hold it."""
        unfinished = [Job.Status.QUEUED, Job.Status.PROCESSING]
        return Job.objects.filter(
            pk=self.job.pk, fence=self.fence, lease_until__isnull=False, status__in=unfinished
        )

    def _write(
        self,
        kind: Event.Kind | None,
        *,
        only_if: Q | None = None,
        note: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        """Changes the row and notes the event. All that a holder writes goes through here."""
        with transaction.atomic():  # the update locks the row, so that what is read after it is still ours
            if not self.row().filter(only_if or Q()).update(**changes):
                raise ClaimLost(self.job.pk)
            self.job.refresh_from_db()
            if kind:
                events.note([self.job], kind, **(note or {}))
            tell_of_change([self.job])

    # The render

    def begin(self, engine: Engine, graph: dict[str, Any]) -> None:
        """Notes a new render on this engine, with the job's next render number. This is committed before the
        prompt is posted, so that a worker that takes the job over knows where to look for the prompt. Raises
        ClaimLost also if our worker does not hold the engine any more."""
        ours = Exists(Engine.objects.held_by(engine.worker).filter(pk=engine.pk))
        self._write(
            Event.Kind.POSTED,
            only_if=Q(ours, render=self.job.render),
            note={"graph": graph},
            engine=engine,
            render=self.job.render + 1,
            started_at=None,
            progress=0,
        )

    def started(self) -> None:
        """ComfyUI executes the prompt. For an adopted prompt that ran before already this is no progress:
        ``lapses`` and ``snoozes``, which count in a row, are not set to 0."""
        if self.job.started_at:
            self._write(None, status=Job.Status.PROCESSING)
        else:
            self._write(
                Event.Kind.STARTED, status=Job.Status.PROCESSING, started_at=Now(), lapses=0, snoozes=0
            )

    def advanced(self, progress: int) -> None:
        """Writes the ``progress``, in percent of all sampling steps; ``lapses`` begins at 0 again."""
        self._write(None, progress=progress, lapses=0)

    def rendered(self, output: str) -> None:
        """The video lies in the job's output folder on the engine, under the name ``output``. Gives the job
        to the publishers."""
        with transaction.atomic():
            self._write(
                Event.Kind.RENDERED,
                status=Job.Status.PROCESSING,
                started_at=Coalesce("started_at", Now()),
                rendered_at=Now(),
                progress=99,
                output=output,
                lapses=0,
                lease_until=None,
            )
            wake(PUBLISH)

    # The publish

    def completed(self, *, size: int, frames: int, sha256: str) -> None:
        """The video, of ``size`` bytes, is in S3 under ``job.video_key`` and was checked. A second call does
        no harm: if the connection broke during the first one, its commit may have happened all the same."""
        try:
            self._write(
                Event.Kind.COMPLETED,
                status=Job.Status.COMPLETED,
                finished_at=Now(),
                progress=100,
                video_size=size,
                video_frames=frames,
                video_sha256=sha256,
                lease_until=None,
            )
        except ClaimLost:
            done = Job.objects.filter(pk=self.job.pk, fence=self.fence, status=Job.Status.COMPLETED)
            if not done.exists():
                raise
            self.job.refresh_from_db()

    def publish_later(self, detail: str = "") -> None:
        """Ends the claim by NOT_PUBLISHED: the job waits, longer each time, and is never given up. Only the
        first delay is noted as an event."""
        tries = self.job.publish_tries
        self._write(
            None if tries else NOT_PUBLISHED.event,
            note={"detail": detail},
            publish_tries=F("publish_tries") + 1,
            lapses=0,
            lease_until=None,
            not_before=Now() + seconds(NOT_PUBLISHED.pause_after(tries)),
        )

    # The end without a video

    def end(self, cause: Cause, detail: str = "", *, error: str = "") -> None:
        """Ends the claim without a video: the job goes back to the queue, or fails if this cause says so.

        ``detail`` is for operators. ``error`` is the sentence for the client if the job fails; without it the
        sentence of the cause is used.
        """
        count = getattr(self.job, cause.counter) + 1 if cause.counter else 0
        if cause.counts and count >= cause.limit:
            self._fail(error or cause.error, reason=cause.reason, detail=detail)
            return
        changes: dict[str, Any] = dict(Job.UNRENDERED) if cause.anew else {"status": Job.Status.QUEUED}
        if cause.counter:
            changes |= {cause.counter: F(cause.counter) + 1}
        else:
            changes |= {"attempt": F("attempt") - 1, "lapses": 0}
        if cause.pause is not None:
            pause = cause.pause_after(self.job.snoozes)
            changes |= {"snoozes": Least(F("snoozes") + 1, 1000), "not_before": Now() + seconds(pause)}
        with transaction.atomic():
            self._write(cause.event, note={"detail": detail}, lease_until=None, **changes)
            if cause.anew or cause.pause is not None:
                wake(RENDER)

    def _fail(self, error: str, *, reason: str, detail: str) -> None:
        self._write(
            Event.Kind.FAILED,
            note={"reason": reason, "detail": detail},
            status=Job.Status.FAILED,
            finished_at=Now(),
            error=error,
            lease_until=None,
        )
