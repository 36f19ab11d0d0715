"""``manage.py purge_leftovers``."""

import os
import time
import uuid
from datetime import timedelta

import boto3
import pytest
from django.core.management import CommandError, call_command

from comfy import workflow
from jobs.management.commands import purge_leftovers
from jobs.worker import TEMPORARY
from tests import parts
from tests.conftest import make_job

pytestmark = pytest.mark.django_db


@pytest.fixture
def s3():
    return boto3.client("s3", endpoint_url=parts.S3_URL)


@pytest.fixture
def keys(s3):
    def keys():
        found = s3.list_objects_v2(Bucket="wanapi").get("Contents", [])
        return {item["Key"] for item in found}

    for key in keys():
        s3.delete_object(Bucket="wanapi", Key=key)
    return keys


@pytest.fixture
def purge(monkeypatch, capsys):
    """The command, for which everything is old."""

    def purge(*options):
        monkeypatch.setattr(purge_leftovers, "LEAST_AGE", timedelta(days=-1))
        call_command("purge_leftovers", *options, older_than=timedelta(minutes=-1))
        return capsys.readouterr().out

    return purge


def put(s3, *keys):
    for key in keys:
        s3.put_object(Bucket="wanapi", Key=key, Body=b"x")


def test_what_no_job_owns_is_removed_and_all_else_stays(s3, keys, purge):
    live, done = make_job(kind="image-to-video"), make_job(status="completed", fence=2)
    owned = {live.input_key, done.video_key, "other/thing"}
    lost_claim, nobodys = f"videos/{done.pk}/1.mp4", f"videos/{uuid.uuid4()}/1.mp4"
    put(s3, *owned, lost_claim, nobodys, f"inputs/{uuid.uuid4()}.png")

    assert "3 leftovers removed." in purge()

    assert keys() == owned


def test_a_dry_run_only_lists(s3, keys, purge):
    key = f"inputs/{uuid.uuid4()}.png"
    put(s3, key)

    assert purge("--dry-run") == f"{key}\n1 leftover found.\n"

    assert keys() == {key}


def test_young_ones_may_belong_to_a_request_in_flight(s3, keys, capsys):
    put(s3, f"inputs/{uuid.uuid4()}.png")

    call_command("purge_leftovers", "--older-than", "1h")

    assert capsys.readouterr().out == "0 leftovers removed.\n"
    with pytest.raises(CommandError, match="at least 1h"):
        call_command("purge_leftovers", "--older-than", "59m")


def test_unfinished_uploads_are_aborted(s3, keys, purge):
    s3.create_multipart_upload(Bucket="wanapi", Key=f"videos/{uuid.uuid4()}/1.mp4")

    assert "(unfinished)" in purge()

    assert "Uploads" not in s3.list_multipart_uploads(Bucket="wanapi")


def test_folders_of_finished_jobs_on_the_gpu_machine_go(tmp_path, settings, keys, purge):
    settings.COMFYUI_OUTPUT_DIR = str(tmp_path)
    live, done = make_job(), make_job(status="failed")
    for job_id in (live.pk, done.pk, uuid.uuid4()):
        folder = tmp_path / workflow.folder(job_id)
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - 60,) * 2)

    assert "2 leftovers removed." in purge()

    assert [folder.name for folder in (tmp_path / "wanapi").iterdir()] == [str(live.pk)]


def test_what_a_killed_worker_left_on_this_machine_goes(tmp_path, monkeypatch, keys, purge):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (f"{TEMPORARY}abc", "another-program"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - 120,) * 2)

    assert "1 leftover removed." in purge()

    assert [folder.name for folder in tmp_path.iterdir()] == ["another-program"]
