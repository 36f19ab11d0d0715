"""``manage.py purge_jobs``: removes old finished jobs for good."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize
from tqdm import tqdm

from jobs.management.arguments import age, status
from jobs.media.storage import StorageError
from jobs.models import Job
from jobs.models.clock import ago
from jobs.models.job import FINAL
from jobs.queue.returns import purge
from jobs.workers.retention import MAX_FAILED


class Command(BaseCommand):
    help = "Removes finished jobs with their videos and images."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=age,
            required=True,
            metavar="AGE",
            help="finished longer ago than this, e.g. 30d",
        )
        parser.add_argument("--status", type=status(*FINAL), help=f"only these: {' or '.join(FINAL)}")
        parser.add_argument("--dry-run", action="store_true", help="only say how many there are")

    def handle(self, *, older_than: timedelta, status: str | None, dry_run: bool, **options: Any) -> None:
        jobs = Job.objects.filter(status__in=[status] if status else FINAL, finished_at__lt=ago(older_than))
        if dry_run:
            self.stdout.write(f"{(count := jobs.count())} job{pluralize(count)} would be removed.")
            return
        removed, failed, in_a_row = 0, 0, 0
        for job in tqdm(jobs.in_pages("finished_at", 200), total=jobs.count(), unit=" jobs", disable=None):
            try:
                removed += purge(job)
                in_a_row = 0
            except StorageError as error:
                self.stderr.write(f"Job {job.pk} stays: {error}")
                failed, in_a_row = failed + 1, in_a_row + 1
            if in_a_row == MAX_FAILED:
                break
        self.stdout.write(f"{removed} job{pluralize(removed)} removed.")
        if failed:
            raise CommandError("S3 did not delete what belongs to the others; run it again.")
