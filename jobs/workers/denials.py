"""Whose fault is it that ComfyUI did not take a job's request: the job's, or the server's?

A 403, a 500 or no answer at all does not tell. A firewall may dislike this one prompt, a proxy this one large
image; or ComfyUI is in trouble for everybody. So such a job is set aside, uncounted, and the others go on:

* if another job's same request passes, the fault is the job's, which fails when it is denied again;
* if a second job is denied as well, or the same one again and again, and nothing runs meanwhile, the fault is
  the server's, which counts as sick;
* as long as other jobs run, such as text jobs when no image can be uploaded, the job only waits longer each
  time.

Prompts that vanish before they ran are counted here as well. All this is kept in memory only: a new worker
begins without any doubts.
"""

import time
import uuid
from dataclasses import dataclass, field
from typing import Literal

PATIENCE = 4  # denials of one job, while no other job asks, until the server counts as sick
TRANSIENT = 3  # denials of one job, if others pass but its answer might soon change, until the job fails
MAX_VANISHED = 3  # prompts in a row that vanish before they ran, until the server counts as sick
MEMORY = 3600.0  # seconds; a job that was denied waits up to ten minutes for its next try

# The request that was denied. "files" is a prompt for which model files or nodes are missing. That is no
# job's fault, so ``passed`` is never called for it.
Step = Literal["image", "prompt", "files", "result"]


@dataclass
class Doubt:
    """What is known of one job's denied request."""

    tries: int = 0
    others_pass: bool = False
    since: float = field(default_factory=time.monotonic)
    at: float = 0.0  # when the last denial came


class Denials:
    def __init__(self) -> None:
        self._doubts: dict[tuple[Step, uuid.UUID], Doubt] = {}
        self._vanished = 0
        self._ran_at = 0.0

    def denied(self, step: Step, job: uuid.UUID, *, lasting: bool) -> Literal["job", "server", "unknown"]:
        """Notes this denial, and returns whose fault it is. ``lasting``: the same request will hardly pass a
        moment later."""
        now = time.monotonic()
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if now - doubt.at < MEMORY}
        doubt = self._doubts.setdefault((step, job), Doubt())
        doubt.tries, doubt.at = doubt.tries + 1, now
        if doubt.others_pass:
            return "job" if lasting or doubt.tries >= TRANSIENT else "unknown"
        if self._ran_at > doubt.since:
            return "unknown"
        alike = [key for key, other in self._doubts.items() if key[0] == step and not other.others_pass]
        second = step != "files" and len(alike) > 1
        return "server" if second or doubt.tries >= PATIENCE else "unknown"

    def doubts(self, step: Step, job: uuid.UUID) -> bool:
        """Whether this job's request was denied, and did not pass since."""
        return (step, job) in self._doubts

    def passed(self, step: Step, job: uuid.UUID) -> None:
        """This job's request was taken. So other jobs that were denied the same request are at fault
        themselves."""
        self._doubts.pop((step, job), None)
        for (other_step, _), doubt in self._doubts.items():
            if other_step == step and not doubt.others_pass:
                doubt.others_pass, doubt.tries = True, 0

    def vanished(self) -> bool:
        """Counts one more prompt that is gone and never ran. Returns whether there were too many in a row."""
        self._vanished += 1
        return self._vanished >= MAX_VANISHED

    def ran(self) -> None:
        """ComfyUI executes the prompt of some job."""
        self._vanished, self._ran_at = 0, time.monotonic()
