"""``manage.py purge_leftovers``: removes what no job owns, in S3, in ComfyUI's folders and here."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize
from tqdm import tqdm

from jobs import storage
from jobs.management.arguments import age
from jobs.models import FINAL, Job
from jobs.storage import StorageError
from jobs.worker import TEMPORARY

LEAST_AGE = timedelta(hours=1)  # a POST in flight has its image in S3 before it has a row
BATCH = 500


class Command(BaseCommand):
    help = "Removes objects in S3, files in ComfyUI's folders and temporary files that belong to no job."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than", type=age, default=timedelta(days=1), metavar="AGE", help="default 1d, at least 1h"
        )
        parser.add_argument("--dry-run", action="store_true", help="only list them")

    def handle(self, *, older_than: timedelta, dry_run: bool, **options: Any) -> None:
        if older_than < LEAST_AGE:
            raise CommandError("--older-than must be at least 1h: a request in flight has no row yet.")
        before = datetime.now(UTC) - older_than
        count = 0
        try:
            leftovers = chain(objects(before), uploads(before), folders(before), temporary(before))
            for what, remove in tqdm(leftovers, unit=" leftovers", disable=None):
                self.stdout.write(what)
                count += 1
                if not dry_run:
                    remove()
        except StorageError as error:
            raise CommandError(f"S3 failed after {count} leftovers; run it again. ({error})") from error
        self.stdout.write(f"{count} leftover{pluralize(count)} {'found' if dry_run else 'removed'}.")


def objects(before: datetime) -> Iterator[Any]:
    """Images and videos without a row, and videos of claims that were lost."""
    for prefix in ("inputs/", "videos/"):
        old = (key for key, written in storage.listed(prefix) if written < before)
        while batch := list(islice(old, BATCH)):
            jobs = Job.objects.in_bulk({job_id for key in batch if (job_id := owner(key))})
            for key in batch:
                job = jobs.get(owner(key))
                # The row is read after the object was listed: a video that is being published is younger.
                if job is None or key not in (job.input_key, job.video_key, job.poster_key):
                    yield key, lambda key=key: storage.delete([key])


def uploads(before: datetime) -> Iterator[Any]:
    for key, upload_id, begun in storage.unfinished_uploads("videos/"):
        if begun < before:
            yield f"{key} (unfinished)", lambda key=key, upload=upload_id: storage.abort_upload(key, upload)


def folders(before: datetime) -> Iterator[Any]:
    """The folders of jobs that are finished or gone, on the GPU machine."""
    for root in filter(None, (settings.COMFYUI_INPUT_DIR, settings.COMFYUI_OUTPUT_DIR)):
        for folder in (Path(root) / "wanapi").glob("*-*"):
            job_id = owner(f"{folder.name}/")
            old = folder.stat().st_mtime < before.timestamp()
            if job_id and old and not Job.objects.filter(pk=job_id).exclude(status__in=FINAL).exists():
                yield str(folder), lambda folder=folder: shutil.rmtree(folder, ignore_errors=True)


def temporary(before: datetime) -> Iterator[Any]:
    """What workers that were killed left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        if folder.stat().st_mtime < before.timestamp():
            yield str(folder), lambda folder=folder: shutil.rmtree(folder, ignore_errors=True)


def owner(key: str) -> uuid.UUID | None:
    """The job id in ``inputs/ID.png``, ``videos/ID/N.mp4`` or ``ID/``."""
    for part in key.replace(".png", "").split("/"):
        try:
            return uuid.UUID(part)
        except ValueError:
            continue
    return None
