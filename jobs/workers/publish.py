"""The publish task: claim -> fetch from the engine -> check, remux -> S3 -> completed."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.conf import settings
from django.db import connection

from comfy.answers import ComfyError, FileGone
from comfy.client import Comfy
from jobs.media import storage, video
from jobs.models import Job
from jobs.models.job import FINAL
from jobs.queue import causes
from jobs.queue.claim import Claim, ClaimLost, claim_publish
from jobs.workers.hold import WORKER, Heartbeat, Places, fetched, remove_files, stopping
from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)

places = Places(2)
STORAGE_PAUSE = 5.0  # seconds for which a publisher leaves a storage in trouble alone
DATABASE_PAUSE = 1.0  # seconds between two tries to complete a job whose video is in S3


def publish() -> None:
    """Publishes rendered videos until none is left, or ends at once if the cluster does so twice already."""
    with places.one() as free:
        if free:
            publish_all()


def publish_all() -> None:
    with Heartbeat() as heartbeat:
        while not stopping.is_set() and (claim := claim_publish(WORKER)):
            job = claim.job
            heartbeat.hold(claim)
            try:
                publish_one(claim)
            except ClaimLost:
                logger.warning("job %s: cancelled, or taken over", job, extra=job.log_fields)
            except AWAY as error:
                logger.warning("job %s: left to the next publisher: %s", job, error, extra=job.log_fields)
                connection.close()
                return
            finally:
                heartbeat.drop(claim)


def publish_one(claim: Claim) -> None:
    """Fetches, checks and uploads one rendered video."""
    job = claim.job
    try:
        with rendered_file(job) as source:
            finished = video.finish(source, source.with_name("video.mp4"), *job.video_wanted)
            with uploaded(job, finished):
                complete(claim, finished)
    except (FileGone, video.Unplayable) as error:
        logger.error("job %s: the video is gone or broken: %s", job, error, extra=job.log_fields)
        claim.end(causes.LOST, str(error))
    except video.NotAsAsked as error:
        logger.error("job %s: %s", job, error, extra=job.log_fields)
        claim.end(causes.NOT_AS_ASKED, str(error))
    except (ComfyError, storage.StorageError, OSError) as error:
        logger.warning("job %s: not published yet, trying again: %s", job, error, extra=job.log_fields)
        claim.publish_later(str(error))
        if not isinstance(error, ComfyError):  # S3 or our disk failed, as it would for the next job
            stopping.wait(STORAGE_PAUSE)
    if job.status in FINAL:
        remove_files(job)


@contextmanager
def rendered_file(job: Job) -> Iterator[Path]:
    """The file from the engine that rendered it. Raises FileGone, or another ComfyError."""
    if job.engine is None:
        raise FileGone("The engine that rendered this is not known any more.")
    with Comfy(job.engine.url) as comfy, fetched(comfy, job.folder, job.output) as path:
        yield path


@contextmanager
def uploaded(job: Job, finished: video.Video) -> Iterator[None]:
    """Within this block the video and its poster are in S3. If the job is not completed with them they are
    deleted, since they belong to no row. (They stay if Postgres goes away in the block: then nobody knows
    whether the job was completed.)"""
    try:
        storage.put(job.poster_key, video.poster(finished.path), "image/jpeg")
        storage.put_video(job.video_key, finished.path, filename=f"{job.pk}.mp4")
        yield
    except (ClaimLost, storage.StorageError):
        with suppress(storage.StorageError):
            storage.delete([job.video_key, job.poster_key])
        raise


def complete(claim: Claim, finished: video.Video) -> None:
    """Completes the job. If the database is away, this is tried again for JOB_LEASE seconds, so that the
    upload was not in vain."""
    deadline, job = time.monotonic() + settings.JOB_LEASE, claim.job
    while True:
        try:
            return claim.completed(size=finished.size, frames=finished.frames, sha256=finished.sha256)
        except AWAY as error:
            logger.warning("job %s: the database is away, trying again: %s", job, error, extra=job.log_fields)
            connection.close()
            if time.monotonic() > deadline:
                raise
            stopping.wait(DATABASE_PAUSE)
