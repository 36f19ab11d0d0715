"""``manage.py purge_leftovers``: removes what belongs to no job, in S3, in ComfyUI's folders and here.

Only names of exactly our form are looked at. Such an object or folder is removed if this database has or had
a job with its id, which a row or a tombstone tells, and that job does not use it. If the id is unknown it is
listed and stays: it may belong to another installation, or to a job that a restored dump does not have.
"""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize
from tqdm import tqdm

from jobs.management.arguments import age
from jobs.media import storage
from jobs.media.storage import StorageError
from jobs.models import Job
from jobs.models.job import FINAL, owner
from jobs.models.tombstone import Tombstone
from jobs.workers.hold import TEMPORARY

LEAST_AGE = timedelta(hours=1)  # a request that is being accepted has its image in S3 before its row
BATCH = 500


@dataclass(frozen=True)
class Leftover:
    name: str
    remove: Callable[[], Any]
    known: bool = True  # whether this database has or had a job with its id


class Command(BaseCommand):
    help = "Removes objects in S3, files in ComfyUI's folders and temporary files that belong to no job."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than", type=age, default=timedelta(days=1), metavar="AGE", help="default 1d, at least 1h"
        )
        parser.add_argument("--dry-run", action="store_true", help="only list them")
        parser.add_argument(
            "--even-unknown",
            action="store_true",
            help="also what bears the id of a job that this database never knew: one that is younger than a "
            "restored dump, or of another installation that uses the same bucket",
        )

    def handle(self, *, older_than: timedelta, dry_run: bool, even_unknown: bool, **options: Any) -> None:
        if older_than < LEAST_AGE:
            raise CommandError("--older-than must be at least 1h: a request in flight has no row yet.")
        before = datetime.now(UTC) - older_than
        count = unknown = 0
        try:
            leftovers = chain(objects(before), folders(before), temporary(before))
            for leftover in tqdm(leftovers, unit=" leftovers", disable=None):
                if not leftover.known and not even_unknown:
                    self.stdout.write(f"{leftover.name} (unknown, stays)")
                    unknown += 1
                    continue
                try:
                    if not dry_run:
                        leftover.remove()
                except OSError as error:  # perhaps it belongs to another user
                    self.stderr.write(f"{leftover.name} stays: {error.strerror}")
                    continue
                self.stdout.write(leftover.name)
                count += 1
        except StorageError as error:
            raise CommandError(f"S3 failed after {count} leftovers; run it again. ({error})") from error
        self.stdout.write(f"{count} leftover{pluralize(count)} {'found' if dry_run else 'removed'}.")
        if unknown:
            stay = pluralize(unknown, "stays,stay")
            self.stdout.write(f"{unknown} of jobs that this database never knew {stay}: see --even-unknown.")


def objects(before: datetime) -> Iterator[Leftover]:
    """Images and videos without a row, and videos of claims that were lost."""
    for prefix in ("inputs/", "videos/"):
        old = (key for key, written in storage.listed(prefix) if written < before and owner(key))
        while batch := list(islice(old, BATCH)):
            # The rows are read after the objects were listed. A video that is just being published is too
            # young for the list.
            owners = {key: job_id for key in batch if (job_id := owner(key))}
            jobs, known = Job.objects.in_bulk(owners.values()), Tombstone.objects.known(owners.values())
            for key, job_id in owners.items():
                job = jobs.get(job_id)
                if job is None or key not in (*job.input_keys, job.video_key, job.poster_key):
                    yield Leftover(key, partial(storage.delete, [key]), known=bool(job) or job_id in known)


def folders(before: datetime) -> Iterator[Leftover]:
    """The folders of jobs that are finished or gone, on the GPU machine."""
    for root in filter(None, (settings.COMFYUI_INPUT_DIR, settings.COMFYUI_OUTPUT_DIR)):
        for folder in (Path(root) / "wanapi").glob("*-*"):
            try:
                job_id = uuid.UUID(folder.name)
                old = str(job_id) == folder.name and folder.lstat().st_mtime < before.timestamp()
            except (ValueError, OSError):  # of another name, or removed by its worker just now
                continue
            jobs = Job.objects.filter(pk=job_id)
            if old and not jobs.exclude(status__in=FINAL).exists():
                known = jobs.exists() or bool(Tombstone.objects.known([job_id]))
                yield Leftover(str(folder), partial(shutil.rmtree, folder), known)


def temporary(before: datetime) -> Iterator[Leftover]:
    """What workers that were killed left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):  # its worker removed it just now
            if folder.lstat().st_mtime < before.timestamp():
                yield Leftover(str(folder), partial(shutil.rmtree, folder))
