"""``manage.py cancel_jobs``: ends jobs that are not finished."""

from jobs.management.selection import JobsCommand
from jobs.models.job import JobQuerySet
from jobs.queue.returns import cancel


class Command(JobsCommand):
    help = "Cancels queued or processing jobs; their prompts are taken out of ComfyUI within seconds."
    allowed = ("queued", "processing")
    done = "cancelled"

    def change(self, jobs: JobQuerySet) -> int:
        return cancel(jobs, "by manage.py cancel_jobs")
