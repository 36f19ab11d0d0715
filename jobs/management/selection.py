"""The base of commands that change jobs: those with the given ids, all or none, or all of a status."""

import uuid
from datetime import timedelta
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize

from jobs.management.arguments import age, status
from jobs.models import ApiKey, Job
from jobs.models.clock import ago
from jobs.models.job import FINAL, JobQuerySet


class JobsCommand(BaseCommand):
    """``done`` is the word for what was done to the jobs, as in "2 jobs requeued"."""

    allowed: ClassVar[tuple[str, ...]]
    done: ClassVar[str]

    def change(self, jobs: JobQuerySet) -> int:
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job_ids", nargs="*", type=uuid.UUID, metavar="JOB_ID")
        parser.add_argument("--status", type=status(*self.allowed), help="all jobs of this status")
        parser.add_argument(
            "--since",
            type=age,
            metavar="AGE",
            help="only those that finished, or if they did not, were created within it: 90m, 24h, 7d",
        )
        parser.add_argument("--key", metavar="NAME", help="only those of this API key")
        parser.add_argument("--dry-run", action="store_true", help="only say how many there are")

    def handle(self, *, job_ids: list[uuid.UUID], dry_run: bool, **options: Any) -> None:
        if bool(job_ids) == bool(options["status"]):
            raise CommandError("Give either job ids or --status.")
        if job_ids and (options["since"] or options["key"]):
            raise CommandError("--since and --key go with --status.")
        jobs = self._named(job_ids) if job_ids else self._all(**options)
        if dry_run:
            self.stdout.write(f"{(count := jobs.count())} job{pluralize(count)} would be {self.done}.")
        else:
            self.stdout.write(f"{(count := self.change(jobs))} job{pluralize(count)} {self.done}.")

    def _all(self, *, status: str, since: timedelta | None, key: str | None, **_: Any) -> JobQuerySet:
        jobs = Job.objects.filter(status=status)
        if key:
            if not ApiKey.objects.filter(name=key).exists():
                raise CommandError(f"There is no API key named {key!r}.")
            jobs = jobs.filter(key__name=key)
        if since:
            when = "finished_at" if status in FINAL else "created_at"
            jobs = jobs.filter(**{f"{when}__gte": ago(since)})
        return jobs

    def _named(self, job_ids: list[uuid.UUID]) -> JobQuerySet:
        """The jobs with these ids. One id that does not fit ends the command: it may be a typing error."""
        found = dict(Job.objects.filter(pk__in=job_ids).values_list("pk", "status"))
        for job_id in job_ids:
            if job_id not in found:
                raise CommandError(f"There is no job {job_id}; nothing was {self.done}.")
            if found[job_id] not in self.allowed:
                wanted = " or ".join(self.allowed)
                raise CommandError(f"Job {job_id} is {found[job_id]}, not {wanted}; nothing was {self.done}.")
        return Job.objects.filter(pk__in=job_ids)
