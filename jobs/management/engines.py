"""The base of commands that change engines: by name, all or none."""

from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.models import Engine
from jobs.models.engine import EngineQuerySet


class EnginesCommand(BaseCommand):
    """``done`` is the word for what was done, as in "paused: gpu-1"."""

    done: ClassVar[str]

    def change(self, engines: EngineQuerySet) -> list[str]:
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="+", metavar="ENGINE", help="as manage.py stats names it")

    def handle(self, *, names: list[str], **options: Any) -> None:
        known = set(Engine.objects.values_list("name", flat=True))
        for name in names:
            if name not in known:
                there = f"there are {', '.join(sorted(known))}" if known else "there are none"
                raise CommandError(f"There is no engine {name!r}; {there}. Nothing was {self.done}.")
        changed = self.change(Engine.objects.filter(name__in=names))
        for name in dict.fromkeys(names):
            self.stdout.write(f"{name} {'is' if name in changed else 'was already'} {self.done}.")
