"""GET /status/{job_id}, /jobs and /jobs/{job_id}."""

import re
import uuid

import pytest
from django.db.models.functions import Now

from jobs.models.clock import seconds
from tests.factories import make_job

pytestmark = pytest.mark.django_db


class TestStatus:
    def test_a_queued_job(self, api):
        job = make_job()

        assert api.get(f"/status/{job.pk}").json() == {
            "job_id": str(job.pk),
            "status": "queued",
            "video_url": None,
            "error": None,
        }

    def test_a_completed_job_has_a_link_signed_for_an_hour(self, api):
        job = make_job(status="completed", fence=3)

        answer = api.get(f"/status/{job.pk}").json()

        assert (answer["status"], answer["error"]) == ("completed", None)
        assert f"/wanapi/videos/{job.pk}/3.mp4?" in answer["video_url"]
        assert "X-Amz-Expires=3600" in answer["video_url"]
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in answer["video_url"]

    def test_the_link_leads_to_where_clients_reach_s3(self, api, settings):
        settings.S3_PUBLIC_ENDPOINT_URL = "https://videos.example.com"
        job = make_job(status="completed")

        assert (
            api.get(f"/status/{job.pk}").json()["video_url"].startswith("https://videos.example.com/wanapi/")
        )

    def test_a_failed_job_says_why(self, api):
        job = make_job(status="failed", error="The GPU ran out of memory.")

        answer = api.get(f"/status/{job.pk}").json()

        assert (answer["status"], answer["error"]) == ("failed", "The GPU ran out of memory.")

    @pytest.mark.parametrize(
        "job_id", [str(uuid.uuid4()), "1", "x" * 3000, "%00", "{" + str(uuid.uuid4()) + "}"]
    )
    def test_an_unknown_or_malformed_id_is_404(self, api, job_id):
        answer = api.get(f"/status/{job_id}")

        assert answer.status_code == 404
        assert answer.json() == {"detail": "There is no job with this id."}

    def test_a_trailing_slash_is_accepted(self, api):
        assert api.get(f"/status/{make_job().pk}/").status_code == 200


class TestList:
    def test_newest_first_with_exactly_the_fields_of_the_reference(self, api):
        old = make_job(created_at=Now() - seconds(60), status="failed")
        new = make_job(prompt="A dog")

        jobs = api.get("/jobs").json()

        assert [job["job_id"] for job in jobs] == [str(new.pk), str(old.pk)]
        created_at = jobs[0].pop("created_at")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", created_at)
        assert jobs[0] == {
            "job_id": str(new.pk),
            "status": "queued",
            "prompt": "A dog",
            "video_url": None,
            "error": None,
        }

    def test_jobs_of_one_moment_are_ordered_by_id(self, api):
        moment = make_job().created_at
        jobs = [make_job(created_at=moment) for _ in range(5)]

        listed = [job["job_id"] for job in api.get("/jobs?limit=5").json()]

        assert listed == sorted(listed, reverse=True)
        assert len(jobs) == 5

    def test_a_filter_by_status(self, api):
        make_job()
        done = make_job(status="completed")

        assert [job["job_id"] for job in api.get("/jobs?status=completed").json()] == [str(done.pk)]

    def test_a_limit(self, api):
        for _ in range(3):
            make_job()

        assert len(api.get("/jobs?limit=2").json()) == 2
        assert len(api.get("/jobs?limit=99999999999999999999").json()) == 3

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=-1",
            "limit=1.5",
            "limit=x",
            "limit=",
            "limit=1&limit=2",
            "status=done",
            "status=",
        ],
    )
    def test_it_refuses_what_makes_no_sense(self, api, query):
        answer = api.get(f"/jobs?{query}")

        assert answer.status_code == 400
        assert list(answer.json()["errors"]) == [query.split("=")[0]]

    def test_a_wrong_state_is_answered_with_the_right_ones(self, api):
        errors = api.get("/jobs?status=done").json()["errors"]

        assert errors == {"status": ["This must be queued, processing, completed or failed."]}


class TestEverything:
    def test_a_job_under_way(self, api):
        job = make_job(status="processing", progress=40, attempt=2)

        answer = api.get(f"/jobs/{job.pk}").json()

        assert answer == {
            "job_id": str(job.pk),
            "status": "processing",
            "kind": "text-to-video",
            "prompt": "A cat",
            "position": None,
            "progress": 40,
            "eta_seconds": None,
            "attempt": 2,
            "created_at": job.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "started_at": job.started_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "finished_at": None,
            "video_url": None,
            "poster_url": None,
            "error": None,
            "parameters": {"preset": "fast", "seed": 1, "size": "832x480", "num_frames": 81, "fps": 16},
            "warnings": [],
            "waiting_for": None,
        }

    def test_a_job_that_waits_in_comfyui_is_queued_at_0_and_counts_for_those_behind(self, api):
        first = make_job()
        staged = make_job(lease_until=Now() + seconds(30))

        assert api.get(f"/jobs/{staged.pk}").json()["position"] == 0
        assert api.get(f"/jobs/{first.pk}").json()["position"] == 1
