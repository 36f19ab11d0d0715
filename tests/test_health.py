"""GET /health: the truth about the model and the current job, and an answer whatever Postgres does."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from jobs.engines import Engine, seconds
from jobs.views import HealthView
from tests.conftest import make_job

pytestmark = pytest.mark.django_db(transaction=True)  # the view looks from a thread of its own

NOTHING_KNOWN = {"status": "ok", "model_loaded": False, "current_job": None}


@pytest.fixture(autouse=True)
def database(monkeypatch):
    """The settings of its connections, for a test to spoil; the view's threads leave none open."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
    with ThreadPoolExecutor(max_workers=2) as threads:
        monkeypatch.setattr(HealthView, "_threads", threads)
        yield connection.settings_dict


def health(client):
    began = time.monotonic()
    answer = client.get("/health")
    assert (answer.status_code, time.monotonic() - began < 3) == (200, True)
    return answer.json()


def test_it_needs_no_key_and_has_exactly_the_fields_of_the_reference(client):
    assert health(client) == {"status": "ok", "model_loaded": False, "current_job": None}


def test_a_wrong_key_does_no_harm(client):
    assert client.get("/health", headers={"X-API-Key": "wrong"}).status_code == 200


class TestModelLoaded:
    def test_with_an_engine_that_answers_and_lacks_nothing(self, client, engine):
        assert health(client)["model_loaded"] is True

    def test_not_when_its_last_report_is_older_than_30_seconds(self, client, engine):
        Engine.objects.update(seen_at=Now() - seconds(31))

        assert health(client)["model_loaded"] is False

    def test_still_when_it_reported_a_moment_less_ago(self, client, engine):
        Engine.objects.update(seen_at=Now() - seconds(25))

        assert health(client)["model_loaded"] is True

    def test_not_when_a_model_file_is_missing(self, client, engine):
        engine.report(version="test", lacks=["umt5_xxl_fp8_e4m3fn_scaled.safetensors"])

        assert health(client)["model_loaded"] is False

    def test_not_when_its_comfyui_stopped_answering(self, client, engine):
        engine.report_unreachable()

        assert health(client)["model_loaded"] is False

    def test_not_when_its_worker_left(self, client, engine):
        engine.release()

        assert health(client)["model_loaded"] is False

    def test_one_good_engine_of_two_is_enough(self, client, engine):
        Engine.objects.create(name="other", url="http://other")

        assert health(client)["model_loaded"] is True


class TestCurrentJob:
    def test_it_is_the_oldest_of_those_being_processed(self, client):
        make_job(status="processing", started_at=Now() - seconds(5))
        oldest = make_job(status="processing", started_at=Now() - seconds(60))
        make_job(status="processing")

        assert health(client)["current_job"] == str(oldest.pk)

    def test_a_job_that_only_waits_or_is_finished_is_none(self, client):
        make_job(lease_until=Now() + seconds(30))
        make_job(status="completed")
        make_job(status="failed")

        assert health(client)["current_job"] is None


class TestWithoutPostgres:
    def test_nothing_listens(self, client, engine, database, monkeypatch):
        monkeypatch.setitem(database, "PORT", "1")

        assert health(client) == NOTHING_KNOWN

    def test_it_accepts_and_never_answers(self, client, engine, database, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setitem(database, "PORT", str(listener.getsockname()[1]))

            assert health(client) == NOTHING_KNOWN

    def test_it_hangs_in_the_middle_of_a_query(self, client, engine):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs_job")

            assert health(client) == NOTHING_KNOWN

    def test_many_questions_while_it_hangs_and_the_truth_afterwards(self, client, engine, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(HealthView, "PATIENCE", 0.1)
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("LOCK TABLE jobs_job")
                answers = [health(client) for _ in range(5)]

        assert answers == [NOTHING_KNOWN] * 5
        assert health(client)["model_loaded"] is True
