"""DELETE /jobs/{job_id} and retention: what is removed is gone for good, and nothing else is."""

from contextlib import ExitStack
from unittest.mock import Mock

import boto3
import pytest
from django.db.models.functions import Now
from django_q.models import OrmQ

from jobs.media import storage
from jobs.models import Job
from jobs.models.clock import seconds
from jobs.queue.wake import PUBLISH
from jobs.workers.cluster import run_tick
from jobs.workers.retention import DAY, purge_old
from tests.factories import make_job
from tests.stack import S3_URL
from wanapi import limits

pytestmark = pytest.mark.django_db


@pytest.fixture
def s3():
    return boto3.client("s3", endpoint_url=S3_URL)


def keys(s3, job):
    listed = [s3.list_objects_v2(Bucket="wanapi", Prefix=f"{kind}/{job.pk}") for kind in ("inputs", "videos")]
    return [item["Key"] for page in listed for item in page.get("Contents", [])]


def finished(s3, **fields):
    job = make_job(**({"status": "completed", "fence": 2} | fields))
    for key in (job.input_key, job.video_key, f"videos/{job.pk}/1.mp4"):
        s3.put_object(Bucket="wanapi", Key=key, Body=b"x")
    return job


class TestDelete:
    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_a_finished_job_leaves_nothing(self, api, s3, status):
        job = finished(s3, status=status)

        assert api.delete(f"/jobs/{job.pk}").status_code == 204

        assert keys(s3, job) == []
        assert api.get(f"/jobs/{job.pk}").status_code == 404
        assert api.delete(f"/jobs/{job.pk}").status_code == 404

    @pytest.mark.parametrize("status", ["queued", "processing"])
    def test_a_job_under_way_stays(self, api, status):
        job = make_job(status=status)

        answer = api.delete(f"/jobs/{job.pk}")

        assert answer.status_code == 409
        assert answer.json() == {"detail": f"The job is {status}; cancel it before you delete it."}
        assert Job.objects.filter(pk=job.pk).exists()

    def test_without_s3_nothing_is_deleted(self, api, s3, settings):
        job = finished(s3)
        settings.S3_ENDPOINT_URL = "http://127.0.0.1:1"

        assert api.delete(f"/jobs/{job.pk}").status_code == 503

        assert Job.objects.filter(pk=job.pk).exists()

    def test_an_s3_that_hangs_holds_few_threads(self, api, s3):
        job = finished(s3)
        with ExitStack() as slots:
            for _ in range(limits.STORAGE_CHANGES):
                slots.enter_context(storage.slot())

            assert api.delete(f"/jobs/{job.pk}").status_code == 503

        assert api.delete(f"/jobs/{job.pk}").status_code == 204


class TestRetention:
    def test_a_job_that_cannot_be_removed_stops_no_other(self, s3, settings, monkeypatch):
        settings.RETENTION_DAYS = 1
        stuck, other = (finished(s3, finished_at=Now() - seconds(days * DAY)) for days in (3, 2))
        delete = storage.delete

        def refuse(keys):
            if stuck.input_key in (keys := list(keys)):
                raise storage.StorageError("under legal hold")
            delete(keys)

        monkeypatch.setattr("jobs.media.storage.delete", refuse)

        purge_old()

        assert list(Job.objects.all()) == [stuck]
        assert keys(s3, other) == []

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("days", [0, 1])
    def test_the_publish_cluster_does_it_if_a_time_is_set(self, settings, days):
        settings.RETENTION_DAYS = days
        after_one_round = Mock(is_set=Mock(side_effect=[False, True]))

        run_tick(PUBLISH, Mock(), after_one_round, None)

        assert [message.func() for message in OrmQ.objects.all()] == ["jobs.retention.purge_old"] * days

    def test_old_finished_jobs_go_and_all_others_stay(self, s3, settings):
        settings.RETENTION_DAYS = 2
        long_ago = Now() - seconds(3 * DAY)
        old = finished(s3, finished_at=long_ago)
        young = finished(s3, finished_at=Now() - seconds(DAY))
        waiting = make_job(created_at=long_ago)

        purge_old()

        assert set(Job.objects.all()) == {young, waiting}
        assert keys(s3, old) == []
        assert len(keys(s3, young)) == 3
