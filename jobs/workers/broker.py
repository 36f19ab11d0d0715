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

from jobs.queue.wake import CLUSTERS, TASKS


class Broker(ORM):
    """Made before django-q2 forks, so that the tick, the process that takes messages and the processes that
    run tasks share it.

    At most one wake-up is on its way to each task: the next one is given out only when that task has begun,
    so that wake-ups do not pile up behind a long render.
    """

    def __init__(self, cluster: str) -> None:
        super().__init__(cluster)
        fork = multiprocessing.get_context("fork")
        names = [TASKS[task] for task, theirs in CLUSTERS.items() if theirs == cluster]
        self._wanted = {name: fork.Event() for name in names}
        self._given = {name: fork.Event() for name in names}
        pre_execute.connect(self._begun)

    def wake(self, task: str) -> None:
        self._wanted[TASKS[task]].set()

    def dequeue(self) -> list[tuple[Any, str]] | None:
        for name, wanted in self._wanted.items():
            if wanted.is_set() and not self._given[name].is_set():
                wanted.clear()
                self._given[name].set()
                return self._package(name)
        return super().dequeue()

    @staticmethod
    def _package(name: str) -> list[tuple[Any, str]]:
        package = {
            "id": uuid.uuid4().hex,
            "name": "tick",
            "func": name,
            "args": (),
            "kwargs": {},
            "started": timezone.now(),
        }
        return [(None, SignedPackage.dumps(package))]  # None: there is no row to delete afterwards

    def _begun(self, task: dict[str, Any], **_: Any) -> None:
        if task["ack_id"] is None:
            self._given[task["func"]].clear()
