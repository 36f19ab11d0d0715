"""/v1/videos and /v1/models: what they answer. (tests/clients/ drives them with the clients themselves.)"""

from datetime import UTC, datetime

import pytest

from jobs.models import Job
from jobs.models.key import ApiKey
from tests.factories import make_job
from tests.stack import KEY

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
UNIX_NOON = 1795608000


def shown(api, job):
    return api.get(f"/v1/videos/{job.pk}").json()


class TestAVideo:
    def test_that_is_completed(self, api):
        job = make_job(status="completed", created_at=NOON, finished_at=NOON, prompt="A cat")

        assert shown(api, job) == {
            "id": str(job.pk),
            "object": "video",
            "status": "completed",
            "progress": 100,
            "created_at": UNIX_NOON,
            "completed_at": UNIX_NOON,
            "expires_at": None,
            "model": "fast",
            "prompt": "A cat",
            "seconds": "5",
            "size": "832x480",
            "error": None,
            "remixed_from_video_id": None,
        }

    @pytest.mark.parametrize(
        ("status", "told"),
        [("queued", "queued"), ("processing", "in_progress"), ("failed", "failed"), ("cancelled", "failed")],
    )
    def test_that_is_not(self, api, status, told):
        answer = api.get(f"/v1/videos/{make_job(status=status).pk}")

        assert (answer.status_code, answer.json()["status"]) == (200, told)
        assert answer.json()["completed_at"] is None

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_the_error_says_whether_it_was_cancelled(self, api, status):
        job = make_job(status=status, error="Why.")

        assert shown(api, job)["error"] == {"code": status, "message": "Why."}

    def test_expires_when_retention_removes_it(self, api, settings):
        settings.RETENTION_DAYS = 2
        job = make_job(status="failed", finished_at=NOON)

        assert shown(api, job)["expires_at"] == UNIX_NOON + 2 * 86400

    @pytest.mark.parametrize(
        ("frames", "fps", "told"), [(81, 16, "5"), (65, 16, "4"), (41, 16, "2.5"), (5, 16, "0.25")]
    )
    def test_tells_its_length_as_text(self, api, frames, fps, told):
        job = make_job(parameters={"size": "480x832", "num_frames": frames, "fps": fps})

        assert (shown(api, job)["seconds"], shown(api, job)["size"]) == (told, "480x832")


class TestWhenToAskAgain:
    @pytest.mark.parametrize(("left", "told"), [(None, 5000), (3, 1000), (42, 4200), (4000, 10000)])
    def test_it_is_a_tenth_of_the_time_left(self, api, monkeypatch, left, told):
        monkeypatch.setattr("jobs.queue.estimate.seconds_left", lambda job: left)

        assert api.get(f"/v1/videos/{make_job().pk}")["OpenAI-Poll-After-Ms"] == str(told)


class TestKeys:
    def test_a_bearer_token_does_as_well_everywhere(self, client):
        _, text = ApiKey.objects.make(name="shop")
        for key in (KEY, text):
            for path in ("/v1/videos", "/jobs"):
                assert client.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 200

    @pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY])
    def test_nothing_else_does(self, client, sent):
        answer = client.get("/v1/videos", headers={"Authorization": sent})

        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"

    def test_the_header_of_our_own_comes_first(self, client):
        headers = {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"}

        assert client.get("/v1/videos", headers=headers).status_code == 401

    def test_anothers_video_does_not_exist(self, client, api):
        _, text = ApiKey.objects.make(name="shop")
        job = make_job(status="completed")
        client.defaults["HTTP_X_API_KEY"] = text

        assert client.get("/v1/videos").json()["data"] == []
        assert client.get(f"/v1/videos?after={job.pk}").status_code == 400
        for call in (client.get, client.delete):
            assert call(f"/v1/videos/{job.pk}").status_code == 404
        assert client.get(f"/v1/videos/{job.pk}/content").status_code == 404
        assert Job.objects.exists()


class TestTheList:
    def ids(self, api, query):
        return [video["id"] for video in api.get(f"/v1/videos?{query}").json()["data"]]

    def test_goes_on_after_an_id_also_where_times_are_equal(self, api):
        jobs = [make_job(created_at=NOON) for _ in range(5)]
        for order in ("asc", "desc"):
            found, after = [], ""
            while page := self.ids(api, f"limit=2&order={order}{after}"):
                found += page
                after = f"&after={page[-1]}"
            assert sorted(found) == sorted(str(job.pk) for job in jobs)

    def test_goes_on_after_one_that_was_deleted_meanwhile(self, api):
        jobs = [make_job(status="completed") for _ in range(5)]
        found, after = [], ""
        while page := self.ids(api, f"limit=2{after}"):
            found += page
            for job_id in page:
                api.delete(f"/v1/videos/{job_id}")
            after = f"&after={page[-1]}"

        assert sorted(found) == sorted(str(job.pk) for job in jobs)

    def test_says_whether_there_are_more(self, api):
        for _ in range(2):
            make_job()

        first = api.get("/v1/videos?limit=1").json()
        last = api.get(f"/v1/videos?limit=1&after={first['last_id']}").json()

        assert (first["object"], first["has_more"], last["has_more"]) == ("list", True, False)
        assert first["first_id"] == first["last_id"] == first["data"][0]["id"]

    def test_of_nothing(self, api):
        assert api.get("/v1/videos").json() == {
            "object": "list",
            "data": [],
            "has_more": False,
            "first_id": None,
            "last_id": None,
        }

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "order=up", "after=x", "limit=1&limit=2"])
    def test_refuses_another_query(self, api, query):
        answer = api.get(f"/v1/videos?{query}")

        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == query.partition("=")[0]


class TestTheContent:
    def test_is_a_redirect_to_the_video_or_its_first_frame(self, api):
        job = make_job(status="completed")
        for query, key in (
            ("", job.video_key),
            ("?variant=video", job.video_key),
            ("?variant=thumbnail", job.poster_key),
        ):
            answer = api.get(f"/v1/videos/{job.pk}/content{query}")
            assert answer.status_code == 302
            assert key in answer["Location"]
            assert answer["Cache-Control"] == "no-store"

    def test_there_is_no_spritesheet(self, api):
        answer = api.get(f"/v1/videos/{make_job(status='completed').pk}/content?variant=spritesheet")

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "variant")

    def test_is_a_409_before_the_end(self, api):
        answer = api.get(f"/v1/videos/{make_job().pk}/content")

        assert answer.status_code == 409
        assert answer["X-Should-Retry"] == "false"


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("get", "/v1/videos/video_123", 404),
            ("post", "/v1/videos/x/remix", 404),
            ("post", "/v1/images/generations", 404),
            ("put", "/v1/videos", 405),
        ],
    )
    def test_have_openais_form(self, api, method, path, status):
        answer = getattr(api, method)(path)

        assert answer.status_code == status
        assert [*answer.json()] == ["error"]
        assert {*answer.json()["error"]} == {"message", "type", "param", "code"}
        assert answer["X-Should-Retry"] == "false"

    def test_a_limit_may_get_better_unless_that_takes_long(self, client):
        for limit, retry in (("max_queued", None), ("max_per_day", "false")):
            _, text = ApiKey.objects.make(name=limit, **{limit: 1})
            client.defaults["HTTP_X_API_KEY"] = text
            answers = [client.post("/v1/videos", {"prompt": "A cat"}) for _ in range(2)]

            assert [answer.status_code for answer in answers] == [200, 429]
            assert answers[1].json()["error"]["type"] == "rate_limit_error"
            assert int(answers[1]["Retry-After"]) > 0
            assert answers[1].get("X-Should-Retry") == retry

    def test_a_storage_that_is_away_is_a_503_that_may_be_repeated(self, api, settings):
        settings.S3_ENDPOINT_URL = "http://127.0.0.1:1"
        job = make_job(status="completed")

        answer = api.delete(f"/v1/videos/{job.pk}")

        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "server_error"
        assert "X-Should-Retry" not in answer
        assert api.get(f"/v1/videos/{job.pk}").status_code == 200

    def test_of_the_other_doors_stay_as_they_are(self, api):
        assert [*api.get("/status/x").json()] == ["detail"]
        assert [*api.get("/nothing").json()] == ["detail"]


class TestAPageOfAnotherOrigin:
    ORIGIN = "https://app.example.com"

    @pytest.fixture(autouse=True)
    def _allowed(self, settings):
        settings.CORS_ALLOWED_ORIGINS = [self.ORIGIN]

    def test_may_send_what_openais_library_sends(self, client):
        headers = "authorization, content-type, x-stainless-retry-count, x-stainless-os, x-stainless-timeout"

        answer = client.options(
            "/v1/videos",
            headers={
                "Origin": self.ORIGIN,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": headers,
            },
        )

        assert answer["Access-Control-Allow-Origin"] == self.ORIGIN
        allowed = answer["Access-Control-Allow-Headers"].split(", ")
        assert {*headers.split(", ")} <= {*allowed}

    @pytest.mark.parametrize("path", ["/v1/videos", "/v1/models", "/v1/videos/x", "/v1/nothing"])
    def test_may_read_every_answer_and_no_cache_mixes_them_up(self, api, path):
        answer = api.get(path, headers={"Origin": self.ORIGIN})

        assert answer["Access-Control-Allow-Origin"] == self.ORIGIN
        assert "openai-poll-after-ms" in answer["Access-Control-Expose-Headers"]
        assert "origin" in answer["Vary"]
        if path != "/v1/nothing":
            assert answer["Cache-Control"] == "no-store"


def test_the_models_are_the_presets_with_the_default_first(api, own_preset, settings):
    own_preset()
    settings.WORKFLOW_PRESET = "quality"

    models = api.get("/v1/models").json()

    assert [model["id"] for model in models["data"]] == ["quality", "fast", "mine"]
    assert models["data"][0] == {"id": "quality", "object": "model", "created": 0, "owned_by": "wanapi"}
