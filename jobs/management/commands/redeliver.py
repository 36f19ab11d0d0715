"""``manage.py redeliver``: sends webhooks again."""

import uuid
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize

from jobs.management.arguments import age, status
from jobs.models import Delivery
from jobs.models.clock import ago
from jobs.queue.deliveries import send_again


class Command(BaseCommand):
    help = "Sends webhooks again, with the same ids: those of the given jobs, or all of a state."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job_ids", nargs="*", type=uuid.UUID, metavar="JOB_ID")
        parser.add_argument(
            "--state",
            type=status(*Delivery.State.values),
            help="all of this state; pending: try now what waits for its next try",
        )
        parser.add_argument("--since", type=age, metavar="AGE", help="only events within it: 90m, 24h, 7d")
        parser.add_argument("--host", metavar="HOST:PORT", help="only those to this host")
        parser.add_argument("--dry-run", action="store_true", help="only say how many there are")

    def handle(
        self,
        *,
        job_ids: list[uuid.UUID],
        state: str | None,
        since: timedelta | None,
        host: str | None,
        dry_run: bool,
        **options: Any,
    ) -> None:
        if bool(job_ids) == bool(state):
            raise CommandError("Give either job ids or --state.")
        rows = Delivery.objects.filter(job__in=job_ids) if job_ids else Delivery.objects.filter(state=state)
        if job_ids and (missing := set(job_ids) - set(rows.values_list("job_id", flat=True))):
            raise CommandError(f"Job {missing.pop()} has no webhooks; nothing was sent again.")
        if since:
            rows = rows.filter(at__gte=ago(since))
        if host:
            rows = rows.filter(host=host)
        count = rows.count() if dry_run else send_again(rows)
        self.stdout.write(
            f"{count} webhook{pluralize(count)} {'would be' if dry_run else 'will be'} sent again."
        )
