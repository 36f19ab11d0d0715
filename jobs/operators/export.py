"""Jobs as CSV, for a spreadsheet."""

import csv
import json
from collections.abc import Iterator
from typing import Any

from jobs.models import Job
from jobs.models.job import JobQuerySet

ASKED = ("seed", "size", "num_frames", "fps", "steps")
# What is new stands at the end, since somebody's formulas may count columns.
COLUMNS = (
    "id", "status", "kind", "preset", "key_name", "prompt", "created_at", "started_at", "rendered_at",
    "finished_at", "attempt", "worker", "error", "preset_version", *ASKED, "parameters", "warnings",
)  # fmt: skip


class Line:
    """A file for csv.writer that returns each line instead of writing it."""

    @staticmethod
    def write(line: str) -> str:
        return line


def lines(jobs: JobQuerySet) -> Iterator[str]:
    """A header, then a line for each job. They are read in pages, so that not all are in memory at once."""
    writer: Any = csv.writer(Line())
    yield writer.writerow(COLUMNS)
    for job in jobs.select_related("key").in_pages("-created_at"):
        told = _told(job)
        values = (told[name] if name in told else getattr(job, name) for name in COLUMNS)
        yield writer.writerow(map(_cell, values))


def _told(job: Job) -> dict[str, Any]:
    """What does not stand in the row like this. ``parameters`` are all of them, as a request may hold them:
    there the seed has all its digits, of which a spreadsheet keeps 15 in a number."""
    asked = job.shown_parameters
    return {name: asked.get(name) for name in ASKED} | {
        "preset": job.preset_name,
        "preset_version": job.preset,
        "key_name": job.key and job.key.name,
        "parameters": json.dumps(asked, ensure_ascii=False),
        "warnings": " ".join(job.warnings),
    }


def _cell(value: Any) -> str:
    """The value as text, with a quote before one that a spreadsheet would run as a formula."""
    text = "" if value is None else value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
