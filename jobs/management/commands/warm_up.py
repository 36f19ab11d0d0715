"""``manage.py warm_up``: loads the models, as a render worker does when it starts."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from comfy import presets, warmup
from comfy.answers import ComfyError
from comfy.client import Comfy, shown
from jobs.management.arguments import add_comfyui
from jobs.workers.hold import remove_folder


class Command(BaseCommand):
    help = "Runs two steps of each graph in ComfyUI; of one alone, if its GPU cannot hold all models."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        add_comfyui(parser)

    def handle(self, *, url: str, preset: str, **options: Any) -> None:
        wanted = presets.find(preset)
        try:
            with Comfy(url) as comfy:
                kinds = warmup.kinds(comfy, wanted, first=next(iter(wanted.kinds)))
                for kind, seconds in warmup.warm_up(comfy, wanted, kinds):
                    self.stdout.write(f"{kind}: {seconds:.1f} s")
        except ComfyError as error:
            raise CommandError(f"{shown(url)}: {error.message} {error.detail}".strip()) from error
        remove_folder(warmup.FOLDER)
