"""Deliveries: an event of a job that is to be told to a URL (a webhook), and how that went.

A row is written in the transaction of the change that it tells of. It holds the job as it was then, so that
a later change, or the removal of the job, changes nothing of what is told.
"""

import uuid
from typing import Any

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from jobs.models.job import Job
from jobs.models.key import ApiKey

OUTCOMES = ("delivered", "refused", "unreachable")  # of a try, for the metrics
# What of the job's row is told: all that ``GET /jobs/{id}`` shows, and that links are made of.
KEPT = (
    *("id", "kind", "prompt", "preset", "seed", "parameters", "warnings", "status", "progress", "attempt"),
    *("created_at", "started_at", "rendered_at", "finished_at", "error", "fence"),
)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def pending(self) -> "DeliveryQuerySet":
        return self.filter(state=Delivery.State.PENDING)

    def due(self) -> "DeliveryQuerySet":
        """To be tried now, and nobody does so."""
        return self.pending().filter(Q(lease_until=None) | Q(lease_until__lte=Now()), due_at__lte=Now())

    def flying(self) -> "DeliveryQuerySet":
        """Those that are being tried at this moment."""
        return self.pending().filter(lease_until__gt=Now())

    def orphans(self) -> "DeliveryQuerySet":
        """Those whose job was removed."""
        return self.exclude(Exists(Job.objects.filter(pk=OuterRef("job_id"))))


class Delivery(models.Model):
    class Event(models.TextChoices):
        STARTED = "job.started", "job.started"
        COMPLETED = "job.completed", "job.completed"
        FAILED = "job.failed", "job.failed"
        CANCELLED = "job.cancelled", "job.cancelled"

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        FAILED = "failed", "given up"
        OFF = "off", "switched off"  # the receiver answered 410

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    event = models.CharField(max_length=20, choices=Event)
    at = models.DateTimeField(db_default=Now())
    # The job may be gone: nothing in the database forbids that, also for a release that knows no deliveries.
    job = models.ForeignKey(Job, on_delete=models.DO_NOTHING, db_constraint=False, related_name="deliveries")
    told = models.JSONField()  # the job, as it was then: KEPT
    key = models.ForeignKey(ApiKey, null=True, on_delete=models.CASCADE, verbose_name="API key")
    url = models.TextField()  # sealed
    url_mark = models.CharField(max_length=64)
    host = models.CharField(max_length=300)  # with the port: all that people see of the URL

    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    tries = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(db_default=Now())
    fence = models.BigIntegerField(default=0)
    lease_until = models.DateTimeField(null=True)

    # The last try
    tried_at = models.DateTimeField(null=True)
    took = models.FloatField("seconds", null=True)
    answer = models.PositiveSmallIntegerField(null=True)  # the HTTP status, if there was one
    trouble = models.CharField(max_length=255, default="")

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(fields=["due_at", "id"], name="delivery_due", condition=Q(state="pending")),
            models.Index(
                fields=["lease_until"], name="delivery_leases", condition=Q(lease_until__isnull=False)
            ),
            models.Index(fields=["-at", "-id"], name="delivery_list"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state="pending") | Q(lease_until=None), name="delivery_done_is_not_held"
            ),
        ]

    def __str__(self) -> str:
        return self.event

    @property
    def name(self) -> str:
        """The event's id, by which a receiver tells that it has it already: the same at each try."""
        return f"evt_{self.pk.hex}"

    @property
    def job_then(self) -> Job:
        """The job as it was at the event. It is not to be saved."""
        fields: dict[str, Any] = {name: Job._meta.get_field(name) for name in self.told}
        return Job(**{name: field.to_python(self.told[name]) for name, field in fields.items()})

    @property
    def log_fields(self) -> dict[str, Any]:
        return {"job_id": str(self.job_id)}


def kept(job: Job) -> dict[str, Any]:
    """What ``told`` holds of this job."""
    found = {}
    for name in KEPT:
        field: Any = Job._meta.get_field(name)
        value = getattr(job, name)
        plain = value is None or isinstance(value, int | str | list | dict)
        found[name] = value if plain else field.value_to_string(job)
    return found


class Receiver(models.Model):
    """A host that does not take what is sent to it. The row goes when it takes something again, or when
    nothing waits for it any more."""

    host = models.CharField(max_length=300, primary_key=True)
    failing_since = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.host


class SwitchedOff(models.Model):
    """A URL that answered 410: it gets nothing more of this API key's jobs."""

    key = models.ForeignKey(ApiKey, null=True, on_delete=models.CASCADE, verbose_name="API key")
    url_mark = models.CharField(max_length=64)
    host = models.CharField(max_length=300)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = verbose_name_plural = "switched off webhooks"
        constraints = [
            models.UniqueConstraint(fields=["url_mark", "key"], name="switched_off_of_key"),
            models.UniqueConstraint(
                fields=["url_mark"], condition=Q(key=None), name="switched_off_of_environments_key"
            ),
        ]

    def __str__(self) -> str:
        return self.host
