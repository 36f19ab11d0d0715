"""``manage.py purge_leftovers``."""

import base64
import os
import time
import uuid
from datetime import timedelta

import boto3
import pytest
from django.core.management import CommandError, call_command

from jobs.management.commands import purge_leftovers
from jobs.media import storage
from jobs.models import Job
from jobs.queue import returns
from jobs.workers.hold import TEMPORARY
from tests.factories import make_job, picture
from tests.stack import S3_URL

pytestmark = pytest.mark.django_db


@pytest.fixture
def s3():
    return boto3.client("s3", endpoint_url=S3_URL)


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


@pytest.fixture
def removed():
    """The id of a job that this database knew."""
    job = make_job(status="completed")
    assert returns.purge(job) == 1
    return job.pk


def test_what_no_job_owns_is_removed_and_all_else_stays(s3, keys, purge, removed):
    live, done = make_job(kind="image-to-video"), make_job(status="completed", fence=2)
    owned = {live.input_key, done.video_key}
    put(s3, *owned, f"videos/{done.pk}/1.mp4", f"videos/{removed}/1.mp4", f"inputs/{removed}.png")

    assert "3 leftovers removed." in purge()

    assert keys() == owned


def test_what_is_not_of_our_form_is_neither_touched_nor_listed(s3, keys, purge, removed):
    """Somebody else's, in the same bucket; some of it below the very folder of a job of ours."""
    done = make_job(status="completed", fence=1)
    theirs = {
        *("videos/family/holiday-2019.mp4", "videos/2024/01/clip.mov", "videos/index.html", "readme.txt"),
        *("inputs/customers.csv", "inputs/", "videos/", "other/thing", f"{removed}/1.mp4", f"{removed}"),
        *(
            f"inputs/{removed}.PNG",
            f"inputs/{removed}.png.bak",
            f"inputs/x/{removed}.png",
            f"inputs/{removed}",
        ),
        *(
            f"videos/{removed}/1.mov",
            f"videos/{removed}/01.mp4",
            f"videos/{removed}/99999999999999999999.mp4",
            f"videos/{removed}/one.mp4",
            f"videos/{removed}/1.mp4/x",
            f"videos/{removed}/",
        ),
        *(f"inputs/{str(removed).upper()}.png", f"inputs/{removed.hex}.png", f"videos/{{{removed}}}/1.mp4"),
        *(f"videos/{done.pk}/notes.txt", f"videos/{done.pk}/old/1.mp4"),
    }
    put(s3, *theirs, done.video_key)
    upload = s3.create_multipart_upload(Bucket="wanapi", Key="videos/family/wedding-4k.mov")

    assert purge("--even-unknown") == "0 leftovers removed.\n"
    assert returns.purge(done) == 1

    assert keys() == theirs
    uploads = s3.list_multipart_uploads(Bucket="wanapi")["Uploads"]
    assert [found["UploadId"] for found in uploads] == [upload["UploadId"]]
    s3.abort_multipart_upload(Bucket="wanapi", Key=upload["Key"], UploadId=upload["UploadId"])


def test_objects_of_jobs_that_this_database_never_knew_stay_until_they_are_asked_for(s3, keys, purge):
    unknown = {f"videos/{uuid.uuid4()}/1.mp4", f"inputs/{uuid.uuid4()}.png"}
    put(s3, *unknown)

    told = purge()
    assert keys() == unknown
    assert all(f"{key} (unknown, stays)" in told for key in unknown)
    assert "2 of jobs that this database never knew stay" in told

    assert "2 leftovers removed." in purge("--even-unknown")
    assert keys() == set()


def test_two_installations_share_a_bucket_by_their_prefixes(s3, keys, purge, settings):
    theirs, ours = make_job(status="completed"), make_job(status="completed", fence=1)
    put(
        s3,
        f"theirs/{theirs.video_key}",
        f"ours/videos/{ours.pk}/0.mp4",
        f"ours/{ours.video_key}",
        theirs.video_key,
    )
    settings.S3_PREFIX = "ours/"
    Job.objects.filter(pk=theirs.pk).delete()

    assert "1 leftover removed." in purge("--even-unknown")

    assert keys() == {f"theirs/{theirs.video_key}", f"ours/{ours.video_key}", theirs.video_key}
    assert f"/wanapi/ours/{ours.video_key}?" in storage.link(ours.video_key)


def test_the_image_of_a_request_that_broke_off_is_known(api, s3, keys, purge, monkeypatch):
    monkeypatch.setattr("jobs.api.intake.submit", lambda *_: 1 / 0)  # as if the process was killed
    image = base64.b64encode(picture()).decode()
    api.post("/generate", {"prompt": "A cat", "image_base64": image}, content_type="application/json")
    assert len(keys()) == 1

    assert "1 leftover removed." in purge()

    assert keys() == set()


def test_a_dry_run_only_lists(s3, keys, purge, removed):
    key = f"inputs/{removed}.png"
    put(s3, key)

    assert purge("--dry-run") == f"{key}\n1 leftover found.\n"

    assert keys() == {key}


def test_young_ones_may_belong_to_a_request_in_flight(s3, keys, capsys, removed):
    put(s3, f"inputs/{removed}.png")

    call_command("purge_leftovers", "--older-than", "1h")

    assert capsys.readouterr().out == "0 leftovers removed.\n"
    with pytest.raises(CommandError, match="at least 1h"):
        call_command("purge_leftovers", "--older-than", "59m")


def test_folders_of_finished_jobs_on_the_gpu_machine_go(tmp_path, settings, keys, purge, removed):
    settings.COMFYUI_OUTPUT_DIR = str(tmp_path)
    live, done, unknown = make_job(), make_job(status="failed"), uuid.uuid4()
    others = {"warm-up", f"{removed}-old", removed.hex, str(removed).upper()}
    for name in {str(live.pk), str(done.pk), str(removed), str(unknown), *others}:
        (tmp_path / "wanapi" / name).mkdir(parents=True)
        os.utime(tmp_path / "wanapi" / name, (time.time() - 60,) * 2)

    told = purge()

    assert "2 leftovers removed." in told
    assert f"{unknown} (unknown, stays)" in told
    assert {folder.name for folder in (tmp_path / "wanapi").iterdir()} == {
        str(live.pk),
        str(unknown),
        *others,
    }


def test_what_a_killed_worker_left_on_this_machine_goes(tmp_path, monkeypatch, keys, purge):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (f"{TEMPORARY}abc", "another-program"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - 120,) * 2)

    assert "1 leftover removed." in purge()

    assert [folder.name for folder in tmp_path.iterdir()] == ["another-program"]
