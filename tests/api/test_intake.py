"""jobs.api.intake, the one way in: what comes first, what is left behind, and which requests are the same."""

import base64
import hashlib
import json

import boto3
import pytest
from rest_framework import serializers

from jobs.api import intake
from jobs.api.authentication import Client
from jobs.api.requests import GenerateRequest
from jobs.models import Job
from jobs.models.key import ApiKey
from jobs.queue.submit import submitted_with
from tests.factories import picture
from tests.stack import S3_URL

pytestmark = pytest.mark.django_db


def post(client, body, key="abc"):
    return client.post("/generate", body, "application/json", headers={"Idempotency-Key": key})


def images():
    s3 = boto3.client("s3", endpoint_url=S3_URL)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="wanapi", Prefix="inputs/")
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def test_whoever_comes_second_with_an_idempotency_key_leaves_no_image_in_s3(api, monkeypatch):
    """The second request does not see the first one's job yet when it begins."""
    body, before = {"prompt": "A cat", "image_base64": base64.b64encode(picture()).decode()}, images()
    first, looks = post(api, body).json(), []
    monkeypatch.setattr(
        "jobs.api.intake.submitted_with",
        lambda *args: submitted_with(*args) if looks else looks.append(1),
    )

    assert post(api, body).json() == first

    assert images() - before == {Job.objects.get().input_key}


def test_so_does_whoever_comes_at_the_limit(client, monkeypatch):
    _, text = ApiKey.objects.make(name="shop", max_queued=1)
    client.defaults["HTTP_X_API_KEY"] = text
    body, before = {"prompt": "A cat", "image_base64": base64.b64encode(picture()).decode()}, images()
    for room in ("jobs.api.intake", "jobs.queue.submit"):
        monkeypatch.setattr(f"{room}.check_limits", lambda *_: None)
    post(client, body, "1")
    monkeypatch.undo()
    monkeypatch.setattr("jobs.api.intake.check_limits", lambda key: None)  # it looks again in submit()

    assert post(client, body, "2").status_code == 429

    assert images() - before == {Job.objects.get().input_key}


def test_an_earlier_job_and_a_limit_are_found_before_the_fields_are_looked_at(client):
    _, text = ApiKey.objects.make(name="shop", max_queued=1)
    client.defaults["HTTP_X_API_KEY"] = text
    post(client, {"prompt": "A cat"})

    assert post(client, {"prompt": ""}).status_code == 422
    assert post(client, {"prompt": ""}, key="another").status_code == 429


@pytest.mark.parametrize(
    "image", [{"image_url": "http://127.0.0.1:1/a.png"}, {"image_base64": "no image"}, {}]
)
def test_validation_reads_no_image(image, monkeypatch):
    monkeypatch.setattr("jobs.media.images.normalise", lambda data, shape, fit: 1 / 0)
    body = GenerateRequest(data={"prompt": "A cat"} | image)

    assert body.is_valid()

    source = body.validated_data["image"]
    assert [source.field] == [*image] if image else source is None


class TestFingerprint:
    @pytest.mark.parametrize(
        ("body", "hashed"),
        [
            ({"prompt": "A cat"}, ["A cat", None, None]),
            ({"prompt": " Ä\n", "image_url": "", "image_base64": None, "stepz": 5}, [" Ä\n", None, None]),
            ({"prompt": "A cat", "image_url": " http://a/b "}, ["A cat", " http://a/b ", None]),
            ({"prompt": "A cat", "image_url": "u", "image_base64": "AA=\n"}, ["A cat", "u", "AA=\n"]),
        ],
    )
    def test_jobs_of_earlier_releases_are_known_again(self, body, hashed):
        digest = hashlib.sha256(json.dumps(hashed).encode()).hexdigest()

        assert intake.fingerprint(GenerateRequest(data=body)) == digest

    def test_a_field_that_comes_later_counts(self):
        class Later(GenerateRequest):
            sampler = serializers.CharField(required=False)

        bodies = ({}, {"seed": 0}, {"sampler": "euler"}, {"seed": 1}, {"sampler": "euler", "other": 2})
        found = [intake.fingerprint(Later(data={"prompt": "A cat"} | body)) for body in bodies]

        assert len(set(found)) == 4
        assert found[2] == found[4]
        assert found[0] == intake.fingerprint(GenerateRequest(data={"prompt": "A cat"}))


def test_a_second_door_needs_only_a_serializer(db):
    """Another wire format, with names of its own."""

    class OtherDoor(serializers.Serializer):
        text = serializers.CharField()

        def validate(self, data):
            return {"prompt": data["text"], "image": None, "last_image": None, "asked": {}}

    jobs = [intake.accept(Client(None), OtherDoor(data={"text": "A cat"}), "abc") for _ in range(2)]

    assert jobs[0] == jobs[1] == Job.objects.get()
    assert jobs[0].prompt == "A cat"
