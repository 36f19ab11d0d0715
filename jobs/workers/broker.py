"""django-q2's broker, which a worker's tick can wake up without a message.

All workers of one kind share a queue of messages, and whoever asks first takes a message: perhaps a worker
that is busy, that stands by, or whose ComfyUI cannot run the job. The message does no harm there, but the
worker that could run the job does not hear of it, and may miss the next message in the same way. So the tick
of each worker wakes its own processes, and no others.
"""

import multiprocessing
import uuid
from typing import Any

from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.signals import pre_execute
from django_q.signing import SignedPackage

from jobs.queue.wake import TASKS


class Broker(ORM):
    """Made before django-q2 forks, so that the tick, the process that takes messages and the processes that
    run tasks share it.

    At most one wake-up is on its way to a task: the next one is given out only when that task has begun, so
    that wake-ups do not pile up behind a long render.
    """

    def __init__(self, cluster: str) -> None:
        super().__init__(cluster)
        fork = multiprocessing.get_context("fork")
        self._wanted, self._given = fork.Event(), fork.Event()
        self._task = TASKS[cluster]
        pre_execute.connect(self._begun)

    def wake(self) -> None:
        self._wanted.set()

    def dequeue(self) -> list[tuple[Any, str]] | None:
        if not self._wanted.is_set() or self._given.is_set():
            return super().dequeue()
        self._wanted.clear()
        self._given.set()
        package = {
            "id": uuid.uuid4().hex,
            "name": "tick",
            "func": self._task,
            "args": (),
            "kwargs": {},
            "started": timezone.now(),
        }
        return [(None, SignedPackage.dumps(package))]  # None: there is no row to delete afterwards

    def _begun(self, task: dict[str, Any], **_: Any) -> None:
        if task["ack_id"] is None:
            self._given.clear()
