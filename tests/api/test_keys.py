"""API keys of the database: who sees what, and how much of it."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.key import ApiKey
from jobs.queue import causes
from jobs.queue.claim import claim_render
from jobs.queue.submit import requeue
from tests.factories import make_job

pytestmark = pytest.mark.django_db


class Caller:
    """A client with a key of its own."""

    def __init__(self, **fields):
        self.key, self.text = ApiKey.objects.make(**({"name": f"key {ApiKey.objects.count()}"} | fields))
        self.client = Client(headers={"X-API-Key": self.text}, raise_request_exception=False)

    def post(self, prompt="A cat", **headers):
        return self.client.post("/generate", {"prompt": prompt}, "application/json", headers=headers)

    def submit(self):
        answer = self.post()
        assert answer.status_code == 200, answer.content
        return answer.json()

    def get(self, path):
        return self.client.get(path)

    def change(self, **fields):
        ApiKey.objects.filter(pk=self.key.pk).update(**fields)


@pytest.fixture
def caller(settings):
    return Caller()


class TestTheKey:
    def test_it_is_stored_as_a_hash_with_a_visible_beginning(self, caller):
        row = ApiKey.objects.values().get()

        assert caller.text.startswith("wan_")
        assert row["prefix"] == caller.text[:12]
        assert caller.text not in str(row)

    def test_it_opens_the_api_until_it_is_revoked_or_expires(self, caller):
        assert caller.get("/jobs").status_code == 200

        caller.change(expires_at=Now() - seconds(1))
        assert caller.get("/jobs").status_code == 401
        caller.change(expires_at=Now() + seconds(60))
        assert caller.get("/jobs").status_code == 200
        ApiKey.objects.all().revoke()
        assert caller.get("/jobs").status_code == 401

    def test_its_hash_opens_nothing(self, caller):
        assert Client(headers={"X-API-Key": caller.key.sha256}).get("/jobs").status_code == 401

    def test_its_last_use_is_noted_by_the_minute(self, caller, django_assert_num_queries):
        caller.get("/jobs")
        used = ApiKey.objects.get().last_used_at
        assert used

        caller.get("/jobs")
        assert ApiKey.objects.get().last_used_at == used
        caller.change(last_used_at=Now() - seconds(61))
        caller.get("/jobs")
        assert timezone.now() - ApiKey.objects.get().last_used_at < timedelta(seconds=30)


class TestWhatAKeySees:
    def test_its_own_jobs_only(self, caller):
        theirs = make_job()
        mine = caller.submit()["job_id"]

        assert [job["job_id"] for job in caller.get("/jobs").json()] == [mine]
        assert caller.get(f"/status/{mine}").status_code == 200
        for path in (f"/status/{theirs.pk}", f"/jobs/{theirs.pk}"):
            assert caller.get(path).status_code == 404
        assert caller.client.post(f"/jobs/{theirs.pk}/cancel").status_code == 404
        theirs.refresh_from_db()
        assert theirs.status == "queued"

    def test_every_job_with_that_right_and_with_the_environments_key(self, caller, api):
        mine = caller.submit()["job_id"]
        chief = Caller(name="chief", all_jobs=True)

        assert chief.get(f"/jobs/{mine}").status_code == 200
        assert api.get(f"/jobs/{mine}").status_code == 200
        assert chief.client.post(f"/jobs/{mine}/cancel").status_code == 200

    def test_an_idempotency_key_is_its_own(self, caller, api):
        other, headers = Caller(name="other"), {"Idempotency-Key": "1"}

        jobs = {client.post(**headers).json()["job_id"] for client in (caller, caller, other)}
        body = {"prompt": "another"}
        answer = api.post("/generate", body, "application/json", headers=headers)

        assert answer.status_code == 200
        assert len(jobs) == 2


class TestLimits:
    def test_on_jobs_queued_at_once(self, caller, settings):
        caller.change(max_queued=2)
        jobs = [caller.submit()["job_id"] for _ in range(2)]

        answer = caller.post()
        assert (answer.status_code, answer["Retry-After"]) == (429, "60")
        assert answer.json() == {"detail": "This key has 2 jobs queued, its limit is 2."}
        caller.client.post(f"/jobs/{jobs[0]}/cancel")

        caller.submit()

    def test_on_jobs_per_day_also_of_those_that_are_gone(self, caller, settings):
        settings.KEY_MAX_PER_DAY = 1
        caller.submit()
        Job.objects.all().delete()

        answer = caller.post()

        assert answer.status_code == 429
        assert 0 < int(answer["Retry-After"]) <= 86400
        caller.change(day=timezone.now().date() - timedelta(days=1))
        caller.submit()
        assert ApiKey.objects.get().jobs_on_day == 1

    def test_none_for_the_environments_key_nor_where_the_limit_is_0(self, caller, submit, settings):
        settings.KEY_MAX_QUEUED = settings.KEY_MAX_PER_DAY = 1
        caller.change(max_queued=0, max_per_day=0)

        for _ in range(3):
            submit()
            caller.submit()

    def test_a_full_queue_is_a_503_for_everybody(self, api, submit, caller, settings):
        settings.MAX_WAITING = 1
        submit()

        answers = [caller.post(), api.post("/generate", {"prompt": "A cat"}, "application/json")]

        assert [(answer.status_code, answer["Retry-After"]) for answer in answers] == [(503, "60")] * 2
        assert answers[0].json() == {"detail": "The queue is full: 1 job is waiting."}

    def test_a_refused_image_leaves_nothing_in_s3(self, caller, settings, monkeypatch):
        stored = []
        monkeypatch.setattr("jobs.media.storage.put", lambda key, png: stored.append(key))
        caller.change(max_queued=1)
        caller.submit()

        answer = caller.client.post(
            "/generate", {"prompt": "A cat", "image_base64": "AAAA"}, "application/json"
        )

        assert answer.status_code == 429
        assert stored == []

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(("queued", "waiting", "code"), [(10, 1000, 429), (1000, 10, 503)])
    def test_they_are_exact_when_50_requests_come_at_once(self, settings, queued, waiting, code):
        settings.MAX_WAITING = waiting
        caller = Caller(max_queued=queued)

        def post(_):
            try:
                return caller.post().status_code
            finally:
                connection.close()

        with ThreadPoolExecutor(50) as threads:
            codes = list(threads.map(post, range(50)))

        assert (codes.count(200), codes.count(code)) == (10, 40)
        assert Job.objects.count() == ApiKey.objects.get().jobs_on_day == 10


class TestFairShare:
    def served(self, engine):
        """Whose jobs are claimed, in order."""
        order = []
        while claim := claim_render(engine):
            order.append(claim.job.key.name if claim.job.key else "environment")
        return order

    def test_a_single_job_does_not_wait_for_another_keys_hundred(self, caller, engine):
        for _ in range(5):
            caller.submit()
        claim_render(engine)
        single = Caller(name="single")

        answer = single.submit()

        assert answer["position"] == 1  # after the one that is held
        assert self.served(engine) == ["single", *[caller.key.name] * 4]

    def test_keys_take_turns(self, submit, engine):
        first, second = Caller(name="first"), Caller(name="second")
        for client in (first, second):
            for _ in range(3):
                client.submit()

        order = self.served(engine)

        assert [set(order[pair : pair + 2]) for pair in (0, 2, 4)] == [{"first", "second"}] * 3

    def test_a_key_that_was_quiet_has_saved_nothing_up(self, engine):
        busy, quiet = Caller(name="busy"), Caller(name="quiet")
        for _ in range(4):
            busy.submit()
        assert self.served(engine) == ["busy"] * 4

        for client in (busy, busy, quiet, quiet, quiet, quiet):
            client.submit()

        assert self.served(engine)[:5].count("busy") == 2

    def test_jobs_of_a_higher_priority_go_first(self, caller, engine):
        caller.submit()
        urgent = Caller(name="urgent", priority=1)

        assert urgent.submit()["position"] == 0

        assert self.served(engine) == ["urgent", caller.key.name]

    def test_each_priority_counts_its_own_turns(self, engine):
        urgent = Caller(name="urgent", priority=1)
        for _ in range(5):
            urgent.submit()
        assert len(self.served(engine)) == 5
        busy, single = Caller(name="busy"), Caller(name="single")
        for client in (busy, busy, busy, single):
            client.submit()

        assert "single" in self.served(engine)[:2]

    def test_a_key_that_cancelled_its_jobs_has_lost_nothing(self, caller, engine):
        other = Caller(name="other")
        for _ in range(5):
            caller.client.post(f"/jobs/{caller.submit()['job_id']}/cancel")
        for client in (other, other, other, caller):
            client.submit()

        assert caller.key.name in self.served(engine)[:2]

    def test_a_key_that_deletes_its_jobs_has_won_nothing(self, caller, engine):
        for turn in (1, 2):
            job_id = caller.submit()["job_id"]
            assert Job.objects.get().turn == turn
            claim_render(engine).end(causes.NODE_FAILED, error="It failed.")
            assert caller.client.delete(f"/jobs/{job_id}").status_code == 204

    def test_requeued_jobs_take_new_turns(self, caller, engine):
        jobs = [make_job(key=caller.key, status="failed", turn=turn) for turn in range(1, 6)]
        requeue(Job.objects.filter(pk__in=[job.pk for job in jobs]))
        Caller(name="other").submit()

        assert "other" in self.served(engine)[:2]

    def test_position_is_the_order_in_which_they_are_claimed(self, api, submit, engine):
        first, second = Caller(name="first"), Caller(name="second", priority=1)
        for client in (first, second, first, second, first):
            client.submit()
        submit()
        positions = {str(job.pk): job.position for job in Job.objects.all()}

        claimed = []
        while claim := claim_render(engine):
            claimed.append(str(claim.job.pk))

        assert [positions[job] for job in claimed] == [0, 1, 2, 3, 4, 5]


class TestTheCommand:
    def test_it_prints_the_key_once_and_it_works(self, capsys):
        call_command("create_api_key", "shop", "--expires", "90d", "--priority", "2", "--note", "the shop")

        text = capsys.readouterr().out.strip()
        key = ApiKey.objects.get()
        assert (key.name, key.priority, key.note, key.all_jobs) == ("shop", 2, "the shop", False)
        assert timedelta(days=89) < key.expires_at - timezone.now() < timedelta(days=91)
        assert Client(headers={"X-API-Key": text}).get("/jobs").status_code == 200

    def test_a_name_is_used_once(self, caller):
        with pytest.raises(CommandError, match=r"There is a key named 'key 0' already\."):
            call_command("create_api_key", "key 0")


class TestTheAdmin:
    def test_a_new_key_is_shown_once(self, admin_client):
        form = {"name": "shop", "priority": "0"}

        page = admin_client.post("/admin/jobs/apikey/add/", form, follow=True).content.decode()

        text = re.search(r'shown this once: <code id="new-key">([^<]+)<', page)[1]
        assert Client(headers={"X-API-Key": text}).get("/jobs").status_code == 200
        assert text not in admin_client.get("/admin/jobs/apikey/").content.decode()

    def test_a_key_is_revoked_and_never_deleted(self, admin_client, caller):
        chosen = {"action": "revoke", "_selected_action": [caller.key.pk]}

        assert b"Revoke key" in admin_client.post("/admin/jobs/apikey/", chosen).content
        assert caller.get("/jobs").status_code == 200
        admin_client.post("/admin/jobs/apikey/", chosen | {"confirmed": "yes"})

        assert caller.get("/jobs").status_code == 401
        assert admin_client.post(f"/admin/jobs/apikey/{caller.key.pk}/delete/").status_code == 403

    def test_jobs_are_filtered_by_key(self, admin_client, caller):
        job, other = caller.submit()["job_id"], make_job()

        page = admin_client.get(f"/admin/jobs/job/?key__id__exact={caller.key.pk}").content.decode()

        assert job in page
        assert str(other.pk) not in page
