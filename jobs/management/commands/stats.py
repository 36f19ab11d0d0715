"""``manage.py stats``: the queue, the engines and the last hours."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.management.arguments import age
from jobs.operators import statistics


class Command(BaseCommand):
    help = "Tells how long the queue is, what the engines do, and how the last hours went."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--within", type=age, default=timedelta(days=1), metavar="AGE", help="default 24h; e.g. 7d"
        )
        parser.add_argument("--json", action="store_true")

    def handle(self, *, within: timedelta, json: bool, **options: Any) -> None:
        if not within:
            raise CommandError("--within must be at least 1m.")
        found = {
            "queue": statistics.queue(),
            "engines": statistics.engines(),
            "impossible": statistics.impossible(),
            "finished": statistics.finished(within),
        }
        self.stdout.write(as_json(found) if json else as_text(found))


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, default=str)


def as_text(found: dict[str, Any]) -> str:
    queue, finished = found["queue"], found["finished"]
    hours = finished["within_seconds"] / 3600
    oldest = f", the oldest for {queue['oldest_seconds']:.0f} s" if queue["queued"] else ""
    lines = [
        f"{queue['queued']} queued{oldest}; {queue['rendering']} rendering, {queue['publishing']} publishing"
    ]
    for row in found["impossible"]:
        lines.append(f"no engine can render {row['preset']}/{row['kind']} now: {row['jobs']} queued")
    for engine in found["engines"]:
        doing = f", {engine['job']} at {engine['progress']}%" if engine["job"] else ""
        lines.append(f"engine {engine['name']}: {engine['state']}{doing} ({engine['version'] or 'unknown'})")
    lines.append(
        f"within {hours:g}h: {finished['completed']} completed ({finished['per_hour']:.1f} an hour), "
        f"{finished['failed']} failed, {finished['cancelled']} cancelled"
    )
    for part in ("wait", "render", "publish"):
        times = finished[f"{part}_seconds"]
        if times["median"] is not None:
            lines.append(f"{part}: " + ", ".join(f"{name} {value:.1f} s" for name, value in times.items()))
    return "\n".join(lines)
