"""manage.py: requeue_jobs, purge_jobs, and settings that cannot work."""

import io
import os
import subprocess
import sys
import uuid

import boto3
import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from jobs import storage
from jobs.engines import seconds
from jobs.models import Job
from local.parts import ROOT
from tests import parts
from tests.conftest import make_job

DAY = 24 * 3600


def manage(command, *arguments):
    output = io.StringIO()
    call_command(command, *map(str, arguments), stdout=output)
    return output.getvalue().strip()


def refused(command, *arguments):
    with pytest.raises(CommandError) as error:
        manage(command, *arguments)
    return str(error.value)


def states(*jobs):
    return [Job.objects.get(pk=job.pk).status for job in jobs]


@pytest.mark.django_db
class TestRequeue:
    def test_a_failed_job_starts_anew_and_the_cluster_is_woken(self, engine):
        from django_q.models import OrmQ

        job = make_job(status="failed", engine=engine, render=3, attempt=3, progress=50, lost=3, lapses=2)

        assert manage("requeue_jobs", job.pk) == "1 job requeued."

        job.refresh_from_db()
        assert (job.status, job.error, job.started_at, job.finished_at) == ("queued", "", None, None)
        assert (job.attempt, job.progress, job.lost, job.lapses, job.engine) == (0, 0, 0, 0, None)
        assert job.render == 3  # the next one is 4: what ComfyUI may still have of these is not taken for it
        assert OrmQ.objects.get().key == "render"

    def test_all_that_failed_within_a_time(self):
        old = make_job(status="failed", created_at=Now() - seconds(2 * DAY))
        new = [make_job(status="failed"), make_job(status="failed")]
        done = make_job(status="completed")

        assert manage("requeue_jobs", "--status", "failed", "--since", "24h") == "2 jobs requeued."
        assert states(old, *new, done) == ["failed", "queued", "queued", "completed"]

    def test_one_wrong_id_among_right_ones_stops_all(self):
        failed, unknown = make_job(status="failed"), uuid.uuid4()

        said = refused("requeue_jobs", failed.pk, unknown)

        assert said == f"There is no job {unknown}; nothing was requeued."
        assert states(failed) == ["failed"]

    @pytest.mark.parametrize("status", ["queued", "processing", "completed"])
    def test_a_job_that_did_not_fail_is_refused(self, status):
        failed, other = make_job(status="failed"), make_job(status=status)

        said = refused("requeue_jobs", failed.pk, other.pk)

        assert said == f"Job {other.pk} is {status}, not failed or cancelled; nothing was requeued."
        assert states(failed, other) == ["failed", status]

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ([], "Give either job ids or --status."),
            ([uuid.uuid4(), "--status", "failed"], "Give either job ids or --status."),
            (["--since", "24h"], "Give either job ids or --status."),
            ([uuid.uuid4(), "--since", "24h"], "--since goes with --status."),
            (["--status", "completed"], "the status must be failed or cancelled, not 'completed'"),
            (["--status", "failed", "--since", "yesterday"], "'yesterday' is not an age like 90m, 24h or 7d"),
            (["1"], "invalid UUID value: '1'"),
        ],
    )
    def test_it_refuses_what_makes_no_sense(self, arguments, reason):
        assert reason in refused("requeue_jobs", *arguments)


def make_old_job(status="completed", age=40 * DAY, **fields):
    then = Now() - seconds(age)
    return make_job(status=status, created_at=then, started_at=then, finished_at=then, **fields)


def put_objects(job):
    """What S3 may hold of a job: its image, and a video of each claim that came so far."""
    s3 = boto3.client("s3", endpoint_url=parts.S3_URL)
    for key in (job.input_key, f"videos/{job.pk}/1.mp4", f"videos/{job.pk}/2.mp4"):
        s3.put_object(Bucket="wanapi", Key=key, Body=b"x")


def objects(job):
    return len([*storage.listed(f"videos/{job.pk}/"), *storage.listed(job.input_key)])


@pytest.mark.django_db
class TestPurge:
    @pytest.mark.parametrize("status", ["completed", "failed"])
    def test_the_row_and_all_its_objects_are_gone(self, status):
        job = make_old_job(status)
        put_objects(job)

        assert manage("purge_jobs", "--older-than", "30d") == "1 job removed."
        assert not Job.objects.exists()
        assert objects(job) == 0

    def test_younger_ones_stay(self):
        job = make_old_job(age=DAY)
        put_objects(job)

        assert manage("purge_jobs", "--older-than", "25h") == "0 jobs removed."
        assert (states(job), objects(job)) == (["completed"], 3)

    def test_a_job_that_waited_long_counts_from_its_end(self):
        make_job(status="completed", created_at=Now() - seconds(40 * DAY))

        assert manage("purge_jobs", "--older-than", "30d") == "0 jobs removed."

    def test_jobs_under_way_stay_whatever_their_age(self):
        waiting = make_job(created_at=Now() - seconds(40 * DAY))
        running = make_job(created_at=Now() - seconds(40 * DAY), status="processing")

        assert manage("purge_jobs", "--older-than", "0m") == "0 jobs removed."
        assert states(waiting, running) == ["queued", "processing"]

    def test_only_those_of_a_status(self):
        done, _ = make_old_job(), make_old_job("failed")

        assert manage("purge_jobs", "--older-than", "30d", "--status", "failed") == "1 job removed."
        assert list(Job.objects.all()) == [done]

    def test_a_dry_run_only_counts(self):
        job, _ = make_old_job(), make_old_job("failed")
        put_objects(job)

        assert manage("purge_jobs", "--older-than", "30d", "--dry-run") == "2 jobs would be removed."
        assert (Job.objects.count(), objects(job)) == (2, 3)

    def test_a_job_that_was_requeued_meanwhile_keeps_its_image(self):
        job = make_old_job("failed", kind="image-to-video")
        put_objects(job)
        manage("requeue_jobs", job.pk)

        assert job.purge() == 0  # the row as the command read it, a moment earlier
        assert (states(job), objects(job)) == (["queued"], 3)

    def test_without_s3_the_rows_stay_for_another_try(self, settings):
        job = make_old_job()
        settings.S3_ENDPOINT_URL = "http://127.0.0.1:1"

        said = refused("purge_jobs", "--older-than", "30d")

        assert said.startswith("S3 failed after 0 jobs were removed; run it again.")
        assert states(job) == ["completed"]

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ([], "the following arguments are required: --older-than"),
            (["--older-than", "30"], "'30' is not an age like 90m, 24h or 7d"),
            (["--older-than", "-1d"], "expected one argument"),
            (
                ["--older-than", "1d", "--status", "processing"],
                "must be completed or failed or cancelled, not 'processing'",
            ),
        ],
    )
    def test_it_refuses_what_makes_no_sense(self, arguments, reason):
        assert reason in refused("purge_jobs", *arguments)


def run(*command, **env):
    """A process of its own, with the tests' settings but for ``env``; None removes one."""
    env = {name: value for name, value in (os.environ | env).items() if value is not None}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


class TestExitCodes:
    def test_a_refusal_is_one_line_and_not_0(self):
        done = run("manage.py", "requeue_jobs")

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "CommandError: Give either job ids or --status.\n"

    def test_an_argument_that_is_wrong(self):
        done = run("manage.py", "purge_jobs", "--older-than", "soon")

        assert (done.returncode, done.stdout) == (2, "")
        assert "'soon' is not an age like 90m, 24h or 7d" in done.stderr


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("API_KEY", None, "API_KEY is not set: choose the key"),
            ("API_KEY", "", "API_KEY is not set: choose the key"),
            ("API_KEY_FILE", "/nowhere/key", "API_KEY_FILE"),
            ("DATABASE_URL", "", "DATABASE_URL is not set: give it a PostgreSQL URL"),
            ("DATABASE_URL", "sqlite:///wanapi.db", "DATABASE_URL must name a PostgreSQL database"),
            ("DATABASE_URL", "nonsense://somewhere", "DATABASE_URL"),
            ("WORKFLOW_PRESET", "best", "WORKFLOW_PRESET must be one of quality, fast, not 'best'."),
            ("COMFYUI_URL", "gpu:8188", "COMFYUI_URL must be an http or https URL, not 'gpu:8188'."),
            ("RENDER_TIMEOUT", "0", "RENDER_TIMEOUT must be at least 1, not 0."),
            ("IMAGE_URL_ALLOW", "images.local", "IMAGE_URL_ALLOW takes host:port"),
            ("LOG_LEVEL", "LOUD", "LOG_LEVEL"),
            ("LOG_FORMAT", "xml", "LOG_FORMAT must be line or json, not 'xml'."),
            ("API_KEY", "schlüssel", "API_KEY must be ASCII"),
        ],
    )
    def test_what_cannot_work_stops_the_start_with_one_sentence(self, name, value, sentence):
        done = run("manage.py", "migrate", "--check", **{name: value})

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("wanapi: ")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("API_KEY", None, "API_KEY is not set: choose the key that clients send as X-API-Key."),
            ("LOG_FORMAT", "xml", "LOG_FORMAT must be line or json, not 'xml'."),  # gunicorn logs before
        ],
    )
    def test_the_web_process_does_not_start_either(self, name, value, sentence):
        program = ("-m", "gunicorn", "-c", "wanapi/gunicorn.py", "wanapi.wsgi")

        done = run(*program, **{"PORT": "0", name: value})

        assert done.returncode != 0
        assert done.stderr == f"wanapi: {sentence}\n"

    def test_a_secret_may_come_from_a_file(self, tmp_path):
        (tmp_path / "key").write_text("from-a-file\n")
        show = "import wanapi.settings; print(wanapi.settings.API_KEY)"

        done = run("-c", show, API_KEY=None, API_KEY_FILE=str(tmp_path / "key"))

        assert done.stdout == "from-a-file\n"


@pytest.mark.django_db
class TestCheckSetup:
    def test_a_service_that_can_work(self, settings):
        settings.S3_PUBLIC_ENDPOINT_URL = (
            "https://localhost:1"  # a container does not reach it, its clients do
        )

        assert manage("check_setup").splitlines() == ["Postgres: ok", "migrations: ok", "S3: ok"]
        assert not list(storage.listed("inputs/check-"))

    def test_a_bucket_that_is_not_there_is_named_with_the_right_that_failed(self, settings):
        settings.S3_BUCKET, output = "another", io.StringIO()

        with pytest.raises(CommandError, match="cannot work like this"):
            call_command("check_setup", stdout=output)

        assert "S3: s3:PutObject failed" in output.getvalue()
