"""An operator moves jobs to the front of the queue."""

import pytest
from django.db.models.functions import Now

from jobs.models import ApiKey, Event, Job
from jobs.models.clock import seconds
from jobs.queue import engines, estimate
from jobs.queue.claim import claim_render
from jobs.queue.front import move_to_front
from tests.factories import make_job

pytestmark = pytest.mark.django_db


def moved(*jobs):
    return move_to_front(Job.objects.filter(pk__in=[job.pk for job in jobs]), "by me")


def test_it_is_claimed_before_those_of_a_higher_priority(engine):
    make_job(priority=5)
    job = make_job()

    assert moved(job) == 1

    assert claim_render(engine).job == job
    assert Event.objects.get(kind=Event.Kind.MOVED).detail == "by me"


def test_several_keep_their_order(engine):
    make_job(), make_job()
    jobs = [make_job(), make_job()]

    moved(*reversed(jobs))

    assert [claim_render(engine).job for _ in jobs] == jobs


def test_what_is_begun_or_finished_stays_where_it_is(engine):
    make_job()
    claimed = claim_render(engine).job

    assert moved(claimed, make_job(status="failed")) == 0


def test_it_takes_no_turn_from_others_of_its_key(engine):
    key = ApiKey.objects.create(name="shop")
    jobs = [make_job(key=key) for _ in range(3)]

    moved(jobs[2])

    assert [claim_render(engine).job for _ in jobs] == [jobs[2], jobs[0], jobs[1]]


def test_a_paused_engine_claims_nothing_and_promises_nothing(engine):
    make_job(status="completed", work=1000, started_at=Now() - seconds(100))
    job = make_job(work=1000)
    assert estimate.seconds_left(job) is not None

    engines.pause(type(engine).objects.all(), "by me")
    engine.refresh_from_db()

    assert claim_render(engine) is None
    engine.paused = False  # as its worker may still believe
    assert claim_render(engine) is None
    assert estimate.seconds_left(job) is None
    assert engines.hindrance(job) == "Every GPU server that answers is paused."


def test_the_outlook_is_what_each_job_is_told(engine, django_assert_num_queries):
    make_job(status="completed", work=1000, started_at=Now() - seconds(100))
    make_job(status="processing", engine=engine, work=1000, lease_until=Now() + seconds(30))
    jobs = [make_job(work=1000) for _ in range(3)]

    with django_assert_num_queries(4):
        left = estimate.outlook(2)

    assert [left[job.pk] for job in jobs[:2]] == [estimate.seconds_left(job) for job in jobs[:2]]
    assert jobs[2].pk not in left
