"""How a request becomes a job, whichever view takes it in.

The order saves work. An earlier job with the same idempotency key, and a limit that is reached, are looked
for before an image is fetched and decoded. The image is stored before the row is written, so that every
accepted job has its image; if the row is refused in the end, the image is removed again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from django.db import IntegrityError
from rest_framework.serializers import Serializer, ValidationError

from jobs.api import webhooks
from jobs.api.authentication import Client
from jobs.api.errors import KeyReused
from jobs.media import images, storage
from jobs.models import Job
from jobs.models.key import LimitReached
from jobs.models.tombstone import Tombstone
from jobs.queue import parameters
from jobs.queue.submit import Arrival, check_limits, equal, submit, submitted_with


class ImageSource(NamedTuple):
    """A reference image that was not read yet. ``field``: where it stood in the request. ``read``: fetches or
    decodes the bytes of its file, or raises BadImage."""

    field: str
    read: Callable[[], bytes]


def accept(
    client: Client, body: Serializer, idempotency_key: str | None, arrival: Arrival | None = None
) -> Job:
    """The job that this request asks for: a new one, or that of an earlier request that was the same one.

    ``body`` has the request as it was sent. Once it is valid, its data are ``prompt``; ``image`` and
    ``last_image``, each an ImageSource or None; ``asked``, the parameters that were given; and perhaps
    ``webhook``, its fields that were given, and ``warnings`` of its own. ``arrival`` is for doors whose
    clients say that they repeat a request; it counts where there is no idempotency key.

    Raises ValidationError by field, also for an image that cannot be used; KeyReused; LimitReached; and what
    jobs.media raises: Busy, CannotRead, StorageError.
    """
    arrival = None if idempotency_key else arrival
    job = Job(key=client.key, idempotency_key=idempotency_key, request_sha256=fingerprint(body))
    job.repeated = bool(arrival and arrival.repeated)
    if earlier := _earlier(job, arrival):
        return earlier
    try:
        check_limits(client.key)  # submit() does so again, and exactly, under its lock
        return _submit(job, body, arrival)
    except (IntegrityError, LimitReached):
        # Another one of the same requests may have been quicker, and may have taken the last place.
        if earlier := _earlier(job, arrival):
            return earlier
        raise


def fingerprint(body: Serializer) -> str:
    """The hash of all that was asked, by which a repeated request is told from another one.

    Each field that the serializer knows is in it, so that a new field cannot be forgotten. The first three
    have the form in which earlier releases hashed them, since their rows are compared as well.
    """
    sent = {name: _plain(body.initial_data.get(name)) for name, _ in body.fields.items()}
    asked = [sent.pop(name, None) for name in ("prompt", "image_url", "image_base64")]
    if more := {name: value for name, value in sent.items() if value is not None}:
        asked.append(more)
    text = json.dumps(asked, sort_keys=True, default=lambda file: file.sha256)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """What is the same request has the same form: an empty text is none, and 5.0 is 5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == "" else value


def _earlier(job: Job, arrival: Arrival | None) -> Job | None:
    if not job.idempotency_key:
        return equal(job, arrival) if arrival else None
    earlier = submitted_with(job.idempotency_key, job.key)
    if earlier and earlier.request_sha256 != job.request_sha256:
        raise KeyReused
    return earlier


def _submit(job: Job, body: Serializer, arrival: Arrival | None) -> Job:
    body.is_valid(raise_exception=True)
    data = body.validated_data
    sources = {name: data[name] for name in ("image", "last_image") if data[name]}
    asked = parameters.resolve(data["asked"], **{name: source.field for name, source in sources.items()})
    job.kind, job.prompt, job.seed = asked.kind, data["prompt"], asked.seed
    job.preset = asked.preset.reference
    job.parameters = asked.parameters | {"size": asked.shape}
    unknown = [name for name in body.initial_data if name not in body.fields]
    webhook = webhooks.fields(job.key, data.get("webhook", {}))
    job.warnings = parameters.of_unknown(unknown, body.fields) + data.get("warnings", []) + asked.warnings
    job.warnings += webhook.pop("warnings")
    job.size_factor, job.rate_factor = asked.preset.scale, asked.preset.rate
    job.has_first_image = "image" in sources
    for name, value in webhook.items():
        setattr(job, name, value)
    if sources:
        _store(job, _normalised(job, sources, asked.fit))
    job.work = asked.work(job.parameters["size"])
    try:
        accepted = submit(job, arrival=arrival)
    except (IntegrityError, LimitReached):
        _forget_images(job)
        raise
    if accepted.pk != job.pk:
        _forget_images(job)
    return accepted


def _forget_images(job: Job) -> None:
    if job.input_keys:
        with suppress(storage.StorageError), storage.slot():  # purge_leftovers removes what stays
            storage.delete(job.input_keys)


def _normalised(job: Job, sources: Mapping[str, ImageSource], fit: str) -> dict[str, bytes]:
    """The images by their keys. Where the size follows an image, it is the first one's."""
    found, errors = {}, {}
    for name, source in sources.items():
        try:
            png = images.normalise(source.read(), job.parameters["size"], fit)
        except images.BadImage as error:
            errors[source.field] = [str(error)]
            continue
        job.parameters["size"] = "{}x{}".format(*images.size(png))
        found[job.last_input_key if name == "last_image" else job.input_key] = png
    if errors:
        raise ValidationError(errors)
    return found


def _store(job: Job, pngs: Mapping[str, bytes]) -> None:
    Tombstone.objects.note(job.pk)  # so that purge_leftovers knows the images, should this process end here
    with storage.slot():
        for key, png in pngs.items():
            storage.put(key, png)
