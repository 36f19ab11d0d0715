"""webhook_url and webhook_events of a request: who is told of a job, and of what."""

from typing import Any

from django.conf import settings
from rest_framework.serializers import ValidationError

from jobs.media import receivers
from jobs.media.public import NotAllowed
from jobs.models import ApiKey, Delivery
from jobs.models.key import has_webhook_secret
from jobs.queue.deliveries import is_off
from wanapi.sealed import Unreadable, seal, unseal

EVENTS = Delivery.Event.values
USUAL = [event for event in EVENTS if event != Delivery.Event.STARTED]
OFF = "webhook_url answered 410 before, so it is switched off for this API key and gets no events."


def fields(key: ApiKey | None, asked: dict[str, Any]) -> dict[str, Any]:
    """The job's fields, with ``warnings`` among them. ``asked``: the two fields as far as they were given; in
    the place of a URL that was not, the key's own is taken. Raises ValidationError."""
    url = asked.get("webhook_url") or own_url(key)
    if not url:
        return {"warnings": []}
    if not has_webhook_secret(key):
        if not asked.get("webhook_url"):
            return {"warnings": []}
        raise ValidationError(
            {"webhook_url": ["This API key has no webhook secret yet; the operator can make one for it."]}
        )
    events = asked.get("webhook_events") or USUAL
    warnings = [OFF] if is_off(key, url) else []
    return {"webhook_url": seal(url), "webhook_events": sorted(set(events)), "warnings": warnings}


def own_url(key: ApiKey | None) -> str:
    """The URL that the operator gave this key, or ""."""
    if key is None:
        return str(settings.WEBHOOK_URL)
    try:
        return unseal(key.webhook_url) if key.webhook_url else ""
    except Unreadable:
        return ""


def check(url: str) -> None:
    try:
        receivers.check(url)
    except NotAllowed as error:
        raise ValidationError(str(error)) from None
