"""API keys: who may call, which jobs each key may see, and how many it may submit.

The environment's API_KEY is none of these: it needs no row, sees every job and has no limits.
"""

import base64
import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Max, Q
from django.db.models.functions import Now
from django.template.defaultfilters import pluralize
from django.utils import timezone

from jobs.models.clock import seconds
from wanapi.sealed import seal, unseal

VISIBLE = 12  # characters of a key that people may see
BOTH = timedelta(hours=24)  # for which webhooks are signed with the secret before as well


class LimitReached(Exception):
    """``message`` is a sentence for the client, ``wait`` the seconds after which trying again may help."""

    def __init__(self, message: str, wait: int):
        super().__init__(message)
        self.message, self.wait = message, wait


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def make(self, **fields: Any) -> "tuple[ApiKey, str]":
        """Makes a key and returns it with its text, of which only a hash is stored."""
        key = self.model(**fields)
        text = key.draw()
        key.save(force_insert=True)
        return key, text

    def valid(self) -> "ApiKeyQuerySet":
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), revoked_at=None)

    def presented(self, text: str) -> "ApiKey | None":
        """The valid key with this text, or None. Notes when it was used, at most once a minute."""
        key = self.valid().filter(sha256=digest(text)).first()
        if key:
            fresh = Q(last_used_at__gte=Now() - seconds(60))
            self.filter(pk=key.pk).exclude(fresh & Q(last_used_at__isnull=False)).update(last_used_at=Now())
        return key

    def revoke(self) -> int:
        return self.filter(revoked_at=None).update(revoked_at=Now())

    def restore(self) -> int:
        return self.filter(revoked_at__isnull=False).update(revoked_at=None)


class ApiKey(models.Model):
    name = models.CharField(max_length=100, unique=True)
    prefix = models.CharField("key", max_length=VISIBLE, editable=False)
    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    note = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    all_jobs = models.BooleanField(
        default=False, help_text="Sees and cancels every job, not only those that were submitted with it."
    )
    priority = models.SmallIntegerField(default=0, help_text="Jobs of a higher one go first.")
    max_queued = models.PositiveIntegerField(
        "jobs queued at once", null=True, blank=True, help_text="Empty: KEY_MAX_QUEUED. 0: no limit."
    )
    max_per_day = models.PositiveIntegerField(
        "jobs per day (UTC)", null=True, blank=True, help_text="Empty: KEY_MAX_PER_DAY. 0: no limit."
    )
    # Sealed (wanapi/sealed.py). For a day after a rotation webhooks are signed with both secrets.
    webhook_secret = models.TextField(default="", db_default="", editable=False)
    webhook_secret_before = models.TextField(default="", db_default="", editable=False)
    webhook_secret_at = models.DateTimeField(null=True, editable=False)
    webhook_url = models.TextField(default="", db_default="", editable=False)
    day = models.DateField(null=True, editable=False)
    jobs_on_day = models.PositiveIntegerField(default=0, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name

    def draw(self) -> str:
        """Gives the key its text and returns it: 256 random bits, so that a fast hash is enough."""
        text = f"wan_{secrets.token_urlsafe(32)}"
        self.prefix, self.sha256 = text[:VISIBLE], digest(text)
        return text

    def draw_webhook_secret(self) -> str:
        """Gives the key a webhook secret and returns it. The one before is used as well for a day."""
        text = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
        ApiKey.objects.filter(pk=self.pk).update(
            webhook_secret_before=F("webhook_secret"), webhook_secret=seal(text), webhook_secret_at=Now()
        )
        self.refresh_from_db()
        return text

    @property
    def webhook_secrets(self) -> list[str]:
        """Those to sign with, the newest first. Raises Unreadable."""
        sealed = [self.webhook_secret]
        if self.webhook_secret_at and timezone.now() - self.webhook_secret_at < BOTH:
            sealed.append(self.webhook_secret_before)
        return [unseal(text) for text in sealed if text]

    def check_limits(self, queued: int) -> None:
        """Raises LimitReached if one job more, beside this many queued ones, would be too many."""
        most = settings.KEY_MAX_QUEUED if self.max_queued is None else self.max_queued
        if most and queued >= most:
            raise LimitReached(
                f"This key has {queued} job{pluralize(queued)} queued, its limit is {most}.", wait=60
            )
        most = settings.KEY_MAX_PER_DAY if self.max_per_day is None else self.max_per_day
        now = timezone.now()
        if most and self.day == now.date() and self.jobs_on_day >= most:
            left = 86400 - (now.hour * 3600 + now.minute * 60 + now.second)
            used = "one job of today (UTC) is" if most == 1 else f"{most} jobs of today (UTC) are"
            raise LimitReached(f"This key's {used} used up.", wait=left)

    def count_one(self) -> None:
        today = timezone.now().date()
        ApiKey.objects.filter(pk=self.pk).update(
            day=today, jobs_on_day=F("jobs_on_day") + 1 if self.day == today else 1
        )


def has_webhook_secret(key: ApiKey | None) -> bool:
    """None: the environment's."""
    return bool(key.webhook_secret if key else settings.WEBHOOK_SECRET)


class ServedQuerySet(models.QuerySet["Served"]):
    def of(self, priority: int) -> int:
        """The turn that this priority has reached."""
        return self.filter(priority=priority).aggregate(turn=Max("turn"))["turn"] or 0

    def note(self, key_id: int | None, priority: int, turn: int) -> None:
        """A job with this turn was claimed. If its turn is lower than the one noted, nothing changes."""
        row, _ = self.get_or_create(key_id=key_id, priority=priority)
        self.filter(pk=row.pk, turn__lt=turn).update(turn=turn)


class Served(models.Model):
    """The last turn in which a job of a key was claimed, by priority. Rows stay when jobs are deleted."""

    key = models.ForeignKey(ApiKey, null=True, on_delete=models.CASCADE)  # null: the environment's API_KEY
    priority = models.SmallIntegerField()
    turn = models.BigIntegerField(default=0)

    objects = ServedQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["priority", "key"], name="served_of_key"),
            models.UniqueConstraint(
                fields=["priority"], condition=Q(key=None), name="served_of_environments_key"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key or 'the API_KEY'}, priority {self.priority}: {self.turn}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
