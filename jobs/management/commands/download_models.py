"""``manage.py download_models``: the graphs' model files, straight into ComfyUI's folders."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from comfy import downloads, presets
from comfy.downloads import Host, ModelFile, Problem, gigabytes, size_of


class Command(BaseCommand):
    requires_system_checks = ()  # it needs no database
    help = (
        "Downloads the model files that a preset needs. What is there is kept; what broke off goes on. "
        "HF_TOKEN in the environment is sent to the host of the base URL alone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", metavar="COMFYUI_MODELS_DIR", type=Path, help="ComfyUI's models/")
        parser.add_argument("--preset", choices=presets.names(), help="default: WORKFLOW_PRESET")
        parser.add_argument("--base-url", default=downloads.BASE_URL, help="default: %(default)s")
        parser.add_argument("--verify", action="store_true", help="read files that are there, too")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, *, folder: Path, base_url: str, dry_run: bool, **options: Any) -> None:
        if not folder.is_dir():
            raise CommandError(f"There is no folder {folder}: name ComfyUI's models folder.")
        if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
            raise CommandError(f"--base-url must be an http or https URL, not {base_url!r}.")
        host = Host(base_url, os.environ.get("HF_TOKEN", ""))
        preset = presets.find(options["preset"] or settings.WORKFLOW_PRESET)
        try:
            known = presets.files_of_built_in()
            self._tell_own(folder, set(preset.files) - known)
            files = [host.declared(folder, *wanted) for wanted in preset.files if wanted in known]
            missing = [file for file in files if not self._is_there(file, options["verify"])]
            downloads.check_space(folder, missing)
            if not dry_run:
                self._download(host, missing)
        except Problem as problem:
            raise CommandError(str(problem)) from problem
        except OSError as error:
            raise CommandError(f"{error.filename or folder}: {error.strerror}.") from error
        except KeyboardInterrupt:
            raise CommandError("Stopped; the next run goes on from here.", returncode=130) from None
        self.stdout.write(f"{len(files)} files, {gigabytes(sum(file.size for file in files))}: {folder}")

    def _tell_own(self, models: Path, own: set[tuple[str, str]]) -> None:
        """Of the files that only a preset of the operator's own needs, and no host of ours has."""
        for folder, name in sorted(own):
            if not (models / folder / name).exists():
                self.stderr.write(f"{name}: put it into {models / folder} yourself; it is no file of WAN 2.2")

    def _is_there(self, file: ModelFile, verify: bool) -> bool:
        there = file.is_there(verify=verify)
        what = "there" if there else f"{gigabytes(file.size - size_of(file.partial))} to download"
        self.stdout.write(f"{file.path.name}: {what}")
        return there

    def _download(self, host: Host, files: list[ModelFile]) -> None:
        total, have = sum(file.size for file in files), sum(size_of(file.partial) for file in files)
        # The bar is shown only on a terminal; a log gets a line for each file.
        with tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar:
            for file in files:
                bar.set_description(file.path.name)
                host.download(file, bar.update)
                bar.clear()
                self.stdout.write(f"{file.path.name}: right size and SHA-256")
