"""The retention task: finished jobs older than RETENTION_DAYS are removed for good. So are jobs that their
clients deleted before they were finished."""

import logging

from django.conf import settings
from django.db.models.functions import Now

from jobs.media.storage import StorageError
from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.job import FINAL
from jobs.queue.returns import purge
from jobs.workers.hold import stopping
from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)

PAUSE = 3600.0  # seconds between two runs
SHORT_PAUSE = 30.0  # at least, between two runs for what clients deleted
DAY = 86400
MAX_FAILED = 5  # jobs in a row that S3 does not delete, until a run ends


def purge_old() -> None:
    """Removes them one by one, oldest first. A job whose objects S3 does not delete is left for the next run.
    After MAX_FAILED of these in a row the run ends: then S3 itself is in trouble."""
    jobs = Job.objects.to_remove()
    if settings.RETENTION_DAYS:
        end = Now() - seconds(settings.RETENTION_DAYS * DAY)
        jobs = jobs | Job.objects.filter(status__in=FINAL, finished_at__lt=end)
    count = failed = 0
    try:
        for job in jobs.in_pages("finished_at"):
            if stopping.is_set() or failed == MAX_FAILED:
                break
            try:
                count += purge(job)
                failed = 0
            except StorageError as error:
                failed += 1
                logger.warning("retention: job %s stays for now: %s", job.pk, error)
    except AWAY as error:
        logger.warning("retention: broke off, to be tried again: %s", error)
    if count:
        logger.info("retention: %s jobs removed that are old or were deleted by their clients", count)
