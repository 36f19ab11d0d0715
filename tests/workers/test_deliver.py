"""Webhooks: signed, sent by the publish cluster, tried again. The receivers here are real ones."""

import multiprocessing
import socket
import threading
import time

import jsonschema
import pytest
from django.db.models.functions import Now
from openai import OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.deliver import deliver
from jobs.media import receivers
from jobs.models import Delivery, Job
from jobs.models.clock import seconds
from jobs.queue import causes
from jobs.queue.claim import claim_render
from jobs.queue.deliveries import PAUSES
from jobs.queue.returns import cancel, purge
from jobs.queue.submit import requeue
from jobs.queue.wake import DELIVER
from jobs.workers import deliver as worker
from jobs.workers.cluster import waiting
from jobs.workers.hold import Places
from jobs.workers.publish import places, publish
from jobs.workers.render import render
from tests.receivers import SECRET, receiving

pytestmark = pytest.mark.django_db


@pytest.fixture
def cancelled(submit, receiver):
    """A job that is cancelled, and its webhook, which was not sent yet."""

    def make(**body):
        job = Job.objects.get(pk=submit(**{"webhook_url": receiver.url} | body))
        cancel(Job.objects.filter(pk=job.pk))
        return job

    return make


def again():
    """Its pause is over."""
    Delivery.objects.pending().update(due_at=Now())
    deliver()


def test_a_jobs_end_is_told_as_both_verifiers_want_it(submit, receiver, quick, engine, api):
    job_id = submit(webhook_url=receiver.url)
    render()
    publish()

    deliver()

    [got] = receiver.got
    event = Webhook(SECRET).verify(got.body, got.headers)
    assert (event["type"], event["id"]) == ("job.completed", got.headers["webhook-id"])
    told, shown = event["data"], api.get(f"/jobs/{job_id}").json()
    for link in ("video_url", "poster_url"):
        assert told.pop(link).split("?")[0] == shown.pop(link).split("?")[0]
    assert told == shown
    unwrapped = OpenAI(api_key="-").webhooks.unwrap(got.body, got.headers, secret=SECRET)
    assert (unwrapped.id, unwrapped.type, unwrapped.object) == (event["id"], "job.completed", "event")
    assert Delivery.objects.get().state == "delivered"


def test_it_is_as_openapi_json_says(cancelled, receiver, api):
    cancelled()
    deliver()

    told, schema = receiver.got[0].event, api.get("/openapi.json").json()
    wanted = schema["webhooks"]["job"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(told, wanted | {"components": schema["components"]})
    assert told.keys() == wanted["properties"].keys()
    assert told["data"].keys() == schema["components"]["schemas"]["WholeJob"]["properties"].keys()


def test_who_does_not_have_the_secret_cannot_take_it_for_ours(cancelled, receiver):
    cancelled()
    deliver()

    [got] = receiver.got
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(got.body.replace(b"job.cancelled", b"job.completed"), got.headers)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (None, ["job.completed"]),
        (["job.started", "job.completed"], ["job.completed", "job.started"]),
        (["job.failed"], []),
    ],
)
def test_what_is_told_can_be_chosen(submit, receiver, quick, engine, asked, told):
    submit(webhook_url=receiver.url, webhook_events=asked)
    render()
    publish()

    deliver()

    assert sorted(receiver.events) == told


def test_a_failure_is_told_as_it_was_also_after_a_requeue_which_is_told_apart(submit, receiver, engine):
    submit(webhook_url=receiver.url)
    claim_render(engine).end(causes.NODE_FAILED, error="It failed.")
    requeue(Job.objects.all())
    claim_render(engine).end(causes.NODE_FAILED, error="It failed again.")

    deliver()

    told = sorted((got.event["data"] for got in receiver.got), key=lambda data: data["attempt"])
    assert [data["status"] for data in told] == ["failed", "failed"]
    assert [(data["attempt"], data["error"]) for data in told] == [(1, "It failed."), (2, "It failed again.")]
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 2


def test_a_client_that_downloads_and_deletes_at_once_still_gets_its_event(
    submit, receiver, quick, engine, api
):
    job_id = submit(webhook_url=receiver.url)
    render()
    publish()
    assert api.delete(f"/jobs/{job_id}").status_code == 204

    deliver()

    [data] = [got.event["data"] for got in receiver.got]
    assert (data["job_id"], data["status"], data["prompt"]) == (job_id, "completed", "A cat")
    assert (data["video_url"], data["poster_url"]) == (None, None)
    assert not Delivery.objects.exists()


def test_what_was_delivered_goes_with_its_job(cancelled):
    job = cancelled()
    deliver()
    purge(job)
    assert not Delivery.objects.exists()


class TestTries:
    @pytest.mark.parametrize("status", [199, 204, 301, 302, 400, 401, 404, 500, 503])
    def test_only_2xx_counts_and_no_redirect_is_followed(self, cancelled, receiver, status):
        receiver.answers, receiver.headers = [status], {"Location": receiver.url}
        cancelled()

        deliver()

        row = Delivery.objects.get()
        assert len(receiver.got) == 1
        assert (row.state, row.answer) == ("delivered" if status == 204 else "pending", status)

    def test_each_try_has_the_same_id_and_a_signature_of_its_own_time(self, cancelled, receiver):
        receiver.answers = [500, 500, 200]
        cancelled()

        deliver(), again(), again()

        assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
        for got in receiver.got:
            Webhook(SECRET).verify(got.body, got.headers)
            assert abs(int(got.headers["webhook-timestamp"]) - got.at) < 5
        row = Delivery.objects.get()
        assert (row.state, row.tries, row.trouble) == ("delivered", 3, "")

    def test_the_pauses_grow_and_the_tenth_try_is_the_last(self, cancelled, receiver):
        receiver.answers = [500] * 20
        cancelled()
        pauses = []

        for _ in range(12):
            again()
            row = Delivery.objects.annotate(pause=Now()).get()
            if row.state == "pending":
                pauses.append((row.due_at - row.pause).total_seconds())

        assert len(receiver.got) == 10
        assert row.state == "failed"
        assert all(least - 5 <= pause <= 1.2 * least for pause, least in zip(pauses, PAUSES, strict=True))

    @pytest.mark.parametrize("header", ["3600", "date"])
    def test_the_receiver_may_ask_for_more_time(self, cancelled, receiver, header):
        from email.utils import formatdate

        after = formatdate(time.time() + 3600, usegmt=True) if header == "date" else header
        receiver.answers, receiver.headers = [503], {"Retry-After": after}
        cancelled()

        deliver()

        assert Delivery.objects.pending().filter(due_at__gt=Now() + seconds(3500)).exists()

    def test_one_that_takes_too_long_is_given_up(self, cancelled, receiver, settings):
        settings.WEBHOOK_TIMEOUT, receiver.hangs = 1, True
        cancelled()

        deliver()

        row = Delivery.objects.get()
        assert (row.state, row.answer, row.trouble) == ("pending", None, "It took longer than 1 seconds.")

    def test_one_that_is_not_there_is_tried_again(self, cancelled, receiver, settings):
        with receiving() as gone:
            settings.WEBHOOK_URL_ALLOW = [gone.own]
        cancelled(webhook_url=gone.url)
        deliver()
        assert Delivery.objects.get().trouble == "It could not be reached, or broke off."

        with receiving(port=gone.server_port) as back:
            again()
            assert back.events == ["job.cancelled"]

    def test_what_the_worker_had_in_hand_when_it_died_is_sent_by_the_next(self, cancelled, receiver):
        from jobs.queue.deliveries import claim

        cancelled()
        [lost] = claim(5, 5)
        deliver()
        assert not receiver.got

        Delivery.objects.update(lease_until=Now())
        deliver()
        lost.finish(worker.Answer(500, "Too late."), 1)

        assert len(receiver.got) == 1
        assert Delivery.objects.get().state == "delivered"


def test_a_slow_receiver_holds_back_nobody_else(cancelled, receiver, settings):
    with receiving() as slow:
        settings.WEBHOOK_URL_ALLOW = [receiver.own, slow.own]
        slow.hangs = True
        for _ in range(3):
            cancelled(webhook_url=slow.url)
        cancelled()

        deliver()

        assert slow.most_at_once == 2
        assert receiver.got[0].at - slow.got[0].at < 1


def test_neither_does_a_name_that_is_looked_up_for_ever(cancelled, receiver, settings, monkeypatch):
    settings.WEBHOOK_TIMEOUT, answered, look_up = 1, threading.Event(), socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        if host == "slow.example":
            answered.wait(30)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    cancelled(webhook_url="https://slow.example/")
    cancelled()

    deliver()

    assert receiver.events == ["job.cancelled"]
    assert Delivery.objects.pending().get().trouble == receivers.late()
    answered.set()


def test_the_tick_finds_what_no_message_told_of(cancelled):
    assert list(waiting(None)) == []
    cancelled()
    assert list(waiting(None)) == [DELIVER]


def test_two_tasks_of_a_cluster_publish_and_others_leave_the_rest_of_it_free(submit, quick, engine):
    submit()
    render()
    with places.one(), places.one():
        publish()
        assert Job.objects.get().status == "processing"

    publish()
    assert Job.objects.get().status == "completed"


def test_a_cluster_delivers_in_one_task_at_a_time(cancelled, receiver):
    cancelled()
    with worker.places.one() as free:
        assert free
        deliver()
    assert not receiver.got

    deliver()
    assert receiver.got


def test_the_place_of_a_task_that_is_killed_is_free_again():
    place, ready = Places(1), multiprocessing.get_context("fork").Event()

    def take():
        with place.one():
            ready.set()
            time.sleep(60)

    task = multiprocessing.get_context("fork").Process(target=take, daemon=True)
    task.start()
    assert ready.wait(20)
    with place.one() as free:
        assert not free
    task.kill()
    task.join()

    with place.one() as free:
        assert free


def test_an_error_that_nobody_planned_is_a_failed_try_and_tells_nothing_of_the_url(
    cancelled, receiver, monkeypatch, caplog
):
    def post(url, *_):
        raise RuntimeError(url)

    monkeypatch.setattr("jobs.media.receivers.post", post)
    cancelled(webhook_url=f"{receiver.url}?token=hush")

    deliver()

    assert Delivery.objects.get().trouble == "The request could not be made."
    assert "hush" not in caplog.text


def test_one_that_cannot_be_told_does_not_stop_the_others(cancelled, receiver):
    broken = cancelled()
    Delivery.objects.filter(job_id=broken.pk).update(told={"kind": "text-to-video"})
    cancelled()

    deliver()

    assert receiver.events == ["job.cancelled"]
    assert "could not be made" in Delivery.objects.pending().get().trouble
