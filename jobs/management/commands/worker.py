"""``manage.py worker render|publish``."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from jobs.queue.wake import PUBLISH, RENDER
from jobs.workers.cluster import run


class Command(BaseCommand):
    requires_system_checks = ()  # they check the web's addresses and pages, which a worker does not use
    help = "Runs a django-q2 cluster: 'render' drives one ComfyUI, 'publish' brings videos to S3."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("cluster", choices=[RENDER, PUBLISH])

    def handle(self, *, cluster: str, **options: Any) -> None:
        run(cluster)
