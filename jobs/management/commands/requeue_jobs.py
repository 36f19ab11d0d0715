"""``manage.py requeue_jobs``: a second chance for failed and cancelled jobs."""

from jobs.management.selection import JobsCommand
from jobs.models.job import REQUEUABLE, JobQuerySet
from jobs.queue.submit import requeue


class Command(JobsCommand):
    help = "Puts failed or cancelled jobs back into the queue, with all counters at 0, each for a new render."
    allowed = REQUEUABLE
    done = "requeued"

    def change(self, jobs: JobQuerySet) -> int:
        return requeue(jobs, "by manage.py requeue_jobs")
