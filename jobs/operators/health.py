"""/health/ready: whether this instance can accept a job and somebody can render it, part by part."""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor

from jobs.media import storage
from jobs.models.engine import Engine

logger = logging.getLogger(__name__)

PATIENCE = 4.0  # seconds for all parts together
KEPT = 2.0  # seconds: it needs no key, and must not become a way to load S3
LEAST_SPACE = 512 * 1024 * 1024  # bytes, for uploads and videos on their way


class Trouble(Exception):
    """One sentence, without names of hosts: anybody can ask."""


def database() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW transaction_read_only")
            if cursor.fetchone()[0] == "on":
                raise Trouble("Postgres only reads: it is a standby, or was set so.")
    except (DatabaseError, InterfaceError) as error:
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
    """Each kind of job needs some engine that can render it."""
    kinds = Engine.objects.impossible(settings.WORKFLOW_PRESET)
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

_threads = ThreadPoolExecutor(max_workers=len(PARTS), thread_name_prefix="ready")
_lock = threading.Lock()
_last: tuple[float, Report] | None = None


def report() -> Report:
    """What is wrong with each part, or None; not asked anew within KEPT seconds, nor while somebody asks."""
    global _last
    if not _lock.acquire(blocking=_last is None):
        return _last[1]  # type: ignore[index]  # it is never taken away again
    try:
        if _last is None or time.monotonic() - _last[0] > KEPT:
            found = _look()  # its own time does not count, or those who wait would all look again
            _last = time.monotonic(), found
        return _last[1]
    finally:
        _lock.release()


def _look() -> Report:
    """All parts at once, in threads of their own: one that hangs must not hide the others."""
    looks = {name: _threads.submit(_trouble, check) for name, check in PARTS.items()}
    wait(looks.values(), timeout=PATIENCE)
    for look in looks.values():
        look.cancel()
    late = "There was no answer in time."
    return {
        name: look.result() if look.done() and not look.cancelled() else late for name, look in looks.items()
    }


def _trouble(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Trouble as trouble:
        return str(trouble)
    except (DatabaseError, InterfaceError):  # of the other parts that ask it
        return "Postgres does not answer."
    finally:
        connection.close_if_unusable_or_obsolete()
    return None
