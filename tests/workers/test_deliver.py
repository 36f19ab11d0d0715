"""Webhooks: signed, sent by the publish cluster, tried again. The receivers here are real ones."""

import pytest
from openai import OpenAI
from standardwebhooks import Webhook

from jobs.deliver import deliver
from jobs.models import Delivery, Job
from jobs.queue.returns import cancel
from jobs.workers.publish import publish
from jobs.workers.render import render
from tests.receivers import receiving

pytestmark = pytest.mark.django_db
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver(settings):
    settings.WEBHOOK_SECRETS = [SECRET]
    with receiving() as receiver:
        settings.WEBHOOK_URL_ALLOW = [receiver.own]
        yield receiver


def test_a_jobs_end_is_told_as_both_verifiers_want_it(submit, receiver, quick, engine, api):
    job_id = submit(webhook_url=receiver.url)
    render()
    publish()

    deliver()

    [got] = receiver.got
    event = Webhook(SECRET).verify(got.body, got.headers)
    assert event["type"] == "job.completed"
    assert event["id"] == got.headers["webhook-id"]
    told, shown = event["data"], api.get(f"/jobs/{job_id}").json()
    assert told.pop("video_url").split("?")[0] == shown.pop("video_url").split("?")[0]
    assert told.pop("poster_url").split("?")[0] == shown.pop("poster_url").split("?")[0]
    assert told == shown
    unwrapped = OpenAI(api_key="-").webhooks.unwrap(got.body, got.headers, secret=SECRET)
    assert (unwrapped.type, unwrapped.object) == ("job.completed", "event")
    assert Delivery.objects.get().state == "delivered"


def test_a_cancelled_job_is_told(submit, receiver):
    submit(webhook_url=receiver.url)
    cancel(Job.objects.all())
    deliver()
    assert receiver.events == ["job.cancelled"]
