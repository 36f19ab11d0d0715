"""What both kinds of worker share: who they are, how they are told to stop, and how they keep their jobs.

The tasks are in ``jobs/workers/render.py``, ``publish.py`` and ``deliver.py``. A task works until its queue
is empty, and never needs to be told which job. If a wake-up is lost, the tick of ``manage.py worker`` sends
another one; if it comes twice, the second one finds nothing to claim.
"""

import fcntl
import logging
import multiprocessing
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from django.conf import settings
from django.db import connection

from comfy.client import Comfy
from jobs.models import Job
from jobs.queue.claim import Claim, renew
from jobs.queue.wake import CANCELLED

logger = logging.getLogger(__name__)

TEMPORARY = "wanapi-render-"  # begins the names of our temporary folders, which a killed worker leaves behind

# Made before django-q2 forks, so that the cluster's main process and its workers share them.
WORKER = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
stopping = multiprocessing.get_context("fork").Event()


class Places:
    """How many tasks of a kind run in this cluster at once, so that no kind takes all of its processes. Made
    before django-q2 forks. Each task works until nothing is left, so one that finds no place may end.

    A place is a lock on a file of its own, which the kernel takes back from a process that is killed; a
    semaphore would stay taken.
    """

    def __init__(self, count: int) -> None:
        self._files = [_without_name() for _ in range(count)]

    @contextmanager
    def one(self) -> Iterator[bool]:
        """Whether there is a place; it is kept to the end of the block."""
        for file in self._files:
            # Opened anew: a lock belongs to an opened file, and forked processes share the one that we have.
            with open(f"/dev/fd/{file}", "rb") as own:
                try:
                    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield True
                return
        yield False


def _without_name() -> int:
    """The number of a file that is gone when the last process is that has it."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Heartbeat:
    """Renews, in a thread, the leases of the jobs that this process holds, three times per lease."""

    def __init__(self) -> None:
        self._claims: set[Claim] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=5)

    def hold(self, claim: Claim) -> None:
        self._claims.add(claim)

    def drop(self, claim: Claim) -> None:
        self._claims.discard(claim)

    def _run(self) -> None:
        while not self._ended.wait(settings.JOB_LEASE / 3):
            try:
                renew(list(self._claims))
            except Exception as error:  # any error: if this thread ended, the jobs in hand would be lost
                logger.warning("heartbeat: %s", error)
                connection.close()
        connection.close()


class Cancellations:
    """Sets ``changed`` in a thread when some job was cancelled, so that its prompt is interrupted at once.

    It is only a hint: a connection pooler in transaction mode does not pass notifications on. Then the
    renderer's next round finds the cancelled job.
    """

    RECONNECT_PAUSE = 5.0  # seconds

    def __init__(self, changed: threading.Event) -> None:
        self._changed = changed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancellations", daemon=True)

    def __enter__(self) -> "Cancellations":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._listen()
            except (psycopg.Error, OSError) as error:
                logger.debug("cancellations: %s", error)
            self._ended.wait(self.RECONNECT_PAUSE)

    def _listen(self) -> None:
        with psycopg.connect(**connection.get_connection_params(), autocommit=True) as postgres:
            postgres.execute(f"LISTEN {CANCELLED}")
            while not self._ended.is_set():
                for _ in postgres.notifies(timeout=0.1, stop_after=1):
                    self._changed.set()


@contextmanager
def fetched(comfy: Comfy, folder: str, filename: str) -> Iterator[Path]:
    """A copy of the file that a render left on the GPU machine. Raises FileGone if there is none."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as temporary:
        path = Path(temporary) / "rendered.mp4"
        with path.open("wb") as file, comfy.open_output(folder, filename) as chunks:
            file.writelines(chunks)
        yield path


def remove_files(job: Job) -> None:
    """Removes the job's folders on the GPU machine, if they can be reached from here. ComfyUI itself deletes
    nothing."""
    remove_folder(job.folder)


def remove_folder(folder: str) -> None:
    """Removes this folder below ComfyUI's output and input folders."""
    for root in filter(None, (settings.COMFYUI_OUTPUT_DIR, settings.COMFYUI_INPUT_DIR)):
        try:
            shutil.rmtree(Path(root) / folder)
        except FileNotFoundError:
            pass
        except OSError as error:  # perhaps the files are another user's; they take space, but harm no job
            logger.warning("ComfyUI's files stay: %s", error)
