"""What holds for every address: keys, and errors in JSON."""

import pytest

from jobs.models import Job
from tests.factories import make_job

pytestmark = pytest.mark.django_db

PROTECTED = [("post", "/generate"), ("get", "/status/x"), ("get", "/jobs"), ("get", "/jobs/x")]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("key", [None, "", "wrong", "test-key ", "schlüssel", "\x00"])
def test_without_the_right_key_it_is_401(client, method, path, key):
    headers = {} if key is None else {"X-API-Key": key}

    answer = getattr(client, method)(path, headers=headers)

    assert answer.status_code == 401
    assert answer.json() == {"detail": "Send a valid API key in the X-API-Key header."}


def test_the_key_comes_before_the_body(client):
    answer = client.post("/generate", b"{", content_type="application/json")

    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/generate", 405),
        ("delete", "/jobs", 405),
        ("options", "/jobs", 405),
        ("get", "/nothing", 404),
        ("get", "/", 404),
        ("get", "/status/", 404),
        ("get", "/jobs/a/b", 404),
    ],
)
def test_every_error_is_json(api, method, path, status):
    answer = getattr(api, method)(path)

    assert answer.status_code == status
    assert answer["Content-Type"] == "application/json"
    assert list(answer.json()) == ["detail"]


def test_a_fault_of_our_own_is_a_500_that_tells_nothing(api, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("jobs.api.views.get_job", fail)

    answer = api.get("/status/x")

    assert answer.status_code == 500
    assert answer.json() == {"detail": "Something went wrong on our side; it has been logged."}
    assert "a secret" in caplog.text


def test_a_foreign_host_header_is_a_400_in_json(api):
    answer = api.get("/jobs", headers={"host": "evil.example"})

    assert answer.status_code == 400
    assert "ALLOWED_HOSTS" in answer.json()["detail"]


def test_a_database_that_is_away_is_a_503(api, monkeypatch):
    from django.db import OperationalError

    def away(**_):
        raise OperationalError("connection refused on 10.0.0.1")

    monkeypatch.setattr(Job.objects, "all", away)

    answer = api.get(f"/status/{make_job().pk}")

    assert answer.status_code == 503
    assert answer.json() == {"detail": "The database is not available; please try again later."}
