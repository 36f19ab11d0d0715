"""The render task: claim -> image into ComfyUI -> begin -> POST /prompt -> follow -> rendered."""

import io
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from django.conf import settings
from django.db import connection

from comfy import warmup, workflow
from comfy.client import (
    Comfy,
    ComfyError,
    Denied,
    Failed,
    FileGone,
    Lacking,
    Queue,
    Refused,
    Rendered,
    Unfit,
    Unreachable,
)
from comfy.listener import Listener
from jobs.media import storage, video
from jobs.models import Event, Job
from jobs.models.engine import DISK_FULL, GPU_FAILED, MUST_RESTART, Engine
from jobs.models.job import FINAL, ClaimLost
from jobs.workers.denials import Denials, Step
from jobs.workers.hold import WORKER, Cancellations, Heartbeat, fetched, remove_files, stopping
from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at ComfyUI, unless its socket calls earlier
IMAGE_PAUSE = 10.0  # seconds for which only text jobs are claimed when S3 does not give an image
AT_ONCE = 2  # prompts of ours in ComfyUI: one runs, one waits behind it

denials = Denials()  # of this process' engine


def render() -> None:
    """Renders queued jobs on the engine that this cluster holds, until none is left."""
    engine = Engine.objects.held_by(WORKER).first()
    if engine is None or not Job.objects.waiting_for(engine).exists():
        return  # a standby, or a wake-up whose job was taken by the task before
    with Comfy(engine.url) as comfy, Listener(engine.url) as listener, Heartbeat() as heartbeat:
        with Cancellations(listener.changed):
            Renderer(engine, comfy, listener, heartbeat).run()


class Sick(Exception):
    """ComfyUI answers and cannot work. ``stuck``: the prompts of ours that show it."""

    def __init__(self, message: str, stuck: Iterable[str] = ()):
        super().__init__(message)
        self.stuck = stuck


@dataclass
class Render:
    """A claimed job on its way through ComfyUI."""

    job: Job
    posted: bool  # as far as we know: what ComfyUI says counts
    progress: int = 0
    written_at: float = 0.0  # when progress was last written to the row
    running_since: float | None = None
    moved_at: float = 0.0  # when its nodes last changed
    nodes: dict = field(default_factory=dict)

    @property
    def prompt_id(self) -> str:
        return workflow.prompt_id(self.job.pk, self.job.render)

    @property
    def folder(self) -> str:
        return workflow.folder(self.job.pk)


class Renderer:
    """Keeps one ComfyUI busy: one prompt runs, the next one waits in ComfyUI's own queue.

    Each round looks at what ComfyUI has and moves every job one step on. A round that fails half-way is
    simply done again: the row and ComfyUI's answers hold all there is to know.
    """

    images_after = 0.0  # for the process, not for one task: the next task would ask S3 again at once

    def __init__(self, engine: Engine, comfy: Comfy, listener: Listener, heartbeat: Heartbeat):
        self.engine, self.comfy, self.listener, self.heartbeat = engine, comfy, listener, heartbeat
        self.renders: list[Render] = []
        self.leaving: dict[str, Job] = {}  # jobs that ended while their prompts were in ComfyUI
        self.unreachable_since: float | None = None
        self.stuck: set[str] = set()
        self.stuck_since = 0.0

    def run(self) -> None:
        why = "The worker was told to stop."
        while not stopping.is_set():
            try:
                engine = Engine.objects.held_by(WORKER).filter(pk=self.engine.pk).first()
                if engine is None:
                    why = "Another worker holds this engine now."  # and what is in its ComfyUI
                    break
                self.engine = engine  # with what it can run, by its last look
                self._let_go()
                self._claim()
                idle = not self.renders
                strays = self._round()
                if idle and not strays:
                    return
                self.unreachable_since = None
            except AWAY as error:
                logger.warning("the database is away, trying again: %s", error)
                connection.close()
            except Unfit as error:
                logger.warning("engine %s: %s", self.engine.name, error.log)
                self._give_up_sick(Sick(error.message))
                return
            except Unreachable as error:
                if self._given_up(error):
                    return
            except Sick as error:
                self._give_up_sick(error)
                return
            self.listener.changed.wait(POLL)
            self.listener.changed.clear()
        self._hand_back(why)

    def _let_go(self) -> None:
        """Of jobs that were cancelled, or taken over while Postgres was away."""
        claims = {render.job.pk: render.job.fence for render in self.renders}
        standing = Job.objects.standing(claims) if claims else set()
        for render in [render for render in self.renders if render.job.pk not in standing]:
            logger.info("job %s: cancelled, or taken over", render.job.pk, extra=render.job.about)
            self._drop(render)
            if render.posted:
                self.leaving[render.prompt_id] = render.job

    def _claim(self) -> None:
        images = time.monotonic() >= self.images_after
        while len(self.renders) < AT_ONCE and not any(render.job.is_suspect for render in self.renders):
            alone = not self.renders
            job = Job.objects.claim_render(self.engine, images=images, suspects=alone)
            if job is None:
                return
            self.heartbeat.hold(job)
            # A render that was begun on this engine, by us or a predecessor, may still be in ComfyUI.
            self.renders.append(Render(job, posted=job.engine_id == self.engine.pk))

    def _round(self) -> set[str]:
        """One look at ComfyUI, one step for every job. Returns the strays that ComfyUI still has."""
        queue = self.comfy.queue()
        strays = self._clear_strays(queue)
        self._check_health(queue, strays)
        room = 0 if strays else AT_ONCE - len(queue.marked(str(self.engine.pk)))
        for render in list(self.renders):
            try:
                if render.posted:
                    self._advance(render, queue)
                elif room > 0:
                    room -= 1
                    self._post(render)
            except ClaimLost:
                pass  # _let_go() sees to it
            except (Sick, Unreachable, *AWAY):
                raise
            except Exception:  # a fault of ours with this job must not cost the other one
                logger.exception(
                    "job %s: dropped until its lease runs out", render.job.pk, extra=render.job.about
                )
                self._drop(render)
        return strays

    def _clear_strays(self, queue: Queue) -> set[str]:
        """Takes out of ComfyUI what bears our mark and is no render of an unfinished job: it was cancelled,
        requeued or given up. Returns what is still there; nothing is posted until it is gone."""
        strays = queue.marked(str(self.engine.pk)) - {render.prompt_id for render in self.renders}
        if strays:  # a job whose last claim has not run out yet is not in hand, and not lost
            begun = Job.objects.begun_on(self.engine).values_list("pk", "render")
            strays -= {workflow.prompt_id(pk, number) for pk, number in begun}
        for prompt_id in strays:
            self.comfy.cancel(prompt_id)
        for prompt_id in self.leaving.keys() - strays:
            self._forget(prompt_id, self.leaving.pop(prompt_id))
        return strays

    def _check_health(self, queue: Queue, strays: set[str]) -> None:
        """A ComfyUI whose worker thread has died goes on answering, and never runs anything again."""
        ours = queue.marked(str(self.engine.pk))
        stuck = strays & queue.running.keys() if queue.running else ours
        if stuck != self.stuck:
            self.stuck, self.stuck_since = stuck, time.monotonic()
        elif stuck and time.monotonic() - self.stuck_since > settings.STUCK_TIMEOUT:
            what = (
                "does not let go of an interrupted prompt" if queue.running else "runs nothing of its queue"
            )
            raise Sick(f"ComfyUI {what}; it {MUST_RESTART}", stuck)

    def _advance(self, render: Render, queue: Queue) -> None:
        if render.prompt_id in queue.running:
            self._follow(render)
        elif render.prompt_id not in queue.pending:
            self._conclude(render)

    def _post(self, render: Render) -> None:
        job = render.job
        try:
            self._submit(render, self._image(render))
        except storage.StorageError as error:
            self._without_image(render, error)
        except Lacking as error:  # it was there at the last look
            logger.error("job %s: %s", job.pk, error.message, extra=job.about)
            self.engine.report_lacking(f"{job.preset}/{job.kind}", error.what)
            self._not_taken(render, error, "files", lasting=True)
        except Refused as error:
            self._refused(render, error)
        except (Denied, Unreachable) as error:
            step: Step = "prompt" if render.posted else "image"
            lasting = isinstance(error, Unfit) or (isinstance(error, Denied) and error.lasting)
            self._not_taken(render, error, step, lasting=lasting)

    def _image(self, render: Render) -> str:
        """Its start image's path in ComfyUI; nothing for a text job."""
        if render.job.kind != Job.Kind.IMAGE_TO_VIDEO:
            return ""
        png = io.BytesIO(storage.get(render.job.input_key))
        path = self.comfy.upload_image(render.folder, "input.png", png)
        denials.passed("image", render.job.pk)
        return path

    def _submit(self, render: Render, image: str) -> None:
        graph = render.job.begin(self.engine, partial(self._graph, image=image))
        render.posted = True  # or perhaps not, if the next call fails: then the next round finds out
        self.comfy.submit(render.prompt_id, graph, mark=str(self.engine.pk))
        denials.passed("prompt", render.job.pk)

    def _refused(self, render: Render, error: ComfyError) -> None:
        job = render.job
        logger.error("job %s: %s", job.pk, error.message, extra=job.about)
        job.failed(error.message, reason="refused", detail=error.detail)
        self._drop(render)
        remove_files(job)

    def _not_taken(self, render: Render, error: ComfyError, step: Step, *, lasting: bool) -> None:
        """One request of this job was not taken, and the answer does not tell whether the job or ComfyUI is
        the reason (``jobs/workers/denials.py``). The others go on. A prompt that may be in ComfyUI all the
        same is looked for there next time."""
        verdict = denials.denied(step, render.job.pk, lasting=lasting)
        if verdict == "job":
            self._refused(render, error)
            return
        logger.warning("job %s: set aside: %s", render.job.pk, error.message, extra=render.job.about)
        render.job.snooze(str(error), anew=lasting)
        self._drop(render)
        if verdict == "server":
            raise Sick(error.message)

    @staticmethod
    def _graph(job: Job, image: str) -> workflow.Graph:
        return workflow.build(
            kind=job.kind,
            preset=job.preset,
            prompt=job.prompt,
            seed=job.seed,
            prefix=f"{workflow.folder(job.pk)}/{job.render}",
            image=image,
        )

    def _without_image(self, render: Render, error: storage.StorageError) -> None:
        logger.warning("job %s: its image cannot be read: %s", render.job.pk, error, extra=render.job.about)
        if isinstance(error, storage.ObjectMissing):
            sentence = "The reference image is no longer in the storage."
            render.job.failed(sentence, reason="image", detail=str(error))
        else:
            render.job.snooze(f"Its image could not be read: {error}", anew=False)
            Renderer.images_after = time.monotonic() + IMAGE_PAUSE
        self._drop(render)

    def _follow(self, render: Render) -> None:
        """It runs: progress, and the two limits."""
        job, now = render.job, time.monotonic()
        if render.running_since is None:
            job.started()
            denials.ran()
            render.running_since = render.moved_at = now
        nodes = self.listener.nodes(render.prompt_id)
        if nodes != render.nodes:
            render.nodes, render.moved_at = nodes, now
        render.progress = max(render.progress, workflow.progress(job.kind, job.preset, nodes))
        if render.progress > job.progress and now - render.written_at >= 1:
            job.advanced(render.progress)
            render.written_at = now
        if now - render.running_since > settings.RENDER_TIMEOUT:
            self._break_off(render, f"no end after {settings.RENDER_TIMEOUT} s")
        elif not self.listener.connected:
            render.moved_at = now  # deaf, we cannot tell; RENDER_TIMEOUT holds all the same
        elif now - render.moved_at > settings.STALL_TIMEOUT:
            self._break_off(render, f"no progress for {settings.STALL_TIMEOUT} s")

    def _break_off(self, render: Render, why: str) -> None:
        logger.error("job %s: %s, interrupted", render.job.pk, why, extra=render.job.about)
        render.job.lost_render(why)  # first: only who still holds the job may stop its prompt
        self._drop(render)
        self.leaving[render.prompt_id] = render.job

    def _conclude(self, render: Render) -> None:
        """It left the queue: the history tells how, else the file does."""
        job, sick = render.job, None
        result: Rendered | Failed | None
        try:
            result = self.comfy.result(render.prompt_id, render.folder) or self._left_behind(render)
            denials.passed("result", job.pk)
        except Unreachable as error:  # of this one: it has just told its queue
            result = self._left_behind(render)
            if result is None:
                self._not_taken(render, error, "result", lasting=False)
                return
        if isinstance(result, Rendered):
            job.rendered(result.filename)
        elif isinstance(result, Failed):
            sick = self._failed(render, result)
        elif job.started_at or self.listener.nodes(render.prompt_id):
            logger.error("job %s: ComfyUI lost its prompt while it ran", job.pk, extra=job.about)
            job.lost_render("ComfyUI lost the prompt while it ran.")
        elif denials.doubts("prompt", job.pk):  # it was not taken at all
            job.snooze("ComfyUI does not have the prompt that was denied.")
        else:
            logger.warning("job %s: ComfyUI does not have its prompt", job.pk, extra=job.about)
            job.snooze("ComfyUI does not have the prompt any more.", kind=Event.Kind.PROMPT_LOST)
            if denials.vanished():
                sick = Sick(
                    "ComfyUI loses prompts before it runs them: does it restart, or is its queue cleared?"
                )
        self._drop(render)
        self._forget(render.prompt_id, job)
        if sick:
            raise sick

    def _left_behind(self, render: Render) -> Rendered | None:
        """After a restart of ComfyUI its memory is gone, but a finished file is still there: finished if it
        plays to its end."""
        filename = f"{render.job.render}_00001_.mp4"
        try:
            with fetched(self.comfy, render.folder, filename) as path:
                video.check(path)
        except (FileGone, video.Unplayable, video.NotAsAsked) as error:
            logger.info(
                "job %s: no whole file of it is left: %s", render.job.pk, error, extra=render.job.about
            )
            return None
        return Rendered(filename)

    def _failed(self, render: Render, result: Failed) -> Sick | None:
        """What that means for the job, and for ComfyUI."""
        job, detail = render.job, f"{result.message}\n{result.detail}"
        # The detail may hold the client's text, which stays out of the log.
        logger.error("job %s: %s", job.pk, result.message, extra=job.about)
        if result.reason == "out_of_memory":
            self._unload()
            job.ran_out_of_memory(detail)
        elif result.reason == "gpu":
            self._unload()
            job.lost_render(detail)
            return Sick(GPU_FAILED)
        elif result.reason == "no_access":
            job.snooze(detail)
            return Sick(f"{result.message} Give its output folder to the user that it runs as.")
        elif result.reason == "no_space":
            job.snooze(detail, kind=Event.Kind.DISK_FULL)  # not its fault: nothing is counted
            remove_files(job)  # the part of a file that was written keeps the disk full
            return Sick(DISK_FULL)
        elif result.reason == "interrupted":
            job.lost_render(detail)
        else:
            job.failed(result.message, reason="node", detail=detail)
        return None

    def _unload(self) -> None:
        """Best effort: the models, so that the next try has all memory, and the marks that say it is warm."""
        try:
            self.comfy.free()
            warmup.chill(self.comfy)
        except Unreachable as error:
            logger.warning("engine %s: its models stay loaded: %s", self.engine.name, error.log)

    def _forget(self, prompt_id: str, job: Job) -> None:
        """Best effort: what is left in ComfyUI of a prompt that ended."""
        self.listener.forget(prompt_id)
        try:
            self.comfy.forget(prompt_id)
        except Unreachable as error:
            logger.warning("job %s: its history entry stays: %s", job.pk, error.log, extra=job.about)
        if not Job.objects.filter(pk=job.pk).exclude(status__in=FINAL).exists():
            remove_files(job)

    def _drop(self, render: Render) -> None:
        self.heartbeat.drop(render.job)
        self.renders.remove(render)

    def _given_up(self, error: Unreachable) -> bool:
        """After a lease's time without an answer the jobs go back to the queue, uncounted."""
        now = time.monotonic()
        self.unreachable_since = self.unreachable_since or now
        logger.warning("engine %s: %s", self.engine.name, error.log)
        if now - self.unreachable_since < settings.JOB_LEASE:
            return False
        self._report(self.engine.report_unreachable)
        self._hand_back(error.message)
        return True

    def _report(self, report: Callable[[], None]) -> None:
        """The tick reports as well; a database that is away must not keep us from handing back."""
        try:
            report()
        except AWAY as problem:
            logger.warning("engine %s: %s", self.engine.name, problem)
            connection.close()

    def _give_up_sick(self, error: Sick) -> None:
        """Nothing more is claimed until the tick finds ComfyUI well again. Stuck prompts stay where they are:
        that they have gone is how the tick can tell."""
        logger.error("engine %s: %s", self.engine.name, error)
        self._report(partial(self.engine.report_sick, str(error), error.stuck))
        self._hand_back(str(error))

    def _hand_back(self, why: str) -> None:
        """Leaves the prompts in ComfyUI: whoever comes next adopts them."""
        for render in list(self.renders):
            try:
                render.job.hand_back(why)
            except (ClaimLost, *AWAY) as error:
                logger.warning("job %s: not handed back: %s", render.job.pk, error, extra=render.job.about)
            self._drop(render)
