"""Engines: one row per ComfyUI, and the lease that its worker holds."""

import uuid
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q, Value
from django.db.models.functions import Now
from django.utils import timezone

from comfy.workflow import KINDS, PAIRS


def shortened(names: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def seconds(count: float) -> Value:
    return Value(timedelta(seconds=count))


BATCH = 5000  # rows
DISK_FULL = "The GPU server's disk is full."
GPU_FAILED = "The GPU failed, which ends all work of a process on it: ComfyUI must be restarted."
MUST_RESTART = "must be restarted."  # how the troubles end that COMFYUI_RESTART_COMMAND is for


class EngineQuerySet(models.QuerySet["Engine"]):
    def held_by(self, worker: str) -> "EngineQuerySet":
        return self.filter(worker=worker, lease_until__gt=Now())

    def answering(self) -> "EngineQuerySet":
        """Engines that said within 30 s that their ComfyUI answers, and can work."""
        return self.filter(seen_at__gt=Now() - seconds(30), ready=True)

    def loaded(self) -> "EngineQuerySet":
        """Of these, those that lack nothing for any kind of job."""
        return self.answering().filter(lacks=[])

    def runnable(self) -> set[str]:
        """The pairs of preset and kind that some engine can run now."""
        return {pair for engine in self.answering() for pair in engine.abilities}

    def impossible(self, preset: str) -> list[str]:
        """The kinds of job that no engine can run now with this preset."""
        runnable = self.runnable()
        return [kind for kind in KINDS if f"{preset}/{kind}" not in runnable]

    def silent(self) -> "EngineQuerySet":
        """Engines without a sign of life for ENGINE_GRACE seconds."""
        return self.filter(seen_at__lt=Now() - seconds(settings.ENGINE_GRACE))

    def remove(self) -> list[str]:
        """Those that no worker holds, for good; their names. Renders that wait for one begin on another."""
        with transaction.atomic():
            free = list(self.filter(Q(lease_until=None) | Q(lease_until__lt=Now())).select_for_update())
            for engine in free:
                jobs = engine.job_set  # perhaps a million: in parts, each within DATABASE_TIMEOUT
                while jobs.filter(pk__in=jobs.values("pk")[:BATCH]).update(engine=None):
                    pass
                engine.delete()
        return sorted(engine.name for engine in free)

    def hold(self, *, name: str, url: str, worker: str) -> "Engine | None":
        """Takes or renews the lease on the engine of this name; None if another worker holds it.

        A new holder returns the renders that its predecessor left to the queue, at once: nobody else
        may work on them, and their prompts go on in ComfyUI until they are adopted.
        """
        lease = Now() + seconds(settings.ENGINE_LEASE)
        if self.held_by(worker).filter(name=name).update(lease_until=lease):
            return self.get(name=name)
        with transaction.atomic():
            engine, _ = self.get_or_create(name=name, defaults={"url": url})
            free = self.filter(Q(lease_until=None) | Q(lease_until__lt=Now()), pk=engine.pk)
            if not free.update(worker=worker, lease_until=lease, url=url, ready=False):
                return None
            engine.job_set.rendering().exclude(worker=worker).return_lapsed()
        return self.get(name=name)


class Engine(models.Model):
    """One ComfyUI. The worker that holds its lease is the only one that posts prompts to it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255, unique=True)
    url = models.CharField(max_length=500)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    worker = models.CharField(max_length=255, blank=True, default="")
    lease_until = models.DateTimeField(null=True, blank=True)
    seen_at = models.DateTimeField("last answer", null=True, blank=True)
    ready = models.BooleanField("answers", default=False)
    runs = models.JSONField("can run", null=True, blank=True)  # None: its worker is of an older release
    lacks = models.JSONField("missing files and nodes", default=list, blank=True)
    version = models.CharField(max_length=255, blank=True, default="")
    trouble = models.CharField(max_length=255, blank=True, default="")
    stuck = models.JSONField("stuck prompts", default=list, blank=True)

    objects = EngineQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["worker"], condition=~Q(worker=""), name="one_engine_per_worker"),
            models.CheckConstraint(
                condition=Q(worker="", lease_until=None) | (~Q(worker="") & Q(lease_until__isnull=False)),
                name="engine_lease_has_holder",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> str:
        if self.lease_until is None or self.lease_until < timezone.now():
            return "no worker"
        if self.trouble:
            return self.trouble
        if not self.ready:
            return "ComfyUI does not answer, or is warming up"
        return f"lacks {shortened(self.lacks)}" if self.lacks else "ready"

    def report(self, *, version: str, runs: list[str], lacks: list[str]) -> None:
        """Its ComfyUI answered just now, and can run these pairs of preset and kind."""
        # A trouble that the renderer told of meanwhile stays: the next look judges it.
        Engine.objects.filter(pk=self.pk, worker=self.worker, trouble=self.trouble).update(
            seen_at=Now(), ready=True, version=version[:255], runs=runs, lacks=lacks, trouble="", stuck=[]
        )
        self.ready, self.runs, self.lacks, self.trouble = True, runs, lacks, ""

    def report_lacking(self, pair: str, what: str) -> None:
        """A file or node that this pair needs vanished since the last look."""
        self.runs = [other for other in self.abilities if other != pair]
        lacks = sorted({*self.lacks, what})
        Engine.objects.filter(pk=self.pk, worker=self.worker).update(runs=self.runs, lacks=lacks)

    def report_unreachable(self) -> None:
        Engine.objects.filter(pk=self.pk, worker=self.worker).update(ready=False)
        self.ready = False

    @property
    def abilities(self) -> list[str]:
        """The pairs of preset and kind that it can run."""
        if self.runs is None:
            return [] if self.lacks else list(PAIRS)
        return list(self.runs)

    def renew(self) -> None:
        """Its lease, in the middle of a long look at its ComfyUI."""
        lease = Now() + seconds(settings.ENGINE_LEASE)
        Engine.objects.held_by(self.worker).filter(pk=self.pk).update(lease_until=lease)

    @property
    def must_restart(self) -> bool:
        return self.trouble.endswith(MUST_RESTART)

    def report_sick(self, trouble: str, stuck: Iterable[str] = ()) -> None:
        """Its ComfyUI answers and cannot work: for a reason, and with these prompts to show it."""
        Engine.objects.filter(pk=self.pk, worker=self.worker).update(
            ready=False, trouble=trouble[:255], stuck=sorted(stuck)
        )
        self.ready, self.trouble = False, trouble

    def release(self) -> None:
        """Gives the engine back at once rather than when its lease runs out."""
        Engine.objects.filter(pk=self.pk, worker=self.worker).update(worker="", lease_until=None, ready=False)
