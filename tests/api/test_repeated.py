"""OpenAI's libraries send a create again when they get no answer, without an idempotency key. Only a header
says that it is a repetition. It is the same job, also while the first request is still under way."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import boto3
import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.key import ApiKey
from tests.factories import eventually, picture
from tests.stack import KEY, S3_URL

pytestmark = pytest.mark.django_db(transaction=True)


def create(retries=0, *, key=KEY, idempotency_key=None, **fields):
    headers = {"Authorization": f"Bearer {key}", "X-Stainless-Retry-Count": str(retries)}
    headers |= {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return Client().post("/v1/videos", {"prompt": "A cat"} | fields, headers=headers)


def made(*args, **fields):
    answer = create(*args, **fields)
    assert answer.status_code == 200, answer.content
    return answer.json()["id"]


@pytest.fixture
def at_once():
    """Calls it in a thread of its own."""
    with ThreadPoolExecutor(16) as threads:

        def call(work):
            def closing():
                try:
                    return work()
                finally:
                    connection.close()

            return threads.submit(closing)

        yield call


@pytest.fixture
def under_way(own, at_once):
    """Begins a create, up to where its image is fetched. The result is its answer to be, and what lets it go
    on."""

    def begin(retries: int, **fields) -> tuple[Future, threading.Event]:
        count = len(own.held)
        answer = at_once(partial(create, retries, reference_url=f"{own.url}/held", **fields))
        eventually(lambda: len(own.held) > count or answer.done())
        return answer, own.held[count] if len(own.held) > count else threading.Event()

    return begin


def stored(job_id):
    s3 = boto3.client("s3", endpoint_url=S3_URL)
    listed = s3.list_objects_v2(Bucket="wanapi", Prefix="inputs/").get("Contents", [])
    return f"inputs/{job_id}.png" in [item["Key"] for item in listed]


def test_it_is_the_newest_equal_job():
    made(seconds="2")
    newest = made(seconds="2")

    assert made(1, seconds="2") == made(2, seconds="2") == newest
    assert Job.objects.count() == 2


def test_without_the_mark_an_equal_one_is_a_new_job():
    assert made() != made()


@pytest.mark.parametrize("retries", ["", "0", "00", "x", "-1", "²"])
def test_what_is_no_count_is_no_mark(retries):
    assert made() != made(retries)


def test_another_request_another_key_and_another_file_are_others():
    _, text = ApiKey.objects.make(name="shop")
    first = made(seconds="2")

    others = [made(1, seconds="3"), made(1, seconds="2", key=text), made(1, seconds="2", seed="5")]

    assert len({first, *others}) == 4


def test_files_count_by_their_content(tmp_path):
    def send(retries, size):
        path = tmp_path / "cat.png"
        path.write_bytes(picture(*size))
        with path.open("rb") as file:
            return made(retries, input_reference=file)

    first = send(0, (64, 48))

    assert send(1, (64, 48)) == first
    assert send(1, (48, 64)) != first


def test_after_a_quarter_of_an_hour_it_is_a_new_job():
    first = made()
    Job.objects.update(created_at=Now() - seconds(15 * 60 + 1))

    assert made(1) != first


def test_one_that_was_deleted_is_not_answered():
    first = made()
    Job.objects.update(deleted=True, status="cancelled", error="x", finished_at=Now())

    assert made(1) != first


def test_an_idempotency_key_says_it_better():
    first = made(idempotency_key="a")

    assert made(1, idempotency_key="b") != first
    assert made(1, idempotency_key="a") == first


class TestWhileTheFirstIsUnderWay:
    def test_the_repetition_may_come_to_its_end_first(self, under_way):
        first, first_goes_on = under_way(0)
        second, second_goes_on = under_way(1)

        second_goes_on.set()
        job_id = second.result().json()["id"]
        first_goes_on.set()

        assert first.result().json()["id"] == job_id == str(Job.objects.get().pk)
        assert stored(job_id)

    def test_or_the_first(self, under_way):
        first, first_goes_on = under_way(0)
        second, second_goes_on = under_way(1)

        first_goes_on.set()
        job_id = first.result().json()["id"]
        second_goes_on.set()

        assert second.result().json()["id"] == job_id == str(Job.objects.get().pk)

    def test_the_image_of_whoever_comes_second_is_removed(self, under_way):
        first, first_goes_on = under_way(0)
        second, second_goes_on = under_way(1)
        before = boto3.client("s3", endpoint_url=S3_URL).list_objects_v2(Bucket="wanapi", Prefix="inputs/")

        for request, goes_on in ((second, second_goes_on), (first, first_goes_on)):
            goes_on.set()
            request.result()

        after = boto3.client("s3", endpoint_url=S3_URL).list_objects_v2(Bucket="wanapi", Prefix="inputs/")
        assert after["KeyCount"] == before["KeyCount"] + 1

    def test_the_next_that_is_wanted_is_a_new_job(self, under_way):
        first, first_goes_on = under_way(0)
        second, second_goes_on = under_way(1)
        second_goes_on.set()
        second.result()

        third, third_goes_on = under_way(0)
        first_goes_on.set()
        third_goes_on.set()

        assert first.result().json()["id"] == second.result().json()["id"]
        assert third.result().json()["id"] != first.result().json()["id"]
        assert Job.objects.count() == 2

    def test_a_repetition_stands_for_one_of_two_that_were_wanted(self, under_way):
        first, another, repetition = under_way(0), under_way(0), under_way(1)

        ids = []
        for answer, goes_on in (repetition, first, another):
            goes_on.set()
            ids.append(answer.result().json()["id"])

        assert ids[0] == ids[1] != ids[2]

    def test_also_at_the_limit_of_the_key(self, under_way):
        _, text = ApiKey.objects.make(name="shop", max_queued=1, max_per_day=1)
        first, first_goes_on = under_way(0, key=text)
        second, second_goes_on = under_way(1, key=text)

        second_goes_on.set()
        job_id = second.result().json()["id"]
        first_goes_on.set()

        assert first.result().json()["id"] == job_id
        again, _ = under_way(2, key=text)
        assert again.result().json()["id"] == job_id
        assert create(key=text).status_code == 429


@pytest.mark.parametrize("_", range(5))
def test_of_many_at_once_one_makes_the_job(at_once, monkeypatch, _):
    """All of them have arrived, and found no earlier job, when the first one is accepted."""
    barrier = threading.Barrier(10)
    monkeypatch.setattr("jobs.api.intake.check_limits", lambda key: barrier.wait())

    answers = [at_once(partial(made, retries)) for retries in (0, *[1, 2] * 4, 1)]

    assert {answer.result() for answer in answers} == {str(Job.objects.get().pk)}


def test_two_that_were_wanted_at_once_are_two(at_once, monkeypatch):
    barrier = threading.Barrier(2)
    monkeypatch.setattr("jobs.api.intake.check_limits", lambda key: barrier.wait())

    answers = [at_once(made) for _ in range(2)]

    assert len({answer.result() for answer in answers}) == 2
