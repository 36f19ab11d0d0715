"""manage.py: what operators do and ask there."""

import io
import json
import re
import uuid

import boto3
import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from jobs.media import storage
from jobs.models import ApiKey, Event, Job
from jobs.models.clock import seconds
from jobs.queue import causes, engines
from jobs.queue.claim import claim_render
from jobs.queue.returns import purge
from tests.factories import COMFYUI, make_job
from tests.stack import S3_URL

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
        assert (job.attempt, job.progress, job.lost, job.lapses, job.engine) == (3, 0, 0, 0, None)
        assert job.render == 3  # the next one is 4: what ComfyUI may still have of these is not taken for it
        assert OrmQ.objects.get().key == "render"

    def test_all_that_failed_within_a_time(self):
        old = make_job(status="failed", finished_at=Now() - seconds(2 * DAY))
        new = [make_job(status="failed"), make_job(status="failed", created_at=Now() - seconds(2 * DAY))]
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
            ([uuid.uuid4(), "--since", "24h"], "--since and --key go with --status."),
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
    s3 = boto3.client("s3", endpoint_url=S3_URL)
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

        assert purge(job) == 0  # the row as the command read it, a moment earlier
        assert (states(job), objects(job)) == (["queued"], 3)

    def test_without_s3_the_rows_stay_for_another_try(self, settings):
        job = make_old_job()
        settings.S3_ENDPOINT_URL = "http://127.0.0.1:1"

        said = refused("purge_jobs", "--older-than", "30d")

        assert said == "S3 did not delete what belongs to the others; run it again."
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


@pytest.mark.django_db
class TestCancel:
    def test_jobs_by_their_ids(self):
        jobs = make_job(), make_job(status="processing")

        assert manage("cancel_jobs", *[job.pk for job in jobs]) == "2 jobs cancelled."
        assert states(*jobs) == ["cancelled"] * 2
        assert Event.objects.filter(kind="cancelled", detail="by manage.py cancel_jobs").count() == 2

    def test_all_of_a_status_and_a_key(self):
        key, _ = ApiKey.objects.make(name="shop")
        theirs, other = make_job(key=key), make_job()
        selection = ("--status", "queued", "--key", "shop")

        assert manage("cancel_jobs", *selection, "--dry-run") == "1 job would be cancelled."
        assert states(theirs) == ["queued"]
        assert manage("cancel_jobs", *selection) == "1 job cancelled."
        assert states(theirs, other) == ["cancelled", "queued"]
        assert refused("cancel_jobs", "--status", "queued", "--key", "x") == "There is no API key named 'x'."

    def test_a_finished_one_is_refused(self):
        job = make_job(status="completed")

        assert "is completed, not queued or processing" in refused("cancel_jobs", job.pk)


@pytest.mark.django_db
class TestJob:
    def test_everything_about_one(self, engine):
        job = make_job(prompt="A red cat")
        claim = claim_render(engine)
        claim.begin(engine, {"node": {"class_type": "SaveVideo"}})
        claim.end(causes.NODE_FAILED, "Traceback: a node of ComfyUI", error="It failed.")

        text = manage("job", job.pk)
        told = json.loads(manage("job", job.pk, "--json"))

        for part in ("A red cat", "It failed.", "Traceback: a node", "claimed, attempt 1, by", "environment"):
            assert part in text
        assert told["id"] == str(job.pk)
        assert [event["event"] for event in told["events"]] == ["claimed", "posted", "failed"]
        assert told["events"][1]["graph"] == {"node": {"class_type": "SaveVideo"}}

    def test_what_it_is_rendered_with_what_it_waits_for_and_how_long(self, engine, submit):
        asked = {"preset": "quality", "num_frames": 9, "steps": 5, "num_frame": 9, "other": 1}
        waiting = Job.objects.get(pk=submit(**asked))
        make_job(status="completed", started_at=Now() - seconds(3600), work=waiting.work)

        text = manage("job", waiting.pk)
        told = json.loads(manage("job", waiting.pk, "--json"))
        engines.report_unreachable(engine)
        after = json.loads(manage("job", waiting.pk, "--json"))

        for line in ("num_frames: 9", "steps: 5", *waiting.warnings):
            assert re.search(rf"^(\w+)? +{re.escape(line)}$", text, re.M)
        assert told["parameters"] == waiting.shown_parameters
        assert told["warnings"] == waiting.warnings
        assert 3590 < told["eta_seconds"] < 3610
        assert "waiting_for" not in told
        assert after["waiting_for"] == "No GPU server is ready."

    def test_one_that_there_is_not(self):
        assert refused("job", unknown := uuid.uuid4()) == f"There is no job {unknown}."


@pytest.mark.django_db
class TestStats:
    def test_the_queue_the_engines_and_the_last_day(self, engine):
        make_job(created_at=Now() - seconds(90))
        make_job(status="processing", engine=engine, progress=40)
        for render in (100, 300, 200):
            then = Now() - seconds(render)
            make_job(status="completed", created_at=then, started_at=then, rendered_at=Now())
        make_job(status="failed")

        told, text = json.loads(manage("stats", "--json")), manage("stats")

        assert told["queue"]["queued"] == 1
        assert 89 < told["queue"]["oldest_seconds"] < 100
        assert (told["engines"][0]["state"], told["engines"][0]["progress"]) == ("ready", 40)
        assert (told["finished"]["completed"], told["finished"]["failure_rate"]) == (3, 0.25)
        assert told["finished"]["render_seconds"]["median"] == pytest.approx(200, abs=1)
        assert text.startswith("1 queued, the oldest for 90 s; 1 rendering, 0 publishing")
        assert "engine sim: ready" in text

    def test_no_time_at_all(self):
        assert refused("stats", "--within", "0h") == "--within must be at least 1m."

    def test_an_empty_service(self):
        assert manage("stats").splitlines() == [
            "0 queued; 0 rendering, 0 publishing",
            "within 24h: 0 completed (0.0 an hour), 0 failed, 0 cancelled",
        ]


class TestEngineCommands:
    def test_a_comfyui_that_has_all_files(self, simulator):
        told = json.loads(manage("check_engine", "--url", simulator.url, "--json"))

        assert told["ready"] is True
        assert "SIMULATOR" in told["version"].upper()
        assert told["files"]["vae/wan_2.1_vae.safetensors"] is True

    def test_a_file_that_is_missing_is_named_with_its_place(self, simulator, monkeypatch):
        monkeypatch.setattr("comfy.presets.Preset.files", [("vae", "none.safetensors")])
        output = io.StringIO()

        with pytest.raises(CommandError, match="1 model file is missing"):
            call_command("check_engine", "--url", simulator.url, stdout=output)

        assert "  MISSING  models/vae/none.safetensors" in output.getvalue().splitlines()

    def test_a_version_that_was_not_tried_and_a_node_that_is_missing_are_named(self, simulator, monkeypatch):
        monkeypatch.setattr("comfy.answers.TRIED", ("9.9.9",))
        monkeypatch.setattr("jobs.management.commands.check_engine.TRIED", ("9.9.9",))
        monkeypatch.setattr("comfy.presets.Preset.nodes", ["SaveVideo", "NoSuchNode"])
        output = io.StringIO()

        with pytest.raises(CommandError, match="Nodes are missing: ComfyUI needs an update"):
            call_command("check_engine", "--url", simulator.url, stdout=output)

        assert "  This version was not tried; 9.9.9 were." in output.getvalue().splitlines()
        assert "  MISSING  node NoSuchNode" in output.getvalue().splitlines()

    def test_what_is_no_comfyui(self):
        assert "is not ComfyUI" in refused("check_engine", "--url", S3_URL)

    def test_none_that_answers(self):
        said = refused("check_engine", "--url", "http://127.0.0.1:1")

        assert said.startswith("http://127.0.0.1:1: The GPU server does not answer.")

    def test_warm_up_runs_each_graph_once(self, simulator, settings, monkeypatch):
        monkeypatch.setattr("comfy.warmup.HOLDS_ALL", 0)  # a card for all models
        settings.COMFYUI_OUTPUT_DIR = str(COMFYUI / "output")
        before = len(simulator.log("finished"))

        kinds = [line.partition(":")[0] for line in manage("warm_up", "--url", simulator.url).splitlines()]

        assert kinds == ["image-to-video", "text-to-video"]
        assert len(simulator.log("finished")) == before + 2
        assert not (COMFYUI / "output" / "wanapi" / "warm-up").exists()


@pytest.mark.django_db
class TestCheckSetup:
    def test_a_service_that_can_work(self):
        before = [*storage.listed("inputs/"), *storage.listed("videos/")]

        assert manage("check_setup").splitlines() == [
            "Postgres: ok",
            "migrations: ok",
            "S3: ok",
            "images: ok",
        ]
        assert [*storage.listed("inputs/"), *storage.listed("videos/")] == before

    def test_a_bucket_that_is_not_there_is_named_with_the_right_that_failed(self, settings):
        settings.S3_BUCKET, output = "another", io.StringIO()

        with pytest.raises(CommandError, match="cannot work like this"):
            call_command("check_setup", stdout=output)

        assert "S3: s3:PutObject on inputs/ failed" in output.getvalue()
