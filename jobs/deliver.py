"""The name by which django-q2's messages call this task. It also brings two rooms together that do not know
each other: what is sent is a job as the API tells it, and the workers send it.
"""

from typing import Any

from jobs.api.answers import WholeJob
from jobs.models import Job
from jobs.workers import deliver as worker


def deliver() -> None:
    worker.deliver(as_told)


def as_told(job: Job) -> dict[str, Any]:
    return dict(WholeJob(job).data)
