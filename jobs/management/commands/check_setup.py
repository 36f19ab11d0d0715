"""``manage.py check_setup``: what would fail at the first job, told before it."""

import uuid
from collections.abc import Callable, Iterable
from functools import partial
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


def look(listing: Callable[[str], Iterable[Any]], prefix: str) -> None:
    """S3 is asked for the first item, and not before."""
    list(listing(prefix))


def s3() -> None:
    """All that the service does with objects. Whether clients reach them cannot be seen from here."""
    for folder in ("inputs", "videos"):
        key = f"{folder}/check-{uuid.uuid4()}"
        steps: dict[str, Callable[[], Any]] = {
            "s3:PutObject": partial(storage.put_image, key, b"check"),
            "s3:GetObject": partial(storage.get_input, key),
            "s3:ListBucket": partial(look, storage.listed, key),
            "s3:ListBucketMultipartUploads": partial(look, storage.unfinished_uploads, key),
            "s3:DeleteObject": partial(storage.delete, [key]),
        }
        for right, step in steps.items():
            try:
                step()
            except storage.StorageError as error:
                text = f"{right} on {folder}/ failed: {error} (The rights that it needs: docs/operations.md.)"
                raise health.Trouble(text) from None
