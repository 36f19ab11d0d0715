"""The Idempotency-Key of POST /generate."""

import base64
import threading

import boto3
import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.key import ApiKey
from jobs.queue.submit import submitted_with
from tests.factories import make_job, picture
from tests.stack import KEY, S3_URL

pytestmark = pytest.mark.django_db


def post(client, body=None, key="abc", **options):
    return client.post(
        "/generate",
        {"prompt": "A cat"} | (body or {}),
        content_type="application/json",
        headers={"X-API-Key": KEY, "Idempotency-Key": key},
        **options,
    )


def test_the_same_request_gets_the_first_answer_again(client):
    make_job()
    first = post(client)
    Job.objects.filter(pk=first.json()["job_id"]).update(status="processing", started_at=Now())

    again = post(client)

    assert again.status_code == 200
    assert again.json() == first.json() == first.json() | {"status": "queued", "position": 1}


def test_another_body_is_a_422(client):
    post(client)

    answer = post(client, {"prompt": "A dog"})

    assert answer.status_code == 422
    assert "new key" in answer.json()["detail"]
    assert Job.objects.count() == 1


def test_another_key_is_another_job(client):
    assert post(client, key="a").json()["job_id"] != post(client, key="b").json()["job_id"]


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({}, {"image_url": None, "image_base64": "", "size": "", "seed": None, "unknown": 1}),
        ({"seed": 1, "fps": 8}, {"fps": 8.0, "seed": 1.0}),
    ],
)
def test_the_same_in_another_form_is_the_same_body(client, first, again):
    assert post(client, first).json() == post(client, again).json()


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({"seed": 1}, {"seed": 2}),
        ({"seed": 1}, {"seed": True}),
        ({"num_frames": 81}, {"seconds": 81}),
        ({}, {"size": "832x480"}),
        ({}, {"last_image_base64": "AAAA"}),
        ({}, {"image_url": False}),
    ],
)
def test_another_parameter_is_another_body(client, first, again):
    post(client, first)

    assert post(client, again).status_code == 422


def test_after_a_day_a_key_is_free(client):
    first = post(client).json()["job_id"]
    Job.objects.update(created_at=Now() - seconds(24 * 3600 + 1))

    assert post(client).json()["job_id"] != first
    assert Job.objects.count() == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb"])
def test_it_refuses_a_key_that_is_none(client, key):
    assert post(client, key=key).status_code == 400


def test_a_refused_request_does_not_use_up_its_key(client):
    assert post(client, {"prompt": ""}).status_code == 400
    assert post(client).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_makes_the_job_and_all_get_its_answer():
    body = {"image_base64": base64.b64encode(picture()).decode()}
    answers, barrier = [], threading.Barrier(8)

    def client():
        barrier.wait()
        answers.append(post(Client(), body).json()["job_id"])
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    [job] = Job.objects.all()
    assert answers == [str(job.pk)] * 8
    boto3.client("s3", endpoint_url=S3_URL).head_object(Bucket="wanapi", Key=job.input_key)


def test_at_the_limit_of_a_key_the_same_request_still_gets_the_first_answer(client, monkeypatch):
    """Also when the first one took the last place after the second had looked for it."""
    _, text = ApiKey.objects.make(name="shop", max_queued=1)
    headers = {"X-API-Key": text, "Idempotency-Key": "abc"}

    def ask():
        return client.post("/generate", {"prompt": "A cat"}, "application/json", headers=headers)

    first, looks = ask(), []
    monkeypatch.setattr(
        "jobs.api.intake.submitted_with",
        lambda *args: submitted_with(*args) if looks else looks.append(1),
    )

    assert (ask().status_code, ask().json()) == (200, first.json())
    assert Job.objects.count() == 1
