"""The operators' view in Django's admin."""

import csv
import html
import json
import re

import boto3
import pytest
import requests
from django.db.models.functions import Now

from comfy import presets
from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.engine import Engine
from jobs.queue import causes, engines
from jobs.queue.claim import claim_render
from jobs.queue.submit import requeue as queue_again
from jobs.queue.submit import submit
from tests.factories import make_job, picture, runs
from tests.operators.pages import ENGINES, JOBS, act, cell, listed, page, requeue, source
from tests.stack import S3_URL

pytestmark = pytest.mark.django_db

COLUMNS = ("told", "stands", "from_key", "age", "time")
EVIL = "<script>alert('\"1\"')</script>"


def test_it_asks_for_a_login(client):
    answer = client.get(JOBS)

    assert (answer.status_code, answer["Location"]) == (302, f"/admin/login/?next={JOBS}")


class TestList:
    def test_it_tells_where_a_job_stands(self, admin):
        began = {"created_at": Now() - seconds(7200), "started_at": Now() - seconds(3600)}
        job = make_job(**began, status="processing", kind="image-to-video", progress=40, attempt=2)

        text = page(admin, JOBS)

        shown = [" ".join(cell(text, name).split()) for name in COLUMNS]
        about = f"A cat {str(job.pk)[:8]} · fast · image-to-video"
        assert shown == [about, "rendering 40%", "API_KEY", "2 h", "1 h 0 min"]

    def test_a_job_that_waits_runs_not_yet(self, admin):
        make_job(created_at=Now() - seconds(7200))

        text = page(admin, JOBS)

        assert (cell(text, "stands"), cell(text, "time")) == ("queued", "waits 2 h 0 min")

    def test_newest_first(self, admin):
        jobs = [make_job(created_at=Now() - seconds(age)) for age in (60, 0, 30)]

        assert listed(admin) == [str(jobs[i].pk) for i in (1, 2, 0)]

    def test_a_search_by_id(self, admin):
        job, _ = make_job(), make_job()

        assert listed(admin, f"?q={job.pk}") == [str(job.pk)]
        assert listed(admin, f"?q={str(job.pk).upper()}") == [str(job.pk)]
        assert listed(admin, f"?q={str(job.pk)[:8]}") == [str(job.pk)]

    def test_no_lookup_but_those_of_the_filters(self, admin):
        for lookup in ("prompt__regex", "key__sha256__startswith", "engine__url__startswith"):
            assert admin.get(f"{JOBS}?{lookup}=x").status_code == 400

    def test_a_search_by_words_of_the_prompt(self, admin):
        job, _ = make_job(prompt="A cat dances on the moon"), make_job(prompt="A dog on the moon")

        assert listed(admin, "?q=MOON+cat") == [str(job.pk)]

    def test_a_filter_by_status(self, admin):
        job, _ = make_job(status="failed"), make_job()

        assert listed(admin, "?status__exact=failed") == [str(job.pk)]

    def test_a_filter_by_preset_takes_all_of_its_versions(self, admin):
        jobs = [make_job(preset=preset) for preset in ("fast", "fast@0123456789ab", "faster@0123456789ab")]

        text = page(admin, JOBS)

        assert 'href="?preset=quality"' in text
        assert listed(admin, "?preset=fast") == [str(job.pk) for job in reversed(jobs[:2])]

    def test_a_long_prompt_is_cut(self, admin):
        make_job(prompt="x" * 10_000)

        assert cell(page(admin, JOBS), "told").startswith("x" * 119 + "… ")

    def test_queued_jobs_stand_in_the_order_of_their_turns(self, admin):
        jobs = [make_job(turn=3), make_job(turn=1), make_job(turn=9, priority=1)]

        assert listed(admin, "?status__exact=queued") == [str(jobs[i].pk) for i in (2, 1, 0)]

    def test_a_failed_job_says_why(self, admin):
        make_job(status="failed", error="ComfyUI lacks the model file vae/wan.safetensors.")

        assert "ComfyUI lacks the model file vae/wan.safetensors." in cell(page(admin, JOBS), "told")

    def test_it_counts_no_more_than_it_must(self, admin, monkeypatch, django_assert_max_num_queries):
        monkeypatch.setattr("jobs.operators.admin.jobs.BoundedPaginator.MOST", 3)
        for _ in range(5):
            make_job()

        with django_assert_max_num_queries(12):
            text = page(admin, JOBS + "?status__exact=queued")

        assert "3 jobs" in text

    def test_jobs_are_exported_as_csv(self, admin):
        job = make_job(prompt='=HYPERLINK("http://evil.example")', status="failed", error="It failed, badly.")

        answer = act(admin, "export", job)

        [row] = csv.DictReader(answer.getvalue().decode().splitlines())
        assert (row["id"], row["error"]) == (str(job.pk), "It failed, badly.")
        assert row["prompt"] == '\'=HYPERLINK("http://evil.example")'  # a spreadsheet would run it

    def test_the_csv_has_what_was_asked_for(self, admin, submit):
        job = Job.objects.get(pk=submit(preset="quality", seed=2**53 - 1, steps=5, **{"=1+1": 2}))

        [row] = csv.DictReader(act(admin, "export", job).getvalue().decode().splitlines())

        assert (row["preset"], row["preset_version"]) == ("quality", presets.find("quality").reference)
        assert [row[name] for name in ("size", "num_frames", "fps", "steps")] == ["832x480", "81", "16", "5"]
        assert json.loads(row["parameters"]) == job.shown_parameters
        assert row["warnings"] == "'=1+1 was ignored."


class TestDetail:
    def test_the_reference_image_and_the_video_are_signed_for_the_view(self, admin):
        job = make_job(status="completed", kind="image-to-video", fence=2)
        s3 = boto3.client("s3", endpoint_url=S3_URL)
        s3.put_object(Bucket="wanapi", Key=f"inputs/{job.pk}.png", Body=picture())
        s3.put_object(Bucket="wanapi", Key=f"videos/{job.pk}/2.mp4", Body=b"a video")

        text = page(admin, f"{JOBS}{job.pk}/change/")

        assert requests.get(source(text, "img"), timeout=5).content == picture()
        assert requests.get(source(text, "video"), timeout=5).content == b"a video"

    def test_without_an_image_and_a_video_there_are_no_links(self, admin):
        text = page(admin, f"{JOBS}{make_job(status='failed').pk}/change/")

        assert "It failed." in text
        assert S3_URL not in text

    def test_both_images_of_a_job_with_a_first_and_a_last_frame(self, admin):
        job = make_job(kind="first-last-frame", has_first_image=True)

        text = page(admin, f"{JOBS}{job.pk}/change/")

        assert re.findall(r'<img src="[^"]+/inputs/([^"?]+)\?', text) == [
            f"{job.pk}.png",
            f"{job.pk}-last.png",
        ]

    def test_what_it_is_rendered_with_and_what_had_no_effect(self, admin, submit):
        job_id = submit(preset="quality", seed=7, steps=5, negative_prompt=EVIL, **{"num_frame<b>": 9})

        text = page(admin, f"{JOBS}{job_id}/change/")

        for line in ("seed: 7", "steps: 5", f"negative_prompt: {EVIL}", "size: 832x480"):
            assert html.escape(line) in text
        assert "num_frame&lt;b&gt; was ignored" in text
        assert presets.find("quality").reference in text

    def test_what_it_waits_for(self, admin, submit):
        assert "No GPU server is ready." in page(admin, f"{JOBS}{submit()}/change/")

    def test_the_time_that_is_left(self, admin, engine):
        work = {"work": 1000, "preset": presets.find("fast").reference}
        make_job(status="completed", started_at=Now() - seconds(3600), **work)

        text = page(admin, f"{JOBS}{make_job(**work).pk}/change/")

        assert re.search(r"0 jobs before it\. Done in (1 h 0 min|59 min \d+ s)\.", text)

    def test_the_graph_that_was_sent(self, admin, engine):
        job = make_job()
        claim_render(engine).begin(engine, {"save": {"class_type": "SaveVideo"}})

        text = html.unescape(page(admin, f"{JOBS}{job.pk}/change/"))

        assert '"class_type": "SaveVideo"' in text

    def test_nothing_can_be_changed_added_or_deleted(self, admin):
        job = make_job()

        text = page(admin, f"{JOBS}{job.pk}/change/")

        assert 'name="_save"' not in text
        assert 'name="prompt"' not in text
        assert admin.post(f"{JOBS}{job.pk}/change/", {"prompt": "A dog"}).status_code == 403
        assert admin.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 403
        assert admin.get(f"{JOBS}add/").status_code == 403
        assert Job.objects.get().prompt == "A cat"


class TestConsole:
    def test_it_tells_how_the_service_is(self, admin, engine):
        make_job()
        make_job(status="processing", engine=engine, progress=40)
        failed = make_job(status="failed", error="ComfyUI failed in KSampler: ValueError.")
        make_job(status="completed", started_at=Now() - seconds(300))

        text = page(admin, "/admin/")
        assert "<b>1</b> queued" in text
        assert "<b>1</b> rendering" in text
        assert '<progress max="100" value="40"' in text
        assert "<b>50.0%</b> failed" in text
        assert "<b>300 s</b> median render" in text
        assert f"/admin/jobs/job/{failed.pk}/change/" in text
        assert "ComfyUI failed in KSampler" in text
        assert len(re.findall("<figure>", text)) == 4

    def test_a_failure_still_counts_when_the_job_was_requeued(self, admin, engine):
        make_job(status="failed", prompt="A lost cat")
        queue_again(Job.objects.all())

        text = page(admin, "/admin/")

        assert "<b>100.0%</b> failed" in text
        assert "now queued" in text.partition("Latest failures")[2]

    def test_jobs_that_no_engine_can_render_are_told(self, admin, engine):
        engines.report_well(engine, version="test", runs=runs("fast/image-to-video"), lacks=["vae/x"])
        make_job()

        text = page(admin, "/admin/")

        assert "1 queued job (fast, text-to-video): no engine can render it now." in text
        assert "lacks vae/x" in text

    def test_an_empty_service(self, admin):
        text = page(admin, "/admin/")

        assert "No render worker has ever started" in text

    def test_it_shows_nothing_to_those_who_may_not_see_jobs(self, client, django_user_model):
        client.force_login(django_user_model.objects.create_user("guest", is_staff=True))

        text = page(client, "/admin/")

        assert "queued" not in text
        assert JOBS not in text


class TestEngines:
    def test_one_that_is_ready(self, admin, engine):
        text = page(admin, ENGINES)

        assert (cell(text, "name"), cell(text, "stands"), cell(text, "missing_files")) == (
            "sim",
            "ready",
            "-",
        )
        assert "fast: first-last-frame, image-to-video, text-to-video" in cell(text, "can_run")
        assert cell(text, "seen") == "0 s ago"

    @pytest.mark.parametrize(
        ("change", "state"),
        [
            ({"ready": False}, "ComfyUI does not answer"),
            ({"ready": False, "warming": True}, "warming up"),
            ({"ready": False, "trouble": "The GPU failed."}, "cannot work"),
            ({"paused": True}, "paused"),
            ({"lacks": ["wan.safetensors"]}, "lacks files"),
            ({"lease_until": Now() - seconds(1)}, "no worker"),
            ({"lease_until": None, "worker": ""}, "no worker"),
        ],
    )
    def test_one_that_is_not(self, admin, engine, change, state):
        Engine.objects.update(**change)

        text = page(admin, ENGINES)

        assert cell(text, "stands").startswith(state)
        assert ("wan.safetensors" in text) == ("lacks" in change)


def test_an_engine_without_a_worker_is_removed_and_its_jobs_wait_for_it_no_more(admin, engine):
    gone = Engine.objects.create(name="gone", url="http://gone")
    job = make_job(engine=gone, render=1)
    assert claim_render(engine) is None
    chosen = {"action": "remove", "_selected_action": [engine.pk, gone.pk], "confirmed": "yes"}

    answer = admin.post(ENGINES, chosen, follow=True)

    assert [str(message) for message in answer.context["messages"]] == [
        "Removed: gone.",
        "An engine that a worker holds stays: stop it first.",
    ]
    assert claim_render(engine).job == job


@pytest.mark.parametrize("path", [JOBS, JOBS + "{}/change/"])
def test_nothing_that_others_wrote_becomes_html(admin, path):
    job = make_job(prompt=EVIL, status="failed", error=EVIL)

    text = page(admin, path.format(job.pk))

    assert EVIL not in text
    assert html.escape(EVIL) in text


def test_what_comfyui_reports_becomes_no_html(admin, engine):
    engines.report_well(engine, version=EVIL, runs=presets.runs([]), lacks=[EVIL])

    assert EVIL not in page(admin, ENGINES)


def test_a_jobs_page_tells_what_happened_to_it_and_by_whom(admin_client, engine):
    job = submit(Job(kind="text-to-video", prompt="A cat", preset="fast", seed=1))
    claim_render(engine).end(causes.NODE_FAILED, "Traceback: in line 7", error="It failed.")
    requeue(admin_client, job)

    page = admin_client.get(f"/admin/jobs/job/{job.pk}/change/").content.decode()

    for text in (
        "with the API_KEY",
        "claimed",
        "failed",
        "Traceback: in line 7",
        "requeued",
        "by admin",
        engine.worker,
    ):
        assert text.lower() in page.lower()
