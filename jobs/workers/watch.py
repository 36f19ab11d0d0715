"""The watch over an engine: holds its lease, looks whether ComfyUI answers, has its models and is warm.

It runs in the tick of ``manage.py worker render``, beside the task that renders.
"""

import logging
import subprocess
import threading
import time
from functools import partial

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from comfy import presets, warmup
from comfy.answers import ComfyError, Unfit, Unreachable
from comfy.client import Comfy
from jobs.models import Job, metric
from jobs.models.engine import DISK_FULL, GPU_FAILED, Engine
from jobs.queue import engines
from jobs.queue.claim import waiting_for
from jobs.workers import hold
from wanapi.logs import Seldom

logger = logging.getLogger(__name__)

TICK = 2.0  # seconds
LOOK = 6.0  # seconds between two looks at ComfyUI; for /health a look counts for 30 s
LOOK_TIMEOUT = 2.0  # seconds for each request of a look


class Relapses:
    """How long an engine that fell sick rests before it is tried again, since each try costs a job some time.
    The first time it does not rest at all. Then its rest doubles each time, up to LONGEST, until it was well
    for TRUST seconds."""

    LONGEST, TRUST = 120.0, 900.0  # seconds

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0
        self._sick = False

    def sick(self) -> None:
        if not self._sick:
            now = time.monotonic()
            self._count = self._count + 1 if now - self._until < self.TRUST else 1
            self._until = now + min(2.0 ** (self._count - 1) - 1, self.LONGEST)
        self._sick = True

    def well(self) -> None:
        self._sick = False

    @property
    def rests(self) -> bool:
        return time.monotonic() < self._until


class EngineWatch:
    """Holds the engine, and looks whether its ComfyUI answers and has its model files."""

    LONGEST_PAUSE = 10.0  # seconds between two looks at a ComfyUI that does not answer
    RESTART_PAUSE = 300.0  # seconds that a restarted ComfyUI has to come back

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self._told = False  # whether it was logged that this worker stands by
        self._counted_at = time.monotonic()
        self._missing_nodes: list[str] | None = None  # None: to be asked at the next look
        self._warm: threading.Thread | None = None  # the warm-up, or None if there was none yet
        self._relapses = Relapses()
        self._unreachable = Seldom()
        self._lacks: list[str] = []  # what this watch reported last
        self._look_at = 0.0
        self._pause = TICK
        self._restart_at = 0.0

    def tick(self) -> None:
        name, url = settings.ENGINE_NAME, settings.COMFYUI_URL
        engine = engines.hold(name=name, url=url, worker=hold.WORKER)
        if engine is None and self.engine is not None:
            logger.warning("engine %s: lost to another cluster", name)
        elif engine is None and not self._told:
            logger.warning("engine %s: another worker holds it, this one stands by (ENGINE_NAME)", name)
            self._told = True
        elif engine is not None and self.engine is None:
            logger.info("engine %s: held", name)
        self.engine = engine
        self._count(engine)
        if engine:
            self._obey(engine)
        if engine and time.monotonic() >= self._look_at:
            self._look(engine)

    def _obey(self, engine: Engine) -> None:
        """Restarts ComfyUI if an operator wants it, and tells operators whether that is possible."""
        if engine.can_restart != bool(settings.COMFYUI_RESTART_COMMAND):
            engines.report_command(engine, can_restart=bool(settings.COMFYUI_RESTART_COMMAND))
        if engines.take_restart(engine):
            self._restart_at = 0.0
            self._restart(engine, "An operator wants it.")

    def _count(self, engine: Engine | None) -> None:
        """Adds the time since the last tick to what the GPU did: busy, starved or idle."""
        now = time.monotonic()
        passed, self._counted_at = now - self._counted_at, now
        if engine is None:
            return  # a standby
        if Job.objects.filter(engine=engine, status=Job.Status.PROCESSING, rendered_at=None).exists():
            doing = "busy"
        else:
            doing = "starved" if waiting_for(engine).exists() else "idle"
        metric.add({(f"gpu_{doing}_seconds", engine.name): passed})

    def _look(self, engine: Engine) -> None:
        well = False
        try:
            with Comfy(engine.url, read_timeout=LOOK_TIMEOUT) as comfy:
                well = self._is_fit(comfy, engine)
        except Unfit as error:
            self._away(engine, error)
            if engine.must_restart or engine.trouble == DISK_FULL:  # keeps this trouble, which is not over
                engines.report_unreachable(engine)
            else:
                engines.report_sick(engine, error.message)
        except Unreachable as error:
            self._away(engine, error)
            engines.report_unreachable(engine)
        if well:
            self._pause, self._look_at = TICK, time.monotonic() + LOOK
        else:
            self._pause = min(self._pause * 1.5, self.LONGEST_PAUSE)
            self._look_at = time.monotonic() + self._pause
            if engine.must_restart:
                self._restart(engine, engine.trouble)

    def _is_fit(self, comfy: Comfy, engine: Engine) -> bool:
        """Whether the engine may be given jobs. If so, its row now says which ones it can run."""
        if engine.lacks != self._lacks:  # the renderer found that something vanished
            self._missing_nodes = None
        if self._missing_nodes is None:
            comfy.check_prompts()
            self._missing_nodes = self._look_for_nodes(comfy, engine)
        missing = [*comfy.missing(presets.files()), *(f"node {name}" for name in self._missing_nodes)]
        runs, lacks = presets.runs(missing), presets.lacks(missing, settings.WORKFLOW_PRESET)
        version = str(comfy.system())
        if engine.trouble:
            self._relapses.sick()
            if self._relapses.rests or not self._is_well_again(comfy, engine, runs):
                return False
        self._relapses.well()
        if not self._is_warm(comfy, engine, runs):
            engines.report_warming(engine)
            return False
        if lacks != engine.lacks:
            names = ", ".join(lacks) or "nothing any more"
            logger.warning("engine %s: ComfyUI lacks: %s", engine.name, names)
        engines.report_well(engine, version=version, runs=runs, lacks=lacks, missing=missing)
        self._lacks = lacks
        return True

    def _look_for_nodes(self, comfy: Comfy, engine: Engine) -> list[str]:
        """Which nodes are missing. There is a request for each node, and the lease is renewed in between."""
        missing = []
        for name in presets.nodes():
            missing += comfy.missing_nodes([name])
            engines.renew(engine)
        return missing

    def _is_well_again(self, comfy: Comfy, engine: Engine, runs: list[str]) -> bool:
        """Whether the trouble is over: stuck prompts are gone, by a restart; a full disk has room again; a
        GPU that failed has run a warm-up. After any other trouble it is enough that a prompt gets through to
        ComfyUI: the next job will show whether it works.
        """
        if engine.stuck:
            queue = comfy.queue()
            return not any(prompt_id in queue for prompt_id in engine.stuck)
        if engine.trouble == DISK_FULL:
            return comfy.has_space()
        if engine.trouble == GPU_FAILED:
            return self._is_warmed_up(comfy, engine, runs)
        comfy.check_prompts()
        return True

    def _away(self, engine: Engine, error: Unreachable) -> None:
        due = self._unreachable.due(error.log)
        if engine.ready or due:
            logger.warning("engine %s: %s", engine.name, error.log)
        self._missing_nodes = self._warm = None

    def _is_warm(self, comfy: Comfy, engine: Engine, runs: list[str]) -> bool:
        """Whether no warm-up is needed or under way. A ComfyUI that is seen for the first time, or was away,
        is warmed up, unless it has a render of our predecessor or was warmed up since it started. After a
        warm-up that failed the engine is used all the same."""
        if self._warm is None and not engine.ready and settings.WARM_UP:
            if comfy.queue().marked(str(engine.pk)) or warmup.is_warm(
                comfy, presets.find(settings.WORKFLOW_PRESET)
            ):
                return True
            self._begin_warm_up(comfy, engine, runs)
        return self._warm is None or not self._warm.is_alive()

    def _is_warmed_up(self, comfy: Comfy, engine: Engine, runs: list[str]) -> bool:
        """Whether a warm-up has succeeded; begins the next one if none has."""
        if self._warm and self._warm.is_alive():
            return False
        if self._warm and warmup.is_warm(comfy, presets.find(settings.WORKFLOW_PRESET)):
            return True
        self._begin_warm_up(comfy, engine, runs)
        return False

    def _begin_warm_up(self, comfy: Comfy, engine: Engine, runs: list[str]) -> None:
        """Begins a warm-up in a thread, for the kind of job that waits first (``warmup.kinds``)."""
        preset = presets.find(settings.WORKFLOW_PRESET)
        kinds = [kind for kind in preset.kinds if f"{preset.reference}/{kind}" in runs]
        if not kinds:
            return
        waiting = Job.objects.to_render().filter(preset=preset.reference, kind__in=kinds).in_order().first()
        order = warmup.kinds(comfy, preset, first=waiting.kind if waiting else kinds[0])
        kinds = [kind for kind in order if kind in kinds]
        self._warm = threading.Thread(target=self._warm_up, args=(engine, kinds), daemon=True)
        self._warm.start()

    def _warm_up(self, engine: Engine, kinds: list[str]) -> None:
        """Warms up for these kinds of job. A failure is only logged: the first job may work all the same, and
        if it does not, its error says more."""
        try:
            with Comfy(engine.url) as comfy:
                for kind, seconds in warmup.warm_up(comfy, presets.find(settings.WORKFLOW_PRESET), kinds):
                    logger.info("engine %s: warmed up for %s in %.0f s", engine.name, kind, seconds)
        except ComfyError as error:
            logger.warning("engine %s: not warmed up: %s", engine.name, error.log)
        hold.remove_folder(warmup.FOLDER)

    def _restart(self, engine: Engine, why: str) -> None:
        """Runs the operator's own command, but not within RESTART_PAUSE seconds after the last time."""
        if settings.COMFYUI_RESTART_COMMAND and time.monotonic() >= self._restart_at:
            logger.warning("engine %s: %s Restarting it.", engine.name, why)
            # A line for the shell, written by the operator.
            command = partial(subprocess.run, settings.COMFYUI_RESTART_COMMAND, shell=True, check=False)  # noqa: S604
            threading.Thread(target=command, daemon=True).start()  # the tick does not wait for it
            self._restart_at = time.monotonic() + self.RESTART_PAUSE

    def end(self) -> None:
        if self.engine:
            try:
                engines.release(self.engine)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("engine %s: not released: %s", self.engine.name, error)
