"""Clients that wait for a job, in this web process: how many may, and the thread that watches their jobs.

The thread looks at all these jobs once a second, with one query, and at a single job as soon as Postgres
tells that it changed. So a notification may be lost, and behind a connection pooler, where none come,
answers are a second late. The thread has one connection to Postgres, and exists only while somebody waits.
"""

import logging
import os
import select
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from django.db import connection
from prometheus_client import Gauge

from jobs.models import Job
from jobs.queue.wake import CHANGED
from wanapi import limits, parking
from wanapi.postgres import AWAY
from wanapi.postgres.listener import Listener

logger = logging.getLogger(__name__)

WAITING = Gauge(
    "wanapi_waiting_clients", "Clients of this web instance that wait for a job.", multiprocess_mode="livesum"
)
LOOK = 1.0  # seconds between two looks at all jobs, and that a client waits for which there is no place
SHOWN = ("status", "progress", "attempt", "started_at", "finished_at", "error")  # what is read of a job
IDLE = 60.0  # seconds without anybody who waits, after which the thread ends


class Reader(parking.Parked):
    """A client that waits until ``is_over`` says so of its job's row, for ``seconds`` at most. ``who`` is the
    id of its API key. ``turned_away``: there was no place, so it waited for a moment only."""

    def __init__(self, job: Job, who: int | None, seconds: float, is_over: Callable[[Job], bool]):
        self.job_id, self.who, self.is_over = job.pk, who, is_over
        self.until = time.monotonic() + seconds
        self.turned_away = False

    def begin(self, client: Any, resume: Callable[[], None]) -> None:
        self.client, self.resume = client, resume
        room.enter(self)


class Room:
    """All who wait in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: set[Reader] = set()
        self._new: set[Reader] = set()  # those of them whose jobs were not looked at yet
        self._watch: Watch | None = None

    def enter(self, reader: Reader) -> None:
        with self._lock:
            if not self._has_place(reader):
                reader.turned_away, reader.until = True, time.monotonic() + LOOK
                if sum(other.turned_away for other in self._readers) >= limits.READERS_TURNED_AWAY:
                    reader.resume()
                    return
            self._readers.add(reader)
            self._new.add(reader)
            WAITING.set(len(self._readers))
            if self._watch is None:
                self._watch = Watch(self)
                self._watch.start()
            self._watch.ring()

    def _has_place(self, reader: Reader) -> bool:
        waiting = [other.who for other in self._readers if not other.turned_away]
        return len(waiting) < limits.READERS and waiting.count(reader.who) < limits.READERS_OF_KEY

    def look_round(self) -> tuple[list[Reader], list[Reader]]:
        """All, and those who were not among them the last time."""
        with self._lock:
            new, self._new = list(self._new), set()
            return list(self._readers), new

    def let_go(self, readers: Iterable[Reader]) -> None:
        with self._lock:
            leaving = self._readers.intersection(readers)
            self._readers -= leaving
            WAITING.set(len(self._readers))
        for reader in leaving:
            reader.resume()

    def close(self) -> bool:
        """The watch ends, unless somebody came in the meantime."""
        with self._lock:
            if not self._readers:
                self._watch = None
            return not self._readers


room = Room()


class Watch(threading.Thread):
    """Lets readers go: when their jobs changed, their time is up, or their clients are gone."""

    def __init__(self, room: Room):
        super().__init__(name="readers", daemon=True)
        self._room = room
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._listener = Listener(CHANGED)
        self._next_look = 0.0
        self._busy_until = 0.0

    def ring(self) -> None:
        """Somebody came in."""
        os.eventfd_write(self._bell, 1)

    def run(self) -> None:
        try:
            while time.monotonic() < self._busy_until or not self._room.close():
                try:
                    self._round()
                except Exception:  # any: without this thread nobody would ever be answered
                    logger.exception("waiting clients")
                    time.sleep(LOOK)
        finally:
            connection.close()
            os.close(self._bell)

    def _round(self) -> None:
        readers, new = self._room.look_round()
        looked = self._look(readers, new)
        now = time.monotonic()
        self._room.let_go([reader for reader in readers if reader.until <= now])
        if readers:
            self._busy_until = now + IDLE
        # While it looked, more may have been heard, which makes no file readable.
        pause = 0.0 if looked else min([self._next_look, *(reader.until for reader in readers)]) - now
        self._room.let_go(self._wait(readers, pause))

    def _look(self, readers: list[Reader], new: list[Reader]) -> bool:
        """Lets those go whose jobs changed. Returns whether it asked for any job."""
        everything = time.monotonic() >= self._next_look
        if everything:
            self._next_look = time.monotonic() + LOOK
        try:
            heard = set(self._listener.heard())
            asked = readers if everything else [r for r in readers if str(r.job_id) in heard] + new
            jobs = rows({reader.job_id for reader in asked})
        except AWAY as error:
            logger.debug("waiting clients: %s", error)
            connection.close()
            return False
        self._room.let_go([r for r in asked if r.job_id not in jobs or r.is_over(jobs[r.job_id])])
        return bool(asked)

    def _wait(self, readers: list[Reader], seconds: float) -> list[Reader]:
        """Waits until something happens; returns the readers whose clients are gone. Those who only closed
        their sending side are told apart by nothing, and get their answer now."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if (told := self._listener.fileno()) is not None:
            poll.register(told, select.POLLIN)
        clients = {reader.client.fileno(): reader for reader in readers}
        for number in clients.keys() - {-1}:  # closed, by a server that stops
            poll.register(number, select.POLLRDHUP)
        ready = poll.poll(1000 * max(seconds, 0))
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        return [clients[number] for number, _ in ready if number in clients]


def rows(ids: set[uuid.UUID]) -> dict[uuid.UUID, Job]:
    return {job.pk: job for job in Job.objects.filter(pk__in=ids).only(*SHOWN)} if ids else {}
