"""/health/ready: whether this instance can accept a job and somebody can render it, part by part."""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor

from jobs.media import storage
from jobs.models.engine import Engine
from jobs.queue.engines import impossible
from wanapi import limits
from wanapi.within import Threads

logger = logging.getLogger(__name__)

PATIENCE = 4.0  # seconds for all parts together
KEPT = 2.0  # seconds; the page needs no key, and must not become a way to load S3
LEAST_SPACE = 512 * 1024 * 1024  # bytes, for uploads and videos on their way


class Trouble(Exception):
    """One sentence, without names of hosts, since anybody may ask."""


def database() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW transaction_read_only")
            if cursor.fetchone()[0] == "on":
                raise Trouble("Postgres only reads: it is a standby, or was set so.")
    except Error as error:  # every error of Postgres: also a server that Django refuses
        logger.warning("not ready: %s", error)
        raise Trouble("Postgres does not answer.") from None


def migrations() -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise Trouble("Migrations are missing: run manage.py migrate.")


def bucket() -> None:
    try:
        storage.check_bucket()
    except storage.StorageError as error:
        logger.warning("not ready: %s", error)
        raise Trouble("S3 does not let us use the bucket; the log says why.") from None


def engines() -> None:
    """Trouble unless each kind of job has an engine that can render it."""
    kinds = impossible(settings.WORKFLOW_PRESET)
    if not kinds:
        return
    engines = list(Engine.objects.all())
    states = sorted({engine.state.rstrip(".") for engine in engines} - {"ready"})
    silence = "no engine answered within 30 s" if engines else "no render worker was ever started"
    raise Trouble(f"No engine can render {' or '.join(kinds)}: {'; '.join(states) or silence}.")


def disk() -> None:
    if shutil.disk_usage(tempfile.gettempdir()).free < LEAST_SPACE:
        raise Trouble("The disk for temporary files is nearly full.")


PARTS: dict[str, Callable[[], None]] = {
    "database": database,
    "migrations": migrations,
    "storage": bucket,
    "engines": engines,
    "disk": disk,
}
Report = dict[str, str | None]  # part -> trouble


class Readiness:
    """The last report, which holds for KEPT seconds: however many ask, S3 and Postgres are asked once.

    While one caller looks anew, all others get the last report at once. Only before there is a first one do
    they wait for it.
    """

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._last: Report = {}
        self._until = 0.0  # by time.monotonic()

    def report(self) -> Report:
        if self._looking.acquire(blocking=not self._last):
            try:
                if time.monotonic() > self._until:
                    self._last = look()
                    self._until = time.monotonic() + KEPT  # counted from the end of a look that took long
            finally:
                self._looking.release()
        return self._last


report = Readiness().report
_threads = Threads(limits.READY_THREADS, "ready")


def look() -> Report:
    """What is wrong with each part, or None. All are asked at once, so that one that hangs hides no other."""
    looks = {name: _threads.begin(PATIENCE, check) for name, check in PARTS.items()}
    return {name: _trouble(result) for name, result in looks.items()}


def _trouble(result: Callable[[], None]) -> str | None:
    try:
        result()
    except Trouble as trouble:
        return str(trouble)
    except Error:  # in another part than ``database``, also for a table that is missing
        return "Postgres does not answer."
    except TimeoutError:
        return "There was no answer in time."
    return None
