"""``manage.py worker render|publish``: a django-q2 cluster, and the tick that keeps it honest.

django-q2 runs the tasks. What it does not do by itself is added here:

* a tick every two seconds holds the engine, returns jobs whose lease ran out, and wakes the cluster up when
  work waits, so that nothing hangs on one message;
* the children die with the main process, and when one of them dies unexpectedly the whole cluster ends with
  an exit code other than 0, to be restarted by its supervisor: half a cluster would hold jobs for ever;
* SIGTERM, also to the whole process group, reaches the main process only, which tells the running task to
  hand over.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import django_q.cluster
from django.conf import settings
from django.db import DatabaseError, InterfaceError, NotSupportedError, connection
from django_q.models import OrmQ
from django_q.tasks import async_task

from jobs.models import Delivery, Event, Job, Metric
from jobs.models.engine import Engine
from jobs.queue.claim import has_work
from jobs.queue.returns import return_expired
from jobs.queue.wake import DELIVER, PUBLISH, PURGE_OLD, RENDER
from jobs.workers import hold, retention
from jobs.workers.broker import Broker
from jobs.workers.watch import TICK, EngineWatch
from wanapi import VERSION

logger = logging.getLogger(__name__)

LEAVE = 7.0  # seconds after SIGTERM until what is left is killed
PR_SET_PDEATHSIG = 1
SIGNALS = {signal.SIGTERM, signal.SIGINT}


class Sentinel(django_q.cluster.Sentinel):
    def reincarnate(self, process: Any) -> None:
        """django-q2's pusher or monitor may end by itself when the database is away, and is replaced. A
        process that was killed, or a worker, may have died while it held a lock of the queues between the
        processes, for which the others would wait for ever: then the whole cluster ends."""
        if process in self.pool or process.exitcode < 0:
            logger.critical(
                "a process of the cluster died (%s); leaving, to be started afresh", process.exitcode
            )
            os._exit(1)
        super().reincarnate(process)


def run(cluster: str) -> NoReturn:
    """Runs the cluster until it is told to stop (exit code 0) or half of it has died (1)."""
    logger.info("WANAPI %s: %s", VERSION, cluster)
    wait_for_tables()
    tell_of_missing_folders()
    broker = Broker(cluster)
    q2 = start_cluster(broker)
    stop = threading.Event()
    watch = EngineWatch() if cluster == RENDER else None
    for signum in SIGNALS:
        signal.signal(signum, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    tick = threading.Thread(target=run_tick, args=(cluster, broker, stop, watch), name="tick", daemon=True)
    tick.start()
    logger.info("%s cluster started as %s", cluster, hold.WORKER)
    while q2.sentinel.is_alive() and tick.is_alive() and not stop.wait(0.5):
        pass
    code = 0 if stop.is_set() else 1
    stop.set()
    hold.stopping.set()
    leave(q2)
    tick.join(timeout=1)
    if watch:
        watch.end()  # after the renders were handed back
    sys.exit(code)


def wait_for_tables() -> None:
    """Waits for the database and its migrations, so that a cluster that is started too early does not end
    and start again and again."""
    told = False
    while True:
        try:
            for model in (Job, Engine, Event, Delivery, Metric, OrmQ):
                model.objects.first()
            return connection.close()  # django-q2 forks next, and processes cannot share a connection
        except NotSupportedError as error:
            sys.exit(f"wanapi: {error}")  # such as a version of Postgres that is too old for Django
        except (DatabaseError, InterfaceError) as error:
            if not told:
                logger.warning("waiting for the database and its migrations (manage.py migrate): %s", error)
            told = True
            connection.close()
            time.sleep(0.5)


def tell_of_missing_folders() -> None:
    """Only logs them: ComfyUI makes its folders when it starts, or they are mounted later."""
    for name in ("COMFYUI_INPUT_DIR", "COMFYUI_OUTPUT_DIR"):
        folder = getattr(settings, name)
        if folder and not os.path.isdir(folder):
            logger.warning("%s: there is no folder %s, so finished jobs' files stay in ComfyUI", name, folder)


def start_cluster(broker: Broker) -> Any:
    """Forks the cluster. Its processes inherit the blocked signals and die with their parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc:
        os.register_at_fork(after_in_child=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    django_q.cluster.Sentinel = Sentinel  # type: ignore[misc]
    q2 = django_q.cluster.Cluster(broker)
    q2.start()
    return q2


def leave(q2: Any) -> None:
    """Waits for the running task to hand over, then for django-q2 to stop; kills what is left of it."""
    killer = threading.Timer(LEAVE, q2.sentinel.kill)
    killer.daemon = True
    killer.start()
    q2.stop()
    killer.cancel()


# The tick


def run_tick(cluster: str, broker: Broker, stop: threading.Event, watch: EngineWatch | None) -> None:
    purging = Purging()
    while not stop.is_set():
        try:
            if watch:
                watch.tick()
            return_expired()
            for task in waiting(watch):
                broker.wake(task)
            if cluster == PUBLISH:
                purging.start_if_due()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("tick: %s", error)
            connection.close()
        except Exception:  # this thread holds the engine's lease, so it must go on
            logger.exception("tick")
        stop.wait(TICK)
    connection.close()


def waiting(watch: EngineWatch | None) -> Iterator[str]:
    """The tasks of this cluster for which there is work."""
    if watch is None:
        if Job.objects.to_publish().exists():
            yield PUBLISH
        if Delivery.objects.due().exists():
            yield DELIVER
    elif (engine := watch.engine) and engine.ready and has_work(engine):
        yield RENDER


class Purging:
    """Starts the retention task now and then, and soon after a client has deleted an unfinished job."""

    def __init__(self) -> None:
        self._old_at = self._deleted_at = 0.0

    def start_if_due(self) -> None:
        now = time.monotonic()
        old = settings.RETENTION_DAYS and now >= self._old_at
        deleted = now >= self._deleted_at and Job.objects.to_remove().exists()
        if old or deleted:
            async_task(PURGE_OLD, cluster=PUBLISH)
            self._deleted_at = now + retention.SHORT_PAUSE
        if old:
            self._old_at = now + retention.PAUSE
