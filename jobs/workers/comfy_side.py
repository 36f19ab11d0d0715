"""Takes prompts of ours that are no longer wanted out of ComfyUI, and checks that ComfyUI still works."""

import logging
import time
from collections.abc import Iterable

from django.conf import settings

from comfy import warmup
from comfy.answers import Queue, Unreachable
from comfy.client import Comfy
from comfy.listener import Listener
from jobs.models import Engine, Job
from jobs.models.engine import MUST_RESTART
from jobs.models.job import FINAL, prompt_id
from jobs.workers.hold import remove_files

logger = logging.getLogger(__name__)


class Sick(Exception):
    """ComfyUI answers but cannot work. ``stuck``: the prompts of ours that show it."""

    def __init__(self, message: str, stuck: Iterable[str] = ()):
        super().__init__(message)
        self.stuck = stuck


class ComfySide:
    """Our prompts bear the engine's id as their mark. A marked prompt that is the current render of an
    unfinished job belongs in ComfyUI. Any other is unwanted: its job was cancelled, requeued or given up."""

    def __init__(self, engine: Engine, comfy: Comfy, listener: Listener):
        self.engine, self.comfy, self.listener = engine, comfy, listener
        self._leaving: dict[str, Job] = {}  # jobs that ended while their prompts were in ComfyUI
        self._stuck: set[str] = set()
        self._stuck_since = 0.0

    def prompts(self, queue: Queue) -> set[str]:
        """The ids of our prompts, of those that run and of those that wait."""
        return queue.marked(str(self.engine.pk))

    def clear(self, queue: Queue, wanted: Iterable[str]) -> set[str]:
        """Takes unwanted prompts out of ComfyUI, and returns those that were there. As long as there are any,
        nothing should be posted: an interrupt that takes effect late would hit the next prompt.

        ``wanted`` are the prompts of the jobs in hand. Prompts of other unfinished jobs stay as well, such as
        of a job whose last claim has not run out yet."""
        unwanted = self.prompts(queue) - set(wanted)
        if unwanted:
            begun = Job.objects.begun_on(self.engine).values_list("pk", "render")
            unwanted -= {prompt_id(pk, number) for pk, number in begun}
        for prompt in unwanted:
            self.comfy.cancel(prompt)
        for prompt in self._leaving.keys() - unwanted:
            self.forget(self._leaving.pop(prompt), prompt)
        return unwanted

    def check_health(self, queue: Queue, unwanted: set[str]) -> None:
        """Raises Sick if for STUCK_TIMEOUT seconds ComfyUI runs nothing of its queue, or does not let go of a
        prompt that was interrupted. Its answers do not show this: a ComfyUI whose worker thread has died
        still answers."""
        stuck = unwanted & queue.running.keys() if queue.running else self.prompts(queue)
        if stuck != self._stuck:
            self._stuck, self._stuck_since = stuck, time.monotonic()
        elif stuck and time.monotonic() - self._stuck_since > settings.STUCK_TIMEOUT:
            does = (
                "does not let go of an interrupted prompt" if queue.running else "runs nothing of its queue"
            )
            raise Sick(f"ComfyUI {does}; it {MUST_RESTART}", stuck)

    def leave(self, job: Job) -> None:
        """For a job that ended and whose prompt may be in ComfyUI: the next ``clear`` takes it out."""
        self._leaving[job.prompt_id] = job

    def release(self, leaving: Iterable[Job], queue: Queue) -> None:
        """Of these jobs, which their clients deleted, those whose prompts are gone can be removed now."""
        there = self.prompts(queue)
        for job in leaving:
            if job.prompt_id not in there:
                self._leaving.pop(job.prompt_id, None)
                self.forget(job, job.prompt_id)
                Job.objects.filter(pk=job.pk, deleted=True, status__in=FINAL).update(engine=None)

    def forget(self, job: Job, prompt: str) -> None:
        """Removes, as far as possible, what is left in ComfyUI of a prompt that ended: its history entry, and
        the files if the job is finished or gone."""
        self.listener.forget(prompt)
        try:
            self.comfy.forget(prompt)
        except Unreachable as error:
            logger.warning("job %s: its history entry stays: %s", job, error.log, extra=job.log_fields)
        if not Job.objects.filter(pk=job.pk).exclude(status__in=FINAL).exists():
            remove_files(job)

    def unload(self) -> None:
        """Unloads the models, as far as possible, so that the next try has all memory; and removes the
        history entries that say that ComfyUI is warm."""
        try:
            self.comfy.free()
            warmup.chill(self.comfy)
        except Unreachable as error:
            logger.warning("engine %s: its models stay loaded: %s", self.engine, error.log)
