"""Engines: a worker's lease on one ComfyUI, what the worker reports of it, and what it can run.

Only the holder of an engine posts prompts to its ComfyUI, and only it writes the engine's row: each write
names the worker, so that a worker that lost the lease changes nothing.
"""

from collections.abc import Iterable, Sequence

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from comfy import presets
from jobs.models import Engine, EngineEvent, Job
from jobs.models.clock import seconds
from jobs.models.engine import EngineQuerySet, shortened
from jobs.queue.returns import return_lapsed
from jobs.queue.wake import RENDER, wake

BATCH = 5000  # rows


def hold(*, name: str, url: str, worker: str) -> Engine | None:
    """Takes or renews the lease on the engine of this name; None if another worker holds it.

    A new holder at once puts the renders that its predecessor left back into the queue: nobody else may
    work on them, and their prompts go on in ComfyUI until they are adopted.
    """
    lease = Now() + seconds(settings.ENGINE_LEASE)
    if Engine.objects.held_by(worker).filter(name=name).update(lease_until=lease):
        return Engine.objects.get(name=name)
    with transaction.atomic():
        engine, _ = Engine.objects.get_or_create(name=name, defaults={"url": url})
        free = _free(Engine.objects.filter(pk=engine.pk))
        if not free.update(worker=worker, lease_until=lease, url=url, ready=False, warming=False):
            return None
        return_lapsed(Job.objects.filter(engine=engine).rendering().exclude(worker=worker))
    return Engine.objects.get(name=name)


def renew(engine: Engine) -> None:
    """Renews the engine's lease in the middle of a long look at its ComfyUI."""
    lease = Now() + seconds(settings.ENGINE_LEASE)
    Engine.objects.held_by(engine.worker).filter(pk=engine.pk).update(lease_until=lease)


def release(engine: Engine) -> None:
    """Gives the engine back at once, so that nobody has to wait until its lease runs out."""
    _row(engine).update(worker="", lease_until=None, ready=False)


def remove(engines: EngineQuerySet) -> list[str]:
    """Deletes those of these engines that no worker holds, and returns their names. Jobs whose render was
    begun on one of them begin anew on another engine."""
    with transaction.atomic():
        free = list(_free(engines).select_for_update())
        for engine in free:
            # There may be a million jobs. In batches, so that each query ends within DATABASE_TIMEOUT.
            jobs = Job.objects.filter(engine=engine)
            while jobs.filter(pk__in=jobs.values("pk")[:BATCH]).update(engine=None):
                pass
            engine.delete()
    return sorted(engine.name for engine in free)


def pause(engines: EngineQuerySet, detail: str) -> list[str]:
    """From now on these engines get no new jobs. What runs on them goes on to its end; what only waits in
    their ComfyUI goes back to the queue. ``detail`` says who wanted it. Returns the names of those that were
    not paused already."""
    return _change(engines.filter(paused=False), EngineEvent.Kind.PAUSED, detail, paused=True)


def resume(engines: EngineQuerySet, detail: str) -> list[str]:
    return _change(engines.filter(paused=True), EngineEvent.Kind.RESUMED, detail, paused=False)


def want_restart(engines: EngineQuerySet, detail: str) -> list[str]:
    """The workers of these engines, if they have COMFYUI_RESTART_COMMAND, run it at their next tick."""
    return _change(engines.filter(can_restart=True), EngineEvent.Kind.RESTART, detail, restart_wanted=True)


def _change(engines: EngineQuerySet, kind: EngineEvent.Kind, detail: str, **changes: bool) -> list[str]:
    with transaction.atomic():
        chosen = list(engines.select_for_update().order_by("name"))
        Engine.objects.filter(pk__in=[engine.pk for engine in chosen]).update(**changes)
        EngineEvent.objects.bulk_create(
            EngineEvent(engine=engine, kind=kind, detail=detail) for engine in chosen
        )
        if kind == EngineEvent.Kind.RESUMED:
            wake(RENDER)
    return [engine.name for engine in chosen]


def _free(engines: EngineQuerySet) -> EngineQuerySet:
    return engines.filter(Q(lease_until=None) | Q(lease_until__lt=Now()))


def _row(engine: Engine) -> EngineQuerySet:
    return Engine.objects.filter(pk=engine.pk, worker=engine.worker)


# What the holder reports of an engine


def report_well(
    engine: Engine, *, version: str, runs: list[str], lacks: list[str], missing: Sequence[str] = ()
) -> None:
    """Its ComfyUI answered just now, and can run these pairs of preset and kind.

    If the renderer reported a trouble since this look began, the row stays as it is: the next look judges
    that trouble.
    """
    _row(engine).filter(trouble=engine.trouble).update(
        seen_at=Now(),
        ready=True,
        version=version[:255],
        runs=runs,
        lacks=lacks,
        missing=sorted(missing),
        trouble="",
        stuck=[],
        warming=False,
    )
    engine.ready, engine.runs, engine.lacks, engine.trouble = True, runs, lacks, ""


def report_lacking(engine: Engine, pair: str, what: str) -> None:
    """A file or node that this pair needs vanished since the last look."""
    preset, kind = pair.split("/")
    lost = (pair, f"{preset.partition('@')[0]}/{kind}")
    engine.runs = [other for other in abilities(engine) if other not in lost]
    _row(engine).update(runs=engine.runs, lacks=sorted({*engine.lacks, what}))


def report_warming(engine: Engine) -> None:
    """Its ComfyUI answers, and loads its models with a first render of ours."""
    _row(engine).update(seen_at=Now(), ready=False, warming=True)
    engine.ready = False


def report_command(engine: Engine, *, can_restart: bool) -> None:
    """Whether its worker has a command that restarts ComfyUI."""
    _row(engine).update(can_restart=can_restart)
    engine.can_restart = can_restart


def take_restart(engine: Engine) -> bool:
    """Whether an operator wanted a restart since the last time."""
    if not engine.restart_wanted:
        return False
    return bool(_row(engine).filter(restart_wanted=True).update(restart_wanted=False))


def report_unreachable(engine: Engine) -> None:
    _row(engine).update(ready=False, warming=False)
    engine.ready = False


def report_sick(engine: Engine, trouble: str, stuck: Iterable[str] = ()) -> None:
    """Its ComfyUI answers but cannot work. ``trouble`` says why; ``stuck`` are the prompts that show it."""
    _row(engine).update(ready=False, warming=False, trouble=trouble[:255], stuck=sorted(stuck))
    engine.ready, engine.trouble = False, trouble


# What it can run


def abilities(engine: Engine) -> list[str]:
    """The pairs of preset and kind, as in ``presets.runs``. A worker of an older release told only what its
    ComfyUI lacks."""
    if engine.runs is None:
        return [] if engine.lacks else [pair for pair in presets.runs([]) if "@" not in pair]
    return list(engine.runs)


def runnable() -> set[str]:
    """The pairs that some engine can run now."""
    return {pair for engine in Engine.objects.claiming() for pair in abilities(engine)}


def hindrance(job: Job) -> str | None:
    """Why no engine can begin this queued job now, in a sentence; None if one can, or works on it."""
    if job.status != Job.Status.QUEUED or job.lease_until or job.engine_id:
        return None
    if f"{job.preset}/{job.kind}" in runnable():
        return None
    answering = list(Engine.objects.claiming())
    if not answering:
        paused = Engine.objects.answering().exists()
        return "Every GPU server that answers is paused." if paused else "No GPU server is ready."
    try:
        needs = presets.find(job.preset).needs(job.kind)
    except KeyError:
        return f"The preset {job.preset_name} was changed since, and no worker has it as it was."
    lacking = {engine.name: sorted(needs & set(engine.missing)) for engine in answering}
    told = [f"{name} lacks {shortened(names)}" for name, names in lacking.items() if names]
    if not told:
        return f"No GPU server has the preset {job.preset_name} as this service has it."
    return f"No GPU server can render it: {'; '.join(told)}."


def impossible(preset: str) -> list[str]:
    """The kinds of job that no engine can run now with this preset."""
    pairs = runnable()
    wanted = presets.find(preset)
    if any(pair.startswith(f"{wanted.name}@") for pair in pairs):
        return [kind for kind in wanted.kinds if f"{wanted.reference}/{kind}" not in pairs]
    # Workers of an older release alone: they know no versions of presets, and will be replaced soon.
    return [] if any(pair.startswith(f"{wanted.name}/") for pair in pairs) else list(wanted.kinds)
