"""How a request becomes a job, whichever view takes it in.

The order saves work. An earlier job with the same idempotency key, and a limit that is reached, are looked
for before an image is fetched and decoded. The image is stored before the row is written, so that every
accepted job has its image; if the row is refused in the end, the image is removed again.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from django.conf import settings
from django.db import IntegrityError
from rest_framework.serializers import Serializer, ValidationError

from comfy import presets
from jobs.api.authentication import Client
from jobs.api.errors import KeyReused
from jobs.media import images, storage
from jobs.models import Job
from jobs.models.key import ApiKey, LimitReached
from jobs.models.tombstone import Tombstone
from jobs.queue.submit import check_limits, submit, submitted_with


class ImageSource(NamedTuple):
    """A reference image that was not read yet. ``field``: where it stood in the request. ``read``: fetches or
    decodes the bytes of its file, or raises BadImage."""

    field: str
    read: Callable[[], bytes]


def accept(client: Client, body: Serializer, idempotency_key: str | None) -> Job:
    """The job that this request asks for: a new one, or the earlier one with this idempotency key.

    ``body`` has the request as it was sent. Once it is valid, its data are ``prompt`` and ``image``, an
    ImageSource or None. Raises ValidationError by field, also for an image that cannot be used; KeyReused;
    LimitReached; and what jobs.media raises: Busy, CannotRead, StorageError.
    """
    sha256 = fingerprint(body)
    if earlier := _earlier(client.key, idempotency_key, sha256):
        return earlier
    try:
        check_limits(client.key)  # submit() does so again, and exactly, under its lock
        return _submit(client, body, idempotency_key, sha256)
    except (IntegrityError, LimitReached):
        # A request with the same idempotency key may have been quicker, and may have taken the last place.
        if earlier := _earlier(client.key, idempotency_key, sha256):
            return earlier
        raise


def fingerprint(body: Serializer) -> str:
    """The hash of all that was asked, by which a repeated request is told from another one.

    Each field that the serializer knows is in it, so that a new field cannot be forgotten. The first three
    have the form in which earlier releases hashed them, since their rows are compared as well.
    """
    sent = body.initial_data
    asked = [sent.get("prompt"), sent.get("image_url") or None, sent.get("image_base64") or None]
    others = body.fields.keys() - {"prompt", "image_url", "image_base64"}
    if more := {name: sent[name] for name in others if sent.get(name) not in (None, "")}:
        asked.append(more)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _earlier(key: ApiKey | None, idempotency_key: str | None, sha256: str) -> Job | None:
    earlier = submitted_with(idempotency_key, key) if idempotency_key else None
    if earlier and earlier.request_sha256 != sha256:
        raise KeyReused
    return earlier


def _submit(client: Client, body: Serializer, idempotency_key: str | None, sha256: str) -> Job:
    body.is_valid(raise_exception=True)
    prompt, source = body.validated_data["prompt"], body.validated_data["image"]
    kind = Job.Kind.IMAGE_TO_VIDEO if source else Job.Kind.TEXT_TO_VIDEO
    job = Job(
        kind=kind, prompt=prompt, key=client.key, idempotency_key=idempotency_key, request_sha256=sha256
    )
    if source:
        _store(job, _normalised(source))
    try:
        return submit(job)
    except (IntegrityError, LimitReached):
        if source:
            with suppress(storage.StorageError), storage.slot():  # purge_leftovers removes what stays
                storage.delete([job.input_key])
        raise


def _normalised(source: ImageSource) -> bytes:
    try:
        return images.normalise(source.read(), presets.find(settings.WORKFLOW_PRESET).size)
    except images.BadImage as error:
        raise ValidationError({source.field: [str(error)]}) from None


def _store(job: Job, image: bytes) -> None:
    Tombstone.objects.note(job.pk)  # so that purge_leftovers knows the image, should this process end here
    with storage.slot():
        storage.put(job.input_key, image)
