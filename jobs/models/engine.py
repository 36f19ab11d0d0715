"""The engine's row: one for each ComfyUI, with the lease of the worker that drives it."""

import uuid
from urllib.parse import urlsplit

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from jobs.models.clock import seconds

DISK_FULL = "The GPU server's disk is full."
GPU_FAILED = "The GPU failed, which ends all work of a process on it: ComfyUI must be restarted."
MUST_RESTART = "must be restarted."  # so end the troubles for which COMFYUI_RESTART_COMMAND is run


def shortened(names: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


class EngineQuerySet(models.QuerySet["Engine"]):
    def held_by(self, worker: str) -> "EngineQuerySet":
        return self.filter(worker=worker, lease_until__gt=Now())

    def answering(self) -> "EngineQuerySet":
        """Engines whose worker reported within the last 30 s that ComfyUI answers and can work."""
        return self.filter(seen_at__gt=Now() - seconds(30), ready=True)

    def claiming(self) -> "EngineQuerySet":
        """Of these, those that may be given new jobs."""
        return self.answering().filter(paused=False)

    def loaded(self) -> "EngineQuerySet":
        """Of these, those that lack nothing for any kind of job."""
        return self.answering().filter(lacks=[])

    def silent(self) -> "EngineQuerySet":
        """Engines without a sign of life for ENGINE_GRACE seconds."""
        return self.filter(seen_at__lt=Now() - seconds(settings.ENGINE_GRACE))


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
    lacks = models.JSONField("missing files and nodes", default=list, blank=True)  # of the default preset
    missing = models.JSONField(default=list, db_default=[], blank=True)  # of all presets
    version = models.CharField(max_length=255, blank=True, default="")
    trouble = models.CharField(max_length=255, blank=True, default="")
    stuck = models.JSONField("stuck prompts", default=list, blank=True)
    warming = models.BooleanField("warms up", default=False, db_default=False)
    paused = models.BooleanField(default=False, db_default=False)  # by an operator: it gets no new jobs
    can_restart = models.BooleanField(default=False, db_default=False)  # its worker has a command for that
    restart_wanted = models.BooleanField(default=False, db_default=False)  # by an operator

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
    def address(self) -> str:
        """The URL without its user name and password, for people."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def state(self) -> str:
        if self.lease_until is None or self.lease_until < timezone.now():
            return "no worker"
        if self.trouble:
            return self.trouble
        if not self.ready:
            return "warming up" if self.warming else "ComfyUI does not answer"
        if self.paused:
            return "paused"
        return f"lacks {shortened(self.lacks)}" if self.lacks else "ready"

    @property
    def must_restart(self) -> bool:
        return self.trouble.endswith(MUST_RESTART)


class EngineEvent(models.Model):
    """What operators did to an engine."""

    class Kind(models.TextChoices):
        PAUSED = "paused"
        RESUMED = "resumed"
        RESTART = "restart", "restart wanted"

    engine = models.ForeignKey(Engine, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(db_default=Now())
    kind = models.CharField(max_length=20, choices=Kind)
    detail = models.TextField(default="")

    def __str__(self) -> str:
        return self.get_kind_display()
