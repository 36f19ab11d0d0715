"""One render's steps: image into ComfyUI -> begin -> POST /prompt -> follow -> conclude.

Each step looks at what ComfyUI says, does the next thing, and returns an Outcome if the render is over, or
None if it goes on. What an outcome means for the job is in ``jobs/queue/causes.py``; the loop that takes the
steps, and acts on their outcomes, is in ``jobs/workers/render.py``.
"""

import io
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from django.conf import settings

from comfy import presets, workflow
from comfy.answers import (
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
from comfy.client import Comfy
from comfy.listener import Listener
from jobs.media import storage, video
from jobs.models import Engine, Job
from jobs.models import engine as troubles
from jobs.queue import causes, engines
from jobs.queue.causes import Cause
from jobs.queue.claim import Claim
from jobs.workers.denials import Denials, Step
from jobs.workers.hold import fetched

logger = logging.getLogger(__name__)

WRITE_PAUSE = 1.0  # seconds between two writes of a job's progress


class Prompt(Enum):
    """Where a render's prompt is when the render is over."""

    NOT_THERE = auto()  # not in ComfyUI, or nobody knows; then the job's next claim looks for it
    RUNNING = auto()
    ENDED = auto()


@dataclass(frozen=True)
class Outcome:
    """How a render ended: with a file, or by a cause.

    ``detail`` is for operators and may hold the client's text; ``log`` may not. ``error`` is the sentence for
    the client if the job fails. ``sick`` says, in a sentence, that ComfyUI cannot go on with other jobs.
    """

    cause: Cause | None = None
    detail: str = ""
    log: str = ""
    error: str = ""
    output: str = ""  # the file's name, if it was rendered
    prompt: Prompt = Prompt.ENDED
    unload: bool = False  # whether the models are unloaded before the next try
    sick: str = ""


class Rendering:
    """A claimed job on its way through ComfyUI."""

    def __init__(self, claim: Claim, engine: Engine, comfy: Comfy, listener: Listener, denials: Denials):
        self.claim, self.engine, self.comfy, self.listener = claim, engine, comfy, listener
        self.denials = denials
        self.preset = presets.find(claim.job.preset)
        # A render that was begun on this engine, by us or a predecessor, may still be in ComfyUI.
        self.posted = claim.job.engine_id == engine.pk
        self.steps = workflow.steps(self.preset, self._graph({}))
        self.patience = workflow.patience(self.preset, claim.job.kind, claim.job.parameters)
        self.progress = 0
        self._written_at = 0.0  # when progress was last written to the row
        self._running_since: float | None = None
        self._moved_at = 0.0  # when its nodes last changed
        self._nodes: Mapping[str, Any] = {}

    @property
    def job(self) -> Job:
        return self.claim.job

    def step(self, queue: Queue) -> Outcome | None:
        """``queue``: what ComfyUI runs and what waits there, asked just now. The queue must be asked before
        the history (``conclude``): a prompt moves from the queue to the history and never back. So a prompt
        that was not in the queue, and then is not in the history, is gone."""
        if not self.posted:
            return self.post()
        if self.job.prompt_id in queue.running:
            nodes = self.listener.nodes(self.job.prompt_id)
            return self.follow(nodes, connected=self.listener.connected, now=time.monotonic())
        if self.job.prompt_id in queue.pending:
            return None
        return self.conclude()

    # Before it runs

    def post(self) -> Outcome | None:
        """Brings the job's image and its prompt into ComfyUI."""
        try:
            self._submit(self._images())
        except storage.ObjectMissing as error:
            return self._not_posted(causes.NO_IMAGE, str(error))
        except storage.StorageError as error:
            return self._not_posted(causes.NO_IMAGE_YET, f"Its image could not be read: {error}")
        except Lacking as error:  # a file or node is gone that was there at the watch's last look
            engines.report_lacking(self.engine, f"{self.job.preset}/{self.job.kind}", error.what)
            return self._not_taken(error, "files", causes.LACKING)
        except Refused as error:
            return self._refused(error)
        except (Denied, Unreachable) as error:
            lasting = isinstance(error, Unfit) or (isinstance(error, Denied) and error.lasting)
            step: Step = "prompt" if self.posted else "image"
            return self._not_taken(error, step, causes.NOT_TAKEN if lasting else causes.NOT_ANSWERED)
        return None

    def _images(self) -> dict[str, str]:
        """Its images' paths in ComfyUI, by parameter; none for a text job."""
        paths = {}
        for key in self.job.input_keys:
            name = "last_image" if key == self.job.last_input_key else "image"
            png = io.BytesIO(storage.get(key))
            file = "last.png" if name == "last_image" else "input.png"
            paths[name] = self.comfy.upload_image(self.job.folder, file, png)
            self.denials.passed("image", self.job.pk)
        return paths

    def _graph(self, images: dict[str, str]) -> presets.Graph:
        job = self.job
        values = {"prompt": job.prompt, "seed": job.seed, "prefix": f"{job.folder}/{job.render + 1}"}
        return workflow.build(self.preset, job.kind, job.parameters | values | images)

    def _submit(self, images: dict[str, str]) -> None:
        job = self.job
        graph = self._graph(images)
        self.claim.begin(self.engine, graph)
        # The next call may fail although ComfyUI took the prompt. Then the next step or claim looks for it.
        self.posted = True
        self.comfy.submit(job.prompt_id, graph, mark=str(self.engine.pk))
        self.denials.passed("prompt", job.pk)

    def _not_posted(self, cause: Cause, detail: str) -> Outcome:
        return Outcome(cause, detail, log=detail, prompt=Prompt.NOT_THERE)

    def _refused(self, error: ComfyError) -> Outcome:
        return replace(self._not_posted(causes.REFUSED, error.detail), log=error.message, error=error.message)

    def _not_taken(self, error: ComfyError, step: Step, cause: Cause) -> Outcome:
        """One request of this job was not taken, and the answer does not tell whether the job or ComfyUI is
        the reason; ``denials.py`` judges. If there was no answer, the prompt may be in ComfyUI all the same:
        the job's next claim looks for it there."""
        verdict = self.denials.denied(step, self.job.pk, lasting=cause.anew)
        if verdict == "job":
            return self._refused(error)
        sick = error.message if verdict == "server" else ""
        return replace(self._not_posted(cause, str(error)), log=f"set aside: {error.message}", sick=sick)

    # While it runs

    def follow(self, nodes: Mapping[str, Any], *, connected: bool, now: float) -> Outcome | None:
        """The prompt runs: writes its progress, and gives it up after RENDER_TIMEOUT seconds in all, or after
        STALL_TIMEOUT seconds without progress.

        ``nodes`` are those of ComfyUI's last message on this prompt. Without a connection no messages come,
        and a stall cannot be seen: then only RENDER_TIMEOUT holds. ``now`` is in seconds, of any clock.
        """
        if self._running_since is None:
            self.claim.started()
            self.denials.ran()
            self._running_since = self._moved_at = now
        if nodes != self._nodes or not connected:
            self._nodes, self._moved_at = nodes, now
        self._write_progress(now)
        in_all, for_a_step = self.patience
        longest, stall = settings.RENDER_TIMEOUT * in_all, settings.STALL_TIMEOUT * for_a_step
        why = ""
        if now - self._running_since > longest:
            why = f"no end after {longest:.0f} s"
        elif now - self._moved_at > stall:
            why = f"no progress for {stall:.0f} s"
        return Outcome(causes.LOST, why, log=f"{why}, interrupted", prompt=Prompt.RUNNING) if why else None

    def _write_progress(self, now: float) -> None:
        job = self.job
        self.progress = max(self.progress, workflow.progress(self.steps, self._nodes))
        if self.progress > job.progress and now - self._written_at >= WRITE_PAUSE:
            self.claim.advanced(self.progress)
            self._written_at = now

    # After it ran

    def conclude(self) -> Outcome:
        """The prompt has left the queue. ComfyUI's history says how it ended. If it says nothing, a whole
        file that was left behind shows that the render was finished."""
        try:
            result = self.comfy.result(self.job.prompt_id, self.job.folder) or self._left_behind()
            self.denials.passed("result", self.job.pk)
        except Unreachable as error:  # for this prompt only: ComfyUI has just answered about its queue
            result = self._left_behind()
            if result is None:
                return self._not_taken(error, "result", causes.NOT_ANSWERED)
        if isinstance(result, Rendered):
            return Outcome(output=result.filename)
        if isinstance(result, Failed):
            return failed(result)
        return self._vanished()

    def _left_behind(self) -> Rendered | None:
        """The render's file, if it plays to its end; otherwise None. After a restart ComfyUI has lost its
        history, but its files are still there."""
        filename = f"{self.job.render}_00001_.mp4"
        try:
            with fetched(self.comfy, self.job.folder, filename) as path:
                video.check(path, *self.job.video_wanted)
        except (FileGone, video.Unplayable, video.NotAsAsked) as error:
            logger.info("job %s: no whole file of it is left: %s", self.job, error, extra=self.job.log_fields)
            return None
        return Rendered(filename)

    def _vanished(self) -> Outcome:
        """ComfyUI knows nothing of its prompt any more."""
        if self.job.started_at or self.listener.nodes(self.job.prompt_id):
            text = "ComfyUI lost the prompt while it ran."
            return Outcome(causes.LOST, text, log=text)
        if self.denials.doubts("prompt", self.job.pk):  # so ComfyUI never took it
            text = "ComfyUI does not have the prompt that was denied."
            return Outcome(causes.NOT_TAKEN, text, log=text)
        text = "ComfyUI does not have the prompt any more."
        many = "ComfyUI loses prompts before it runs them: does it restart, or is its queue cleared?"
        return Outcome(causes.PROMPT_LOST, text, log=text, sick=many if self.denials.vanished() else "")


def failed(result: Failed) -> Outcome:
    """The outcome for a prompt that failed, by the reason that ComfyUI gives."""
    detail = f"{result.message}\n{result.detail}"
    if result.reason == "out_of_memory":
        outcome = Outcome(causes.OUT_OF_MEMORY, unload=True)
    elif result.reason == "gpu":
        outcome = Outcome(causes.GPU_FAILED, unload=True, sick=troubles.GPU_FAILED)
    elif result.reason == "no_access":
        advice = "Give its output folder to the user that it runs as."
        outcome = Outcome(causes.NO_ACCESS, sick=f"{result.message} {advice}")
    elif result.reason == "no_space":
        outcome = Outcome(causes.DISK_FULL, sick=troubles.DISK_FULL)
    elif result.reason == "interrupted":
        outcome = Outcome(causes.LOST)
    else:
        outcome = Outcome(causes.NODE_FAILED, error=result.message)
    return replace(outcome, detail=detail, log=result.message)
