"""``manage.py worker render|publish``: a django-q2 cluster, and the tick that keeps it honest.

django-q2 runs the tasks. What it does not do by itself is added here:

* a tick every two seconds holds the engine, returns jobs whose lease ran out, and wakes the cluster up when
  work waits, so that nothing hangs on one message;
* the children die with the main process, and when one of them dies unexpectedly the whole cluster leaves
  with an exit code other than 0, to be restarted by its supervisor: half a cluster would hold jobs for ever;
* SIGTERM, also to the whole process group, reaches the main process only, which tells the running task to
  hand over.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any

import django_q.cluster
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, InterfaceError, NotSupportedError, connection
from django_q.models import OrmQ
from django_q.tasks import async_task

from comfy import workflow
from comfy.client import Comfy, Unreachable
from jobs import metrics, retention, worker
from jobs.engines import Engine
from jobs.models import PUBLISH, RENDER, Event, Job, Metric, wake_if_idle

logger = logging.getLogger(__name__)

TICK = 2.0  # seconds
LEAVE = 7.0  # seconds after SIGTERM until what is left is killed
LOOK = 6.0  # seconds between two looks at ComfyUI; /health forgets what is older than 30
LOOK_TIMEOUT = 2.0  # for each of its requests, so that all together stay within ENGINE_LEASE
PR_SET_PDEATHSIG = 1


class Sentinel(django_q.cluster.Sentinel):
    def reincarnate(self, process: Any) -> None:
        """A pusher or monitor may end by itself when the database is away, and is replaced. One that was
        killed, or a worker, may have died with a lock of the queues in its hands."""
        if process in self.pool or process.exitcode < 0:
            logger.critical(
                "a process of the cluster died (%s); leaving, to be started afresh", process.exitcode
            )
            os._exit(1)
        super().reincarnate(process)


class Command(BaseCommand):
    requires_system_checks = ()  # of the web's addresses and pages, which a worker has no use for
    help = "Runs a django-q2 cluster: 'render' drives one ComfyUI, 'publish' brings videos to S3."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("cluster", choices=[RENDER, PUBLISH])

    def handle(self, *, cluster: str, **options: Any) -> None:
        wait_for_tables()
        q2 = start_cluster()
        stop = threading.Event()
        watch = EngineWatch() if cluster == RENDER else None
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        tick = threading.Thread(target=run_tick, args=(cluster, stop, watch), name="tick", daemon=True)
        tick.start()
        logger.info("%s cluster started as %s", cluster, worker.WORKER)
        while q2.sentinel.is_alive() and tick.is_alive() and not stop.wait(0.5):
            pass
        code = 0 if stop.is_set() else 1
        stop.set()
        worker.stopping.set()
        leave(q2)
        tick.join(timeout=1)
        if watch:
            watch.end()  # after the renders were handed back
        sys.exit(code)


def wait_for_tables() -> None:
    """A cluster that starts before the database or its migrations waits, rather than to come and go."""
    told = False
    while True:
        try:
            for model in (Job, Engine, Event, Metric, OrmQ):
                model.objects.first()
            return connection.close()  # django-q2 forks next
        except NotSupportedError as error:
            sys.exit(f"wanapi: {error}")  # of another version than Django can use
        except (DatabaseError, InterfaceError) as error:
            if not told:
                logger.warning("waiting for the database and its migrations (manage.py migrate): %s", error)
            told = True
            connection.close()
            time.sleep(0.5)


SIGNALS = {signal.SIGTERM, signal.SIGINT}


def start_cluster() -> Any:
    """Forks the cluster. Its processes inherit the blocked signals and die with their parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc:
        os.register_at_fork(after_in_child=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    django_q.cluster.Sentinel = Sentinel  # type: ignore[misc]
    q2 = django_q.cluster.Cluster()
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


def run_tick(cluster: str, stop: threading.Event, watch: "EngineWatch | None") -> None:
    purge_at = 0.0
    while not stop.is_set():
        try:
            if watch:
                watch.tick()
            Job.objects.return_expired()
            if work_waits(watch):
                wake_if_idle(cluster)
            if cluster == PUBLISH and settings.RETENTION_DAYS and time.monotonic() >= purge_at:
                async_task("jobs.retention.purge_old", cluster=PUBLISH)
                purge_at = time.monotonic() + retention.PAUSE
        except (DatabaseError, InterfaceError) as error:
            logger.warning("tick: %s", error)
            connection.close()
        except Exception:  # the engine is held by this thread: it must go on
            logger.exception("tick")
        stop.wait(TICK)
    connection.close()


def work_waits(watch: "EngineWatch | None") -> bool:
    if watch is None:
        return Job.objects.to_publish().exists()
    ready = watch.engine is not None and watch.engine.ready
    return ready and Job.objects.to_render().exists()


def is_well_again(comfy: Comfy, engine: Engine) -> bool:
    """The prompts that were stuck have gone, by a restart; or there is room on its disk again."""
    if engine.stuck:
        queue = comfy.queue()
        return not any(prompt_id in queue for prompt_id in engine.stuck)
    return comfy.has_space()


class EngineWatch:
    """Holds the engine, and looks whether its ComfyUI answers and has its model files."""

    LONGEST_PAUSE = 10.0  # seconds between two looks at a ComfyUI that does not answer
    RESTART_PAUSE = 300.0  # seconds that a restarted ComfyUI has to come back

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self._counted_at = time.monotonic()
        self._look_at = 0.0
        self._pause = TICK
        self._restart_at = 0.0

    def tick(self) -> None:
        name, url = settings.ENGINE_NAME, settings.COMFYUI_URL
        engine = Engine.objects.hold(name=name, url=url, worker=worker.WORKER)
        if engine is None and self.engine is not None:
            logger.warning("engine %s: lost to another cluster", name)
        elif engine is not None and self.engine is None:
            logger.info("engine %s: held", name)
        self.engine = engine
        self._count(engine)
        if engine and time.monotonic() >= self._look_at:
            self._look(engine)

    def _count(self, engine: Engine | None) -> None:
        """What the GPU did since the last tick."""
        now = time.monotonic()
        passed, self._counted_at = now - self._counted_at, now
        if engine is None:
            return  # a standby
        if engine.job_set.filter(status=Job.Status.PROCESSING, rendered_at=None).exists():
            doing = "busy"
        else:
            doing = "starved" if Job.objects.to_render().exists() else "idle"
        metrics.add({(f"gpu_{doing}_seconds", engine.name): passed})

    def _look(self, engine: Engine) -> None:
        try:
            with Comfy(engine.url, read_timeout=LOOK_TIMEOUT) as comfy:
                lacks = comfy.missing(workflow.model_files(settings.WORKFLOW_PRESET))
                version = comfy.version()
                well = not engine.trouble or is_well_again(comfy, engine)
        except Unreachable as error:
            if engine.ready or self._pause == TICK:
                logger.warning("engine %s: %s %s", engine.name, error.message, error.detail)
            engine.report_unreachable()
            well = False
        if well:
            if lacks != engine.lacks:
                names = ", ".join(lacks) or "none any more"
                logger.warning("engine %s: missing model files: %s", engine.name, names)
            engine.report(version=version, lacks=lacks)
            self._pause, self._look_at = TICK, time.monotonic() + LOOK
        else:
            self._pause = min(self._pause * 1.5, self.LONGEST_PAUSE)
            self._look_at = time.monotonic() + self._pause
            if engine.trouble:
                self._restart(engine)

    def _restart(self, engine: Engine) -> None:
        """By the operator's own command, and not before the last one has had its time."""
        if settings.COMFYUI_RESTART_COMMAND and time.monotonic() >= self._restart_at:
            logger.warning("engine %s: %s Restarting it.", engine.name, engine.trouble)
            # A line for the shell, written by the operator.
            command = partial(subprocess.run, settings.COMFYUI_RESTART_COMMAND, shell=True, check=False)  # noqa: S604
            threading.Thread(target=command, daemon=True).start()  # the tick must go on
            self._restart_at = time.monotonic() + self.RESTART_PAUSE

    def end(self) -> None:
        if self.engine:
            try:
                self.engine.release()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("engine %s: not released: %s", self.engine.name, error)
