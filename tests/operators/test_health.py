"""GET /health: the truth about the model and the current job, and an answer whatever Postgres does."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from jobs.api.views import HealthView
from jobs.models.clock import seconds
from jobs.models.engine import Engine
from jobs.operators import health
from jobs.queue import engines
from tests.factories import make_job, runs
from wanapi.within import Threads

pytestmark = pytest.mark.django_db(transaction=True)  # the view looks from a thread of its own

NOTHING_KNOWN = {"status": "ok", "model_loaded": False, "current_job": None}


@pytest.fixture(autouse=True)
def database(monkeypatch):
    """The settings of its connections, for a test to spoil; the view's threads leave none open."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
    with Threads(2) as threads:
        monkeypatch.setattr(HealthView, "_threads", threads)
        yield connection.settings_dict


def ask(client):
    began = time.monotonic()
    answer = client.get("/health")
    assert (answer.status_code, time.monotonic() - began < 3) == (200, True)
    return answer.json()


def test_it_needs_no_key_and_has_exactly_the_fields_of_the_reference(client):
    assert ask(client) == {"status": "ok", "model_loaded": False, "current_job": None}


def test_a_wrong_key_does_no_harm(client):
    assert client.get("/health", headers={"X-API-Key": "wrong"}).status_code == 200


class TestModelLoaded:
    def test_with_an_engine_that_answers_and_lacks_nothing(self, client, engine):
        assert ask(client)["model_loaded"] is True

    def test_not_when_its_last_report_is_older_than_30_seconds(self, client, engine):
        Engine.objects.update(seen_at=Now() - seconds(31))

        assert ask(client)["model_loaded"] is False

    def test_still_when_it_reported_a_moment_less_ago(self, client, engine):
        Engine.objects.update(seen_at=Now() - seconds(25))

        assert ask(client)["model_loaded"] is True

    def test_not_when_a_model_file_is_missing(self, client, engine):
        engines.report_well(
            engine, version="test", runs=runs("fast/text-to-video"), lacks=["vae/x.safetensors"]
        )

        assert ask(client)["model_loaded"] is False

    def test_not_when_its_comfyui_stopped_answering(self, client, engine):
        engines.report_unreachable(engine)

        assert ask(client)["model_loaded"] is False

    def test_not_when_its_worker_left(self, client, engine):
        engines.release(engine)

        assert ask(client)["model_loaded"] is False

    def test_one_good_engine_of_two_is_enough(self, client, engine):
        Engine.objects.create(name="other", url="http://other")

        assert ask(client)["model_loaded"] is True

    def test_two_that_can_run_one_kind_each_are_enough(self, client, engine):
        engines.report_well(
            engine,
            version="test",
            runs=runs("fast/text-to-video", "fast/first-last-frame"),
            lacks=["vae/x.safetensors"],
        )
        other = engines.hold(name="other", url="http://other", worker="other")
        engines.report_well(
            other, version="test", runs=runs("fast/image-to-video"), lacks=["vae/y.safetensors"]
        )

        assert ask(client)["model_loaded"] is True


class TestCurrentJob:
    def test_it_is_the_oldest_of_those_being_processed(self, client):
        make_job(status="processing", started_at=Now() - seconds(5))
        oldest = make_job(status="processing", started_at=Now() - seconds(60))
        make_job(status="processing")

        assert ask(client)["current_job"] == str(oldest.pk)

    def test_a_job_that_only_waits_or_is_finished_is_none(self, client):
        make_job(lease_until=Now() + seconds(30))
        make_job(status="completed")
        make_job(status="failed")

        assert ask(client)["current_job"] is None


class TestWithoutPostgres:
    def test_nothing_listens(self, client, engine, database, monkeypatch):
        monkeypatch.setitem(database, "PORT", "1")

        assert ask(client) == NOTHING_KNOWN

    def test_it_accepts_and_never_answers(self, client, engine, database, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setitem(database, "PORT", str(listener.getsockname()[1]))

            assert ask(client) == NOTHING_KNOWN

    def test_it_hangs_in_the_middle_of_a_query(self, client, engine):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs_job")

            assert ask(client) == NOTHING_KNOWN

    def test_many_questions_while_it_hangs_and_the_truth_afterwards(self, client, engine, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(HealthView, "PATIENCE", 0.1)
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("LOCK TABLE jobs_job")
                answers = [ask(client) for _ in range(5)]

        assert answers == [NOTHING_KNOWN] * 5
        assert ask(client)["model_loaded"] is True


def test_live_asks_nobody(client, monkeypatch):
    monkeypatch.setattr(health, "look", lambda: 1 / 0)

    assert client.get("/health/live").json() == {"status": "ok"}


class TestReady:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr(health, "report", health.Readiness().report)
        with Threads(5) as threads:
            monkeypatch.setattr(health, "_threads", threads)
            yield

    def ready(self, client):
        answer = client.get("/health/ready")
        troubles = answer.json()["parts"]
        assert answer.status_code == (503 if any(troubles.values()) else 200)
        return {part: trouble for part, trouble in troubles.items() if trouble}

    def test_with_every_part_in_order(self, client, engine):
        assert self.ready(client) == {}

    def test_without_an_engine(self, client):
        kinds = "text-to-video or image-to-video or first-last-frame"
        told = f"No engine can render {kinds}: no render worker was ever started."
        assert self.ready(client) == {"engines": told}

    def test_with_one_that_lacks_files_says_which(self, client, engine):
        lacks = [f"loras/{name}" for name in "abcde"]
        engines.report_well(engine, version="test", runs=runs("fast/text-to-video"), lacks=lacks)

        lacking = "lacks loras/a, loras/b, loras/c and 2 more"
        told = f"No engine can render image-to-video or first-last-frame: {lacking}."
        assert self.ready(client) == {"engines": told}

    def test_an_engine_whose_worker_is_of_an_older_release_counts(self, client, engine):
        Engine.objects.update(runs=None)

        assert self.ready(client) == {}

    def test_with_a_postgres_that_only_reads(self, client, engine, database, monkeypatch):
        options = database["OPTIONS"] | {"options": "-c default_transaction_read_only=on"}
        monkeypatch.setitem(database, "OPTIONS", options)

        assert "only reads" in self.ready(client)["database"]

    def test_with_a_sick_one_says_why(self, client, engine):
        engines.report_sick(engine, "ComfyUI runs nothing of its queue; it must be restarted.")

        told = self.ready(client)["engines"]
        assert told.endswith(": ComfyUI runs nothing of its queue; it must be restarted.")

    def test_without_the_bucket(self, client, engine, settings):
        settings.S3_BUCKET = "another"

        assert self.ready(client) == {"storage": "S3 does not let us use the bucket; the log says why."}

    def test_with_a_migration_that_was_not_run(self, client, engine, monkeypatch):
        plan = "django.db.migrations.executor.MigrationExecutor.migration_plan"
        monkeypatch.setattr(plan, lambda *_: ["0099"])

        assert self.ready(client) == {"migrations": "Migrations are missing: run manage.py migrate."}

    def test_with_a_full_disk(self, client, engine, monkeypatch):
        monkeypatch.setattr("jobs.operators.health.LEAST_SPACE", 2**60)

        assert list(self.ready(client)) == ["disk"]

    def test_without_postgres_names_no_host(self, client, engine, database, monkeypatch):
        with monkeypatch.context() as spoilt:
            spoilt.setitem(database, "PORT", 1)
            troubles = self.ready(client)

        assert troubles["database"] == "Postgres does not answer."
        assert "127.0.0.1" not in str(troubles)

    def test_is_not_asked_anew_for_a_moment(self, client, engine, monkeypatch):
        assert self.ready(client) == {}
        monkeypatch.setattr(health, "look", lambda: 1 / 0)

        assert self.ready(client) == {}

    def test_many_who_ask_first_look_once_and_wait_for_it(self, monkeypatch):
        looks = self.looks(monkeypatch)

        with ThreadPoolExecutor(8) as callers:
            answers = [callers.submit(health.report) for _ in range(8)]
            looks.end.set()

        assert [answer.result() for answer in answers] == [{"look": "1"}] * 8

    def test_while_one_looks_anew_all_others_get_the_last_report(self, monkeypatch):
        monkeypatch.setattr(health, "KEPT", -1.0)
        looks = self.looks(monkeypatch)
        looks.end.set()
        assert health.report() == {"look": "1"}
        looks.end.clear()

        with ThreadPoolExecutor(1) as caller:
            anew = caller.submit(health.report)
            looks.begun.acquire(timeout=10)
            assert health.report() == {"look": "1"}
            looks.end.set()

        assert anew.result() == {"look": "2"}

    def looks(self, monkeypatch):
        """Instead of the parts: each look tells which it is, and lasts until ``end`` is set."""
        looks = Mock(end=threading.Event(), begun=threading.Semaphore(0), count=0)

        def look():
            looks.count += 1
            number = looks.count
            if number > 1:
                looks.begun.release()
            assert looks.end.wait(10)
            return {"look": str(number)}

        monkeypatch.setattr(health, "look", look)
        return looks

    def test_parts_that_hang_do_not_hide_the_others_and_share_their_time(self, client, monkeypatch):
        ended, hanging = threading.Event(), ("migrations", "storage", "disk")
        monkeypatch.setattr(health, "PATIENCE", 1.0)
        for part in hanging:
            monkeypatch.setitem(health.PARTS, part, ended.wait)

        began = time.monotonic()
        troubles = self.ready(client)
        spent = time.monotonic() - began
        ended.set()

        assert spent < 2.5
        assert [troubles[part] for part in hanging] == ["There was no answer in time."] * 3
        assert troubles["engines"].startswith("No engine can render")


class TestWhateverTheHost:
    """Balancers and Kubernetes ask by the machine's address, and over plain HTTP."""

    HOSTS = ("10.0.3.17:8000", "[fd00::17]:8000", "a_pod", "other.example.", "a b", "<i>", "", "x" * 300)

    def answers(self, client, path, **extra):
        for host in self.HOSTS:
            answer = client.get(path, headers={"Host": host}, **extra)
            assert not host or host not in f"{answer.headers} {answer.content}"
            yield answer.status_code

    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize("path", ["/health", "/health/", "/health/live", "/health/ready"])
    def test_health_answers_and_says_nothing_of_the_host(self, client, engine, settings, tls, path):
        settings.SECURE_SSL_REDIRECT = tls

        assert set(self.answers(client, path)) == {200}

    def test_so_does_the_port_for_metrics(self, client, settings):
        settings.METRICS_PORT = 9100

        assert set(self.answers(client, "/metrics", SERVER_PORT="9100")) == {200}
        assert set(self.answers(client, "/jobs", SERVER_PORT="9100")) == {400}

    @pytest.mark.parametrize("path", ["/jobs", "/healthy", "/health/live/x", "/docs", "/admin/", "/metrics"])
    def test_every_other_page_keeps_to_the_allowed_hosts(self, api, path):
        assert set(self.answers(api, path)) == {400}
