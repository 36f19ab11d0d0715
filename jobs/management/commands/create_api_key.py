"""``manage.py create_api_key``: a key for one client."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from jobs.management.arguments import age
from jobs.models.key import ApiKey

FIELDS = ("all_jobs", "priority", "max_queued", "max_per_day", "note")


class Command(BaseCommand):
    help = (
        "Makes an API key and prints it. It is stored as a hash, so this is the only time that it is shown."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME", help="whose it is")
        parser.add_argument("--all-jobs", action="store_true", help="it sees and cancels every job")
        parser.add_argument("--expires", type=age, metavar="AGE", help="in how long: 24h, 90d")
        parser.add_argument(
            "--priority", type=int, default=0, help="jobs of a higher one go first; default 0"
        )
        parser.add_argument("--max-queued", type=int, metavar="N", help="jobs queued at once; 0: no limit")
        parser.add_argument("--max-per-day", type=int, metavar="N", help="jobs per day (UTC); 0: no limit")
        parser.add_argument("--note", default="")

    def handle(self, *, name: str, expires: timedelta | None, **options: Any) -> None:
        if not 1 <= len(name) <= 100:
            raise CommandError("The name must have 1 to 100 characters.")
        if not -32768 <= options["priority"] <= 32767:
            raise CommandError("--priority must be between -32768 and 32767.")
        for limit in ("max_queued", "max_per_day"):
            if options[limit] is not None and not 0 <= options[limit] < 2**31:
                raise CommandError(f"--{limit.replace('_', '-')} must be at least 0.")
        if ApiKey.objects.filter(name=name).exists():
            raise CommandError(f"There is a key named {name!r} already.")
        _, text = ApiKey.objects.make(
            name=name,
            expires_at=timezone.now() + expires if expires else None,
            **{field: options[field] for field in FIELDS},
        )
        self.stdout.write(text)
