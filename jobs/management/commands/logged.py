"""``manage.py logged migrate check_setup``: runs commands and puts what they say into the log."""

import logging
import sys
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import NotSupportedError

from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)


class Lines:
    """A stream for a command's stdout: each line becomes a record."""

    def __init__(self) -> None:
        self.begun = ""

    def write(self, text: str) -> None:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in filter(str.strip, lines):
            logger.info("%s", line.strip())

    def flush(self) -> None: ...


class Command(BaseCommand):
    requires_system_checks = ()  # each command runs its own checks
    help = "Runs commands without arguments, one after the other, and puts what they say into the log."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("commands", nargs="+", metavar="COMMAND")

    def handle(self, *, commands: list[str], **options: Any) -> None:
        for name in commands:
            lines = Lines()
            try:
                call_command(name, stdout=lines, no_color=True)
            except (CommandError, NotSupportedError, *AWAY) as error:
                logger.error("%s: %s", name, error)
                sys.exit(getattr(error, "returncode", 1))
            except Exception:
                logger.exception("%s failed: %s", name, lines.begun.strip())  # the line names the migration
                sys.exit(1)
