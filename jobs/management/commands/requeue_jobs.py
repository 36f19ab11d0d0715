"""``manage.py requeue_jobs``: a second chance for failed and cancelled jobs."""

import uuid
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize

from jobs.management.arguments import age, status
from jobs.models import REQUEUABLE, Job, ago


class Command(BaseCommand):
    help = "Puts failed or cancelled jobs back into the queue, with all counters at 0, each for a new render."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job_ids", nargs="*", type=uuid.UUID, metavar="JOB_ID")
        parser.add_argument("--status", type=status(*REQUEUABLE), help="all jobs of this status")
        parser.add_argument(
            "--since", type=age, metavar="AGE", help="only those created within it, e.g. 90m, 24h, 7d"
        )

    def handle(
        self, *, job_ids: list[uuid.UUID], status: str | None, since: timedelta | None, **options: Any
    ) -> None:
        if bool(job_ids) == bool(status):
            raise CommandError("Give either job ids or --status.")
        if since and job_ids:
            raise CommandError("--since goes with --status.")
        jobs = Job.objects.filter(status=status) if status else self._named(job_ids)
        if since:
            jobs = jobs.filter(created_at__gte=ago(since))
        self.stdout.write(f"{(count := jobs.requeue())} job{pluralize(count)} requeued.")

    def _named(self, job_ids: list[uuid.UUID]) -> Any:
        """All or none: a typing error should not pass for success."""
        found = dict(Job.objects.filter(pk__in=job_ids).values_list("pk", "status"))
        for job_id in job_ids:
            if job_id not in found:
                raise CommandError(f"There is no job {job_id}; nothing was requeued.")
            if found[job_id] not in REQUEUABLE:
                raise CommandError(
                    f"Job {job_id} is {found[job_id]}, not {' or '.join(REQUEUABLE)}; nothing was requeued."
                )
        return Job.objects.filter(pk__in=job_ids)
