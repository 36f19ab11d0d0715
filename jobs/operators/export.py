"""Jobs as CSV, for a spreadsheet."""

import csv
from collections.abc import Iterator
from typing import Any

from jobs.models import Job
from jobs.models.job import JobQuerySet

COLUMNS = (
    "id", "status", "kind", "preset", "key__name", "prompt", "created_at", "started_at", "rendered_at",
    "finished_at", "attempt", "worker", "error",
)  # fmt: skip


class Line:
    """A file for csv.writer that returns each line instead of writing it."""

    @staticmethod
    def write(line: str) -> str:
        return line


def lines(jobs: JobQuerySet) -> Iterator[str]:
    """A header, then a line for each job. They are read in pages, so that not all are in memory at once."""
    writer: Any = csv.writer(Line())
    yield writer.writerow(column.replace("__", "_") for column in COLUMNS)
    for job in jobs.select_related("key").in_pages("-created_at"):
        yield writer.writerow(_cell(_value(job, column)) for column in COLUMNS)


def _value(job: Job, column: str) -> Any:
    return (job.key and job.key.name) if column == "key__name" else getattr(job, column)


def _cell(value: Any) -> str:
    """The value as text, with a quote before one that a spreadsheet would run as a formula."""
    text = "" if value is None else value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
