"""wanapi/postgres/listener.py: what Postgres tells, and what the queue tells through it."""

import pytest
from django.db import connection

from jobs.models import Event, Job
from jobs.queue.change import change
from jobs.queue.claim import claim_render
from jobs.queue.wake import CHANGED, tell_of_change
from tests.factories import make_job
from wanapi.postgres.listener import Listener

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def listener():
    listener = Listener(CHANGED)
    listener.heard()
    return listener


def test_every_change_of_a_job_is_told(listener, engine):
    job = make_job()
    told = [str(job.pk)]

    claim = claim_render(engine)
    assert listener.heard() == told
    claim.begin(engine, {})
    assert listener.heard() == told
    claim.started()
    assert listener.heard() == told
    claim.advanced(50)
    assert listener.heard() == told
    change(Job.objects.all(), Event.Kind.LAPSED)
    assert listener.heard() == told


def test_it_listens_again_on_a_new_connection(listener):
    connection.close()

    assert listener.heard() == []
    tell_of_change([make_job()])
    assert len(listener.heard()) == 1
