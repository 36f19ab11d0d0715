"""The render task: claims jobs for its engine, takes them through ComfyUI step by step, and hands them on.

claim -> the steps of jobs/workers/rendering.py -> rendered, or the end of the claim by some cause
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from django.conf import settings
from django.db import connection

from comfy.answers import Queue, Unfit, Unreachable
from comfy.client import Comfy
from comfy.listener import Listener
from jobs.models import Engine, Job
from jobs.models.job import FINAL
from jobs.queue import causes, engines
from jobs.queue.claim import ClaimLost, claim_render, has_work, holding
from jobs.workers.comfy_side import ComfySide, Sick
from jobs.workers.denials import Denials
from jobs.workers.hold import WORKER, Cancellations, Heartbeat, remove_files, stopping
from jobs.workers.rendering import Outcome, Prompt, Rendering
from wanapi.logs import Seldom
from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at ComfyUI, unless its socket tells of a change earlier
IMAGE_PAUSE = 10.0  # seconds for which only text jobs are claimed when S3 does not give an image
AT_ONCE = 2  # prompts of ours in ComfyUI: one runs, one waits behind it


@dataclass
class Memory:
    """What this process keeps from one task to the next, about its one engine."""

    denials: Denials = field(default_factory=Denials)
    unreachable: Seldom = field(default_factory=Seldom)  # when to log again that ComfyUI does not answer
    images_after: float = 0.0  # until then no image job is begun, since S3 did not give an image


memory = Memory()


def render() -> None:
    """Renders queued jobs on the engine that this cluster holds, until none is left."""
    engine = Engine.objects.held_by(WORKER).first()
    if engine is None or not has_work(engine):
        return  # this worker stands by, or the task before has taken the job of this wake-up
    with Comfy(engine.url) as comfy, Listener(engine.url) as listener, Heartbeat() as heartbeat:
        with Cancellations(listener.changed):
            Renderer(engine, comfy, listener, heartbeat).run()


class Renderer:
    """Keeps one ComfyUI busy: one prompt runs, the next one waits in ComfyUI's own queue."""

    def __init__(self, engine: Engine, comfy: Comfy, listener: Listener, heartbeat: Heartbeat):
        self.engine, self.comfy, self.listener, self.heartbeat = engine, comfy, listener, heartbeat
        self.comfy_side = ComfySide(engine, comfy, listener)
        self.renderings: list[Rendering] = []
        self._unreachable_since: float | None = None

    def run(self) -> None:
        """Renders until nothing is left, the worker is told to stop, or the engine cannot go on. In each case
        the jobs in hand go back to the queue. Their prompts stay in ComfyUI, where the next claim looks for
        them."""
        why = "The renderer ended by a fault of its own."
        try:
            why = self._work()
        except Sick as sick:  # nothing more is claimed until the watch finds ComfyUI well again
            why = str(sick)
            logger.error("engine %s: %s", self.engine, sick)
            # Stuck prompts stay in ComfyUI: once they are gone, the watch knows that it was restarted.
            self._report(partial(engines.report_sick, self.engine, why, sick.stuck))
        finally:
            self._hand_back(why)

    def _work(self) -> str:
        """Does round after round; returns why it ended. A round that fails half-way is simply done again: all
        that it needs to know is in the jobs' rows and in ComfyUI's answers."""
        while not stopping.is_set():
            try:
                engine = Engine.objects.held_by(WORKER).filter(pk=self.engine.pk).first()
                if engine is None:
                    return "Another worker holds this engine now."
                self.engine = engine  # its row says what it can run, by the watch's last look
                if not self._round():
                    return "Nothing is left to render."
                self._unreachable_since = None
            except AWAY as error:
                logger.warning("the database is away, trying again: %s", error)
                connection.close()
            except Unfit as error:
                logger.warning("engine %s: %s", self.engine, error.log)
                raise Sick(error.message) from error
            except Unreachable as error:
                if self._too_long(error):
                    self._report(partial(engines.report_unreachable, self.engine))
                    return error.message
            self.listener.changed.wait(POLL)
            self.listener.changed.clear()
        return "The worker was told to stop."

    def _round(self) -> bool:
        """One look at ComfyUI, and one step for every job in hand. Returns False if there was nothing to do.

        First, jobs that are not ours any more are let go, and free places are filled by new claims. Then
        ComfyUI is asked for its queue, once for all jobs. Unwanted prompts are taken out of it, and a round
        that found any posts nothing. Last, each job takes its step. At most AT_ONCE prompts of ours are in
        ComfyUI, and those that a predecessor left count as ours.
        """
        self._let_go()
        self._claim()
        idle = not self.renderings
        leaving = list(Job.objects.leaving(self.engine))  # before the look: none of these is posted after it
        queue = self.comfy.queue()
        unwanted = self.comfy_side.clear(queue, [each.job.prompt_id for each in self.renderings])
        self.comfy_side.release(leaving, queue)
        self.comfy_side.check_health(queue, unwanted)
        if self.engine.paused:
            self._give_back(queue)
        room = 0 if unwanted else AT_ONCE - len(self.comfy_side.prompts(queue))
        for rendering in list(self.renderings):
            if rendering.posted:
                self._step(rendering, queue)
            elif room > 0:
                room -= 1
                self._step(rendering, queue)
        return not idle or bool(unwanted)

    def _let_go(self) -> None:
        """Lets go of jobs that were cancelled, or that were taken over while Postgres was away."""
        still = holding(rendering.claim for rendering in self.renderings)
        for rendering in [each for each in self.renderings if each.claim not in still]:
            job = rendering.job
            logger.info("job %s: cancelled, or taken over", job, extra=job.log_fields)
            self._drop(rendering)
            if rendering.posted:
                self.comfy_side.leave(job)

    def _give_back(self, queue: Queue) -> None:
        """The engine is paused: what it does not run yet is left to others."""
        for rendering in list(self.renderings):
            if not rendering.posted or rendering.job.prompt_id in queue.pending:
                why = "An operator paused this engine."
                self._end(rendering, Outcome(causes.PAUSED, why, log=why, prompt=Prompt.RUNNING))

    def _claim(self) -> None:
        """Claims jobs until AT_ONCE are in hand. A job that may kill its worker (``is_suspect``) is rendered
        alone, so that no other job is lost with it."""
        images = time.monotonic() >= memory.images_after
        while len(self.renderings) < AT_ONCE and not any(each.job.is_suspect for each in self.renderings):
            claim = claim_render(self.engine, images=images, suspects=not self.renderings)
            if claim is None:
                return
            self.heartbeat.hold(claim)
            rendering = Rendering(claim, self.engine, self.comfy, self.listener, memory.denials)
            self.renderings.append(rendering)

    def _step(self, rendering: Rendering, queue: Queue) -> None:
        job = rendering.job
        try:
            if outcome := rendering.step(queue):
                self._end(rendering, outcome)
        except ClaimLost:
            pass  # the next round lets it go, and takes its prompt out of ComfyUI
        except (Sick, Unreachable, *AWAY):
            raise
        except Exception:  # an error of our own code with this job must not harm the other job
            logger.exception("job %s: dropped until its lease runs out", job, extra=job.log_fields)
            self._drop(rendering)

    def _end(self, rendering: Rendering, outcome: Outcome) -> None:
        """Writes the outcome to the job, and then tidies up. The write comes first, since it raises ClaimLost
        if we do not hold the job any more, and only its holder may touch its prompt and its files."""
        job, cause = rendering.job, outcome.cause
        if outcome.unload:
            self.comfy_side.unload()
        if cause is None:
            rendering.claim.rendered(outcome.output)
        else:
            level = logging.ERROR if cause.counts else logging.WARNING
            logger.log(level, "job %s: %s", job, outcome.log, extra=job.log_fields)
            rendering.claim.end(cause, outcome.detail, error=outcome.error)
        self._drop(rendering)
        if cause is causes.NO_IMAGE_YET:
            memory.images_after = time.monotonic() + IMAGE_PAUSE
        if outcome.prompt is Prompt.RUNNING:
            self.comfy_side.leave(job)
        elif outcome.prompt is Prompt.ENDED:
            self.comfy_side.forget(job, job.prompt_id)
        # A half-written file would keep the disk full. A finished job's files go, too; if its prompt ended,
        # forget() has removed them already.
        if cause is causes.DISK_FULL or (outcome.prompt is Prompt.NOT_THERE and job.status in FINAL):
            remove_files(job)
        if outcome.sick:
            raise Sick(outcome.sick)

    def _drop(self, rendering: Rendering) -> None:
        self.heartbeat.drop(rendering.claim)
        self.renderings.remove(rendering)

    def _too_long(self, error: Unreachable) -> bool:
        """Whether ComfyUI has not answered for a lease's time."""
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        if memory.unreachable.due(error.log):
            logger.warning("engine %s: %s", self.engine, error.log)
        return now - self._unreachable_since >= settings.JOB_LEASE

    def _report(self, report: Callable[[], None]) -> None:
        """Reports the engine's state. If the database is away this is only logged: the jobs in hand must
        still be handed back, and the watch reports as well."""
        try:
            report()
        except AWAY as problem:
            logger.warning("engine %s: %s", self.engine, problem)
            connection.close()

    def _hand_back(self, why: str) -> None:
        for rendering in list(self.renderings):
            job = rendering.job
            try:
                rendering.claim.end(causes.HANDED_BACK, why)
            except (ClaimLost, *AWAY) as error:
                logger.warning("job %s: not handed back: %s", job, error, extra=job.log_fields)
            self._drop(rendering)
