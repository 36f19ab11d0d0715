"""The publish task: claim -> fetch from the engine -> check, remux -> S3 -> completed."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.conf import settings
from django.db import connection

from comfy import workflow
from comfy.client import Comfy, ComfyError, FileGone
from jobs.media import storage, video
from jobs.models import Job
from jobs.models.job import FINAL, ClaimLost
from jobs.workers.hold import WORKER, Heartbeat, fetched, remove_files, stopping
from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)

STORAGE_PAUSE = 5.0  # seconds for which a publisher leaves a storage in trouble alone
DATABASE_PAUSE = 1.0  # seconds between two tries to complete a job whose video is in S3


def publish() -> None:
    """Publishes rendered videos until none is left."""
    with Heartbeat() as heartbeat:
        while not stopping.is_set() and (job := Job.objects.claim_publish(WORKER)):
            heartbeat.hold(job)
            try:
                publish_one(job)
            except ClaimLost:
                logger.warning("job %s: cancelled, or taken over", job.pk, extra=job.about)
            except AWAY as error:
                logger.warning("job %s: left to the next publisher: %s", job.pk, error, extra=job.about)
                connection.close()
                return
            finally:
                heartbeat.drop(job)


def publish_one(job: Job) -> None:
    """Fetches, checks and uploads one rendered video."""
    try:
        with rendered(job) as source:
            finished = video.finish(source, source.with_name("video.mp4"))
            with uploaded(job, finished):
                complete(job, finished)
    except (FileGone, video.Unplayable) as error:
        logger.error("job %s: the video is gone or broken: %s", job.pk, error, extra=job.about)
        job.lost_render(str(error))
    except video.NotAsAsked as error:
        logger.error("job %s: %s", job.pk, error, extra=job.about)
        sentence = "ComfyUI rendered a video of another size, length or format than was asked for."
        job.failed(sentence, reason="video", detail=str(error))
    except ComfyError as error:
        logger.warning("job %s: not published yet, trying again: %s", job.pk, error, extra=job.about)
        job.publish_later(str(error))
    except (storage.StorageError, OSError) as error:  # S3 or our disk: the next job would fare no better
        logger.warning("job %s: not published yet, trying again: %s", job.pk, error, extra=job.about)
        job.publish_later(str(error))
        stopping.wait(STORAGE_PAUSE)
    if job.status in FINAL:
        remove_files(job)


@contextmanager
def rendered(job: Job) -> Iterator[Path]:
    """The file from the engine that rendered it."""
    if job.engine is None:
        raise FileGone("The engine that rendered this is not known any more.")
    with Comfy(job.engine.url) as comfy, fetched(comfy, workflow.folder(job.pk), job.output) as path:
        yield path


@contextmanager
def uploaded(job: Job, finished: video.Video) -> Iterator[None]:
    """In S3, unless the job is not completed with it: then not, for the object belongs to no row. (When the
    database went away in between nobody knows, and it stays.)"""
    try:
        storage.put(job.poster_key, video.poster(finished.path), "image/jpeg")
        storage.put_video(job.video_key, finished.path, filename=f"{job.pk}.mp4")
        yield
    except (ClaimLost, storage.StorageError):
        with suppress(storage.StorageError):
            storage.delete([job.video_key, job.poster_key])
        raise


def complete(job: Job, finished: video.Video) -> None:
    """A database that is away for a moment must not cost the upload: tried again for as long as the lease."""
    deadline = time.monotonic() + settings.JOB_LEASE
    while True:
        try:
            return job.completed(size=finished.size, frames=finished.frames, sha256=finished.sha256)
        except AWAY as error:
            logger.warning("job %s: the database is away, trying again: %s", job.pk, error, extra=job.about)
            connection.close()
            if time.monotonic() > deadline:
                raise
            stopping.wait(DATABASE_PAUSE)
