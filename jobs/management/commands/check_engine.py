"""``manage.py check_engine``: asks ComfyUI itself whether it can render."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize

from comfy import presets
from comfy.answers import TRIED, ComfyError
from comfy.client import Comfy, shown
from jobs.management.arguments import add_comfyui


class Command(BaseCommand):
    help = "Asks the ComfyUI of COMFYUI_URL for its version, its GPU, and the model files and nodes it needs."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        add_comfyui(parser)
        parser.add_argument("--json", action="store_true")

    def handle(self, *, url: str, preset: str, **options: Any) -> None:
        files = presets.find(preset).files
        try:
            with Comfy(url) as comfy:
                comfy.check_prompts()
                system, lacks = comfy.system(), comfy.missing(files)
                nodes = comfy.missing_nodes(presets.find(preset).nodes)
        except ComfyError as error:
            raise CommandError(f"{shown(url)}: {error.message} {error.detail}".strip()) from error
        present = {f"{folder}/{name}": f"{folder}/{name}" not in lacks for folder, name in files}
        if options["json"]:
            told = {"ready": not lacks and not nodes, "version": str(system), "tried": system.was_tried}
            self.stdout.write(json.dumps(told | {"preset": preset, "files": present, "missing_nodes": nodes}))
        else:
            self.stdout.write(f"{system}, preset {preset}")
            if not system.was_tried:
                self.stdout.write(f"  This version was not tried; {', '.join(TRIED)} were.")
            for file, there in present.items():
                self.stdout.write(f"  {'present' if there else 'MISSING'}  models/{file}")
            for name in nodes:
                self.stdout.write(f"  MISSING  node {name}")
        if lacks:
            raise CommandError(
                f"{len(lacks)} model file{pluralize(lacks, ' is,s are')} missing: manage.py download_models "
                "brings them, into the folder models/ of ComfyUI."
            )
        if nodes:
            raise CommandError("Nodes are missing: ComfyUI needs an update.")
