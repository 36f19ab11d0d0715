"""A job once more, as an operator wants it: a new one, with what an earlier one was submitted with."""

from contextlib import suppress
from typing import Any

from rest_framework.serializers import ValidationError

from jobs.media import storage
from jobs.models import Job, Tombstone
from jobs.models.key import LimitReached
from jobs.queue import parameters
from jobs.queue.submit import submit


class CannotRepeat(Exception):
    """One sentence for the operator."""


def submit_again(job: Job, detail: str = "") -> Job:
    """Accepts a new job of the same API key, with the prompt, parameters, seed and images of this one, and
    returns it. It gets the preset as it is now, which may have been changed since. ``detail`` says who wanted
    it. Raises CannotRepeat, LimitReached and StorageError."""
    new = _alike(job)
    if not job.input_keys:
        return submit(new, detail)
    try:
        _copy_images(job, new)
        return submit(new, detail)
    except (CannotRepeat, LimitReached, storage.StorageError):
        with suppress(storage.StorageError), storage.slot():  # purge_leftovers removes what stays
            storage.delete(new.input_keys)
        raise


def _alike(job: Job) -> Job:
    """Every limit is looked at anew: the operator may have lowered one, or changed the preset."""
    image = "image" if job.input_key in job.input_keys else ""
    last_image = "last image" if job.last_input_key in job.input_keys else ""
    try:
        asked = parameters.resolve(job.shown_parameters, image=image, last_image=last_image)
    except ValidationError as error:
        by_field: Any = error.detail
        name, sentences = next(iter(by_field.items()))
        raise CannotRepeat(f"It cannot be submitted again, because of its {name}: {sentences[0]}") from None
    return Job(
        kind=asked.kind,
        prompt=job.prompt,
        preset=asked.preset.reference,
        seed=asked.seed,
        parameters=asked.parameters | {"size": asked.shape},
        warnings=job.warnings,  # the client's request is still the same
        work=asked.work(asked.shape),
        size_factor=asked.preset.scale,
        rate_factor=asked.preset.rate,
        has_first_image=bool(image),
        key=job.key,
    )


def _copy_images(job: Job, new: Job) -> None:
    """They have the job's size already. As with every job, they are in S3 before the row is written."""
    Tombstone.objects.note(new.pk)  # so that purge_leftovers knows them, should this process end here
    try:
        with storage.slot():
            for there, here in zip(job.input_keys, new.input_keys, strict=True):
                storage.put(here, storage.get(there))
    except storage.ObjectMissing:
        raise CannotRepeat("It cannot be submitted again: its image is not in S3 any more.") from None
