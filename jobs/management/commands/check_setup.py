"""``manage.py check_setup``: what would fail at the first job, told before it."""

import uuid
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError, connection

from jobs import health, storage


class Command(BaseCommand):
    help = "Checks Postgres, its migrations and S3: one line for each, exit code 1 if one of them fails."

    def handle(self, **options: Any) -> None:
        failed = 0
        for name, check in (("Postgres", postgres), ("migrations", health.migrations), ("S3", s3)):
            try:
                check()
                self.stdout.write(f"{name}: ok")
            except (health.Trouble, DatabaseError, InterfaceError) as trouble:
                failed += 1
                self.stdout.write(f"{name}: {str(trouble).strip()}")
        if failed:
            raise CommandError("The service cannot work like this.")


def postgres() -> None:
    """Django refuses a version that it cannot use when it connects."""
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone()[0]:
            raise health.Trouble(
                "this is a standby, which takes no jobs; DATABASE_URL must name the primary."
            )


def s3() -> None:
    """All that the service does with objects. Whether clients reach them cannot be seen from here."""
    key = f"inputs/check-{uuid.uuid4()}"
    steps: dict[str, Callable[[], Any]] = {
        "s3:PutObject": lambda: storage.put_image(key, b"check"),
        "s3:GetObject": lambda: storage.get_input(key),
        "s3:ListBucket": lambda: list(storage.listed(key)),
        "s3:DeleteObject": lambda: storage.delete([key]),
    }
    for right, step in steps.items():
        try:
            step()
        except storage.StorageError as error:
            raise health.Trouble(f"{right} failed, see docs/operations.md for the rights: {error}") from None
