"""How a request becomes a job, whichever view takes it in.

The order saves work. An earlier job with the same idempotency key, and a limit that is reached, are looked
for before an image is fetched and decoded. The image is stored before the row is written, so that every
accepted job has its image; if the row is refused in the end, the image is removed again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from django.db import IntegrityError
from rest_framework.serializers import Serializer, ValidationError

from jobs.api import parameters, webhooks
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

    ``body`` has the request as it was sent. Once it is valid, its data are ``prompt``; ``image`` and
    ``last_image``, each an ImageSource or None; ``asked``, the parameters that were given; and perhaps
    ``webhook``, its fields that were given. Raises ValidationError by field, also for an image that cannot
    be used; KeyReused; LimitReached; and what jobs.media raises: Busy, CannotRead, StorageError.
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
    data = body.validated_data
    sources = {name: data[name] for name in ("image", "last_image") if data[name]}
    asked = parameters.resolve(data["asked"], image="image" in sources, last_image="last_image" in sources)
    webhook = webhooks.fields(client.key, data.get("webhook", {}))
    job = Job(
        kind=asked.kind,
        prompt=data["prompt"],
        preset=asked.preset.reference,
        seed=asked.seed,
        parameters=asked.parameters | {"size": asked.shape},
        warnings=parameters.of_unknown(body.initial_data.keys() - body.fields.keys(), body.fields)
        + asked.warnings
        + webhook.pop("warnings"),
        size_factor=asked.preset.scale,
        rate_factor=asked.preset.rate,
        has_first_image="image" in sources,
        key=client.key,
        idempotency_key=idempotency_key,
        request_sha256=sha256,
        **webhook,
    )
    if sources:
        _store(job, _normalised(job, sources, asked.fit))
    job.work = asked.work(job.parameters["size"])
    try:
        return submit(job)
    except (IntegrityError, LimitReached):
        if sources:
            with suppress(storage.StorageError), storage.slot():  # purge_leftovers removes what stays
                storage.delete(job.input_keys)
        raise


def _normalised(job: Job, sources: Mapping[str, ImageSource], fit: str) -> dict[str, bytes]:
    """The images by their keys. Where the size follows an image, it is the first one's."""
    found = {}
    for name, source in sources.items():
        try:
            png = images.normalise(source.read(), job.parameters["size"], fit)
        except images.BadImage as error:
            raise ValidationError({source.field: [str(error)]}) from None
        job.parameters["size"] = "{}x{}".format(*images.size(png))
        found[job.last_input_key if name == "last_image" else job.input_key] = png
    return found


def _store(job: Job, pngs: Mapping[str, bytes]) -> None:
    Tombstone.objects.note(job.pk)  # so that purge_leftovers knows the images, should this process end here
    with storage.slot():
        for key, png in pngs.items():
            storage.put(key, png)
