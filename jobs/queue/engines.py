"""Engines: the lease that a worker holds on one ComfyUI, what it tells of it, and what it can run.

Only the holder of an engine posts prompts to its ComfyUI, and only it writes the engine's row: each write
names the worker, so that one who lost the lease changes nothing.
"""

from collections.abc import Iterable

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from comfy.presets import KINDS, PAIRS
from jobs.models import Engine, Job
from jobs.models.clock import seconds
from jobs.models.engine import EngineQuerySet
from jobs.queue.returns import return_lapsed

BATCH = 5000  # rows


def hold(*, name: str, url: str, worker: str) -> Engine | None:
    """Takes or renews the lease on the engine of this name; None if another worker holds it.

    A new holder returns the renders that its predecessor left to the queue, at once: nobody else
    may work on them, and their prompts go on in ComfyUI until they are adopted.
    """
    lease = Now() + seconds(settings.ENGINE_LEASE)
    if Engine.objects.held_by(worker).filter(name=name).update(lease_until=lease):
        return Engine.objects.get(name=name)
    with transaction.atomic():
        engine, _ = Engine.objects.get_or_create(name=name, defaults={"url": url})
        free = _free(Engine.objects.filter(pk=engine.pk))
        if not free.update(worker=worker, lease_until=lease, url=url, ready=False):
            return None
        return_lapsed(Job.objects.filter(engine=engine).rendering().exclude(worker=worker))
    return Engine.objects.get(name=name)


def renew(engine: Engine) -> None:
    """Its lease, in the middle of a long look at its ComfyUI."""
    lease = Now() + seconds(settings.ENGINE_LEASE)
    Engine.objects.held_by(engine.worker).filter(pk=engine.pk).update(lease_until=lease)


def release(engine: Engine) -> None:
    """Gives it back at once rather than when its lease runs out."""
    _row(engine).update(worker="", lease_until=None, ready=False)


def remove(engines: EngineQuerySet) -> list[str]:
    """Those of these that no worker holds, for good; returns their names. Renders that wait for one of them
    begin on another."""
    with transaction.atomic():
        free = list(_free(engines).select_for_update())
        for engine in free:
            jobs = Job.objects.filter(engine=engine)  # perhaps a million: in parts, within DATABASE_TIMEOUT
            while jobs.filter(pk__in=jobs.values("pk")[:BATCH]).update(engine=None):
                pass
            engine.delete()
    return sorted(engine.name for engine in free)


def _free(engines: EngineQuerySet) -> EngineQuerySet:
    return engines.filter(Q(lease_until=None) | Q(lease_until__lt=Now()))


def _row(engine: Engine) -> EngineQuerySet:
    return Engine.objects.filter(pk=engine.pk, worker=engine.worker)


# What its holder tells of it


def report_well(engine: Engine, *, version: str, runs: list[str], lacks: list[str]) -> None:
    """Its ComfyUI answered just now, and can run these pairs of preset and kind.

    A trouble that the renderer told of since this look began stays: the next look judges it.
    """
    _row(engine).filter(trouble=engine.trouble).update(
        seen_at=Now(), ready=True, version=version[:255], runs=runs, lacks=lacks, trouble="", stuck=[]
    )
    engine.ready, engine.runs, engine.lacks, engine.trouble = True, runs, lacks, ""


def report_lacking(engine: Engine, pair: str, what: str) -> None:
    """A file or node that this pair needs vanished since the last look."""
    engine.runs = [other for other in abilities(engine) if other != pair]
    _row(engine).update(runs=engine.runs, lacks=sorted({*engine.lacks, what}))


def report_unreachable(engine: Engine) -> None:
    _row(engine).update(ready=False)
    engine.ready = False


def report_sick(engine: Engine, trouble: str, stuck: Iterable[str] = ()) -> None:
    """Its ComfyUI answers and cannot work: for a reason, and with these prompts to show it."""
    _row(engine).update(ready=False, trouble=trouble[:255], stuck=sorted(stuck))
    engine.ready, engine.trouble = False, trouble


# What it can run


def abilities(engine: Engine) -> list[str]:
    """The pairs of preset and kind, such as ``quality/text-to-video``. A worker of the release before told
    only what its ComfyUI lacks."""
    if engine.runs is None:
        return [] if engine.lacks else list(PAIRS)
    return list(engine.runs)


def runnable() -> set[str]:
    """The pairs that some engine can run now."""
    return {pair for engine in Engine.objects.answering() for pair in abilities(engine)}


def impossible(preset: str) -> list[str]:
    """The kinds of job that no engine can run now with this preset."""
    pairs = runnable()
    return [kind for kind in KINDS if f"{preset}/{kind}" not in pairs]
