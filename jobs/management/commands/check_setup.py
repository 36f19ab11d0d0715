"""``manage.py check_setup``: finds what would fail at the first job, before there is one."""

import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connection
from PIL import Image

from jobs.media import images, storage
from jobs.models import Job
from jobs.operators import health

CONTENT = b"check" * 1000
TIMEOUT = 10  # seconds


def postgres() -> None:
    """Raises an error if it cannot be used. On connecting, Django raises one for a version that is too old,
    and wanapi.postgres one for another encoding than UTF8."""
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        if cursor.fetchone()[0] == "on":
            raise health.Trouble("it only reads, so it takes no jobs: DATABASE_URL must name the primary.")


def s3() -> str | None:
    """Does with three objects all that a job does, from its image to its removal. Returns a sentence about
    what could not be checked from this machine, or None."""
    job = Job(pk=uuid.uuid4())
    try:
        unseen = use(job)
    except health.Trouble:
        with suppress(health.Trouble):
            remove(job)
        raise
    remove(job)
    return unseen


def use(job: Job) -> str | None:
    with right("PutObject", "inputs/"):
        storage.put(job.input_key, CONTENT)
    with right("GetObject", "inputs/"):
        if storage.get(job.input_key) != CONTENT:
            raise storage.StorageError("it gives back other bytes than it was given.")
    with right("PutObject", "videos/"):
        storage.put(job.poster_key, CONTENT, "image/jpeg")
        put_video(job)
    with right("ListBucket", "videos/"):
        found = {key for key, _ in storage.listed(f"videos/{job.pk}/")}
        if found != {job.poster_key, job.video_key}:
            raise storage.StorageError(f"of two objects it lists {len(found)}.")
    with right("GetObject", "videos/, by a signed link,"):
        return links(job)


@contextmanager
def right(name: str, where: str) -> Iterator[None]:
    try:
        yield
    except storage.StorageError as error:
        text = f"s3:{name} on {where} failed: {error} (The rights that it needs: docs/operations.md.)"
        raise health.Trouble(text) from None


def put_video(job: Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        path.write_bytes(CONTENT)
        storage.put_video(job.video_key, path, filename=f"{job.pk}.mp4")


def links(job: Job) -> str | None:
    """Clients follow links to S3_PUBLIC_ENDPOINT_URL. Where that cannot be reached from here, as it is with
    the outer address of a proxy, the link is tried at the address that the service uses itself."""
    try:
        follow(storage.link(job.video_key))
    except requests.RequestException as error:
        if settings.S3_PUBLIC_ENDPOINT_URL == settings.S3_ENDPOINT_URL:
            raise storage.StorageError(f"it cannot be reached ({type(error).__name__}).") from error
    else:
        return None
    try:
        follow(storage.link_at(settings.S3_ENDPOINT_URL, job.video_key))
    except requests.RequestException as error:
        raise storage.StorageError(f"it cannot be reached ({type(error).__name__}).") from error
    return "ok, but S3_PUBLIC_ENDPOINT_URL cannot be reached from here: open the link of a first job."


def follow(link: str) -> None:
    """As a client does: without keys."""
    authorities = os.environ.get("AWS_CA_BUNDLE")  # as for boto3; None: the usual ones
    answer = requests.get(link, timeout=TIMEOUT, allow_redirects=False, verify=authorities)
    if answer.status_code != 200:
        raise storage.StorageError(f"S3 answers {answer.status_code}: {answer.text[:300]}")
    if answer.content != CONTENT:
        raise storage.StorageError("it gives other bytes than were stored.")


def remove(job: Job) -> None:
    """Deletes the objects twice: S3 must also accept the deletion of an object that is not there, such as the
    image of a text job."""
    keys = [job.input_key, job.poster_key, job.video_key]
    with right("DeleteObject", "inputs/ and videos/"):
        storage.delete(keys)
        storage.delete(keys)
        if left := [*storage.listed(f"videos/{job.pk}/")]:
            raise storage.StorageError(f"it said so, and {len(left)} objects are there still.")


def pictures() -> None:
    """Whether reference images can be read here: memory limits and Pillow's libraries differ."""
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64)).save(jpeg, "JPEG")
    try:
        images.normalise(jpeg.getvalue(), "64x64")
    except (images.BadImage, images.CannotRead) as error:
        raise health.Trouble("reference images cannot be read; the lines above say why.") from error


CHECKS: dict[str, Callable[[], str | None]] = {
    "Postgres": postgres,
    "migrations": health.migrations,
    "S3": s3,
    "images": pictures,
}


class Command(BaseCommand):
    help = "Checks Postgres, its migrations, S3 and images: a line for each, exit code 1 if one fails."

    def handle(self, **options: Any) -> None:
        failed = 0
        for name, check in CHECKS.items():
            try:
                self.stdout.write(f"{name}: {check() or 'ok'}")
            except (health.Trouble, Error) as trouble:  # also for a version that Django refuses
                failed += 1
                self.stdout.write(f"{name}: {str(trouble).strip()}")
        if failed:
            raise CommandError("The service cannot work like this.")
