"""The job's states under any order of events: Hypothesis plays workers, operators, clients and the clock.

Workers keep their claims after they lost them and go on writing. What must then happen is told by a model
that knows only who claimed what: a write of the holder succeeds, any other changes no row.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection
from django.db.models.functions import Now
from django_q.models import OrmQ
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from comfy.workflow import PAIRS
from jobs.models import Job
from jobs.models.engine import Engine, seconds
from jobs.models.job import FINAL, ClaimLost
from tests.factories import FULL, make_job, no_graph

EXAMPLES, STEPS = (150, 100) if FULL else (15, 60)
INTERLEAVINGS = 1000 if FULL else 50
COUNTERS = ("lost", "out_of_memory", "lapses", "publish_tries")
VIDEO = {"size": 1, "frames": 81, "sha256": "0" * 64}
PAST = Now() - seconds(1)
LEGAL = {
    ("queued", "processing"),
    ("queued", "cancelled"),
    ("queued", "failed"),  # refused by ComfyUI, or given up
    ("processing", "queued"),
    ("processing", "completed"),
    ("processing", "failed"),
    ("processing", "cancelled"),
}
workers = st.sampled_from(["worker 1", "worker 2", "worker 3"])
ENGINES = ["gpu 1", "gpu 2"]
engines = st.sampled_from(ENGINES)


class Jobs(RuleBasedStateMachine):
    renders, publishes = Bundle("renders"), Bundle("publishes")  # claims, held or lost
    steps = 0

    def __init__(self):
        super().__init__()
        for model in (Job, Engine, OrmQ):
            model.objects.all().delete()
        Engine.objects.bulk_create(Engine(name=name, url="http://gpu") for name in ENGINES)
        Job.objects.submit(Job(kind="text-to-video", prompt="A cat"))
        Jobs.steps -= 1  # the look before the first step
        self.held = {}  # job id -> fence of its live claim
        self.expired = set()  # those of them whose lease ran out
        self.counted, self.requeued = set(), set()  # by the rule that was just played
        self.before = {}

    def table(self):
        return {row["id"]: row for row in Job.objects.values()}

    def write(self, job, method, *args, releases=False, counts=None, **options):
        """A worker's write, by a claim that it may have lost long ago."""
        live = self.held.get(job.pk) == job.fence
        before = self.table()
        try:
            getattr(job, method)(*args, **options)
        except ClaimLost:
            assert not live, f"{method}: the holder was refused"
            assert self.table() == before, f"{method}: a stale write changed a row"
            return
        assert live, f"{method}: a stale write was accepted"
        self.counted = {counts, "lapses"}
        if releases:
            del self.held[job.pk]

    # The client and the operator

    @rule()
    def submit(self):
        if Job.objects.exclude(status__in=FINAL).count() < 2:  # few, so that events meet on one job
            Job.objects.submit(Job(kind="text-to-video", prompt="A cat"))

    @rule(data=st.data())
    def cancel(self, data):
        job = self.one(data)
        if job and Job.objects.filter(pk=job.pk).cancel():
            assert job.status not in FINAL
            self.held.pop(job.pk, None)

    @rule(data=st.data())
    def requeue(self, data):
        job = self.one(data)
        if job:
            requeued = Job.objects.filter(pk=job.pk).requeue()
            assert bool(requeued) == (job.status in ("failed", "cancelled"))
            self.requeued = {job.pk} if requeued else set()

    def one(self, data):
        """Some job, as it is now."""
        jobs = list(Job.objects.in_order())
        return data.draw(st.sampled_from(jobs)) if jobs else None

    # The clock

    @rule(data=st.data(), noticed=st.booleans())
    def lease_runs_out(self, data, noticed):
        job = self.one(data)
        if job and job.pk in self.held:
            Job.objects.filter(pk=job.pk).update(lease_until=PAST)
            self.expired.add(job.pk)
        if noticed:
            self.tick()

    @rule(name=engines)
    def engine_lease_runs_out(self, name):
        Engine.objects.filter(name=name, lease_until__isnull=False).update(lease_until=PAST)

    @rule(name=engines)
    def engine_falls_silent(self, name):
        Engine.objects.filter(name=name).update(seen_at=Now() - seconds(3600), lease_until=None, worker="")

    @rule()
    def pauses_end(self):
        Job.objects.exclude(not_before=None).update(not_before=PAST)

    def tick(self):
        lapsed = {pk for pk in self.held if pk in self.expired}
        assert Job.objects.return_expired() == len(lapsed)
        self.drop(lapsed)

    def drop(self, lapsed):
        self.counted = {"lapses"}
        for pk in lapsed:
            del self.held[pk]

    # The workers

    def hold_engine(self, name, worker):
        theirs = Job.objects.filter(engine__name=name, rendered_at=None).exclude(worker=worker)
        theirs = set(theirs.values_list("pk", flat=True)) & self.held.keys()
        mine = Engine.objects.held_by(worker).filter(name=name).exists()
        if Engine.objects.filter(worker=worker).exclude(name=name).exists():
            return  # a worker has one engine
        engine = Engine.objects.hold(name=name, url="http://gpu", worker=worker)
        if engine:
            assert engine.worker == worker
            engine.report(version="", runs=PAIRS, lacks=[])
            self.drop(set() if mine else theirs)

    @rule(name=engines)
    def release_engine(self, name):
        Engine.objects.get(name=name).release()

    @rule(target=renders, name=engines, worker=workers, suspects=st.booleans())
    def claim_render(self, name, worker, suspects):
        self.hold_engine(name, worker)
        engine = Engine.objects.get(name=name)
        engine.worker = worker  # what it believes
        holds = Engine.objects.held_by(worker).filter(name=name, ready=True).exists()
        job = Job.objects.claim_render(engine, suspects=suspects)
        if job is None:
            return multiple()
        assert holds
        assert suspects or job.lapses < 2
        if job.engine and job.engine != engine:
            assert Engine.objects.silent().filter(pk=job.engine.pk).exists()
        return self.claimed(job)

    @rule(target=publishes, worker=workers)
    def claim_publish(self, worker):
        job = Job.objects.claim_publish(worker)
        return self.claimed(job) if job else multiple()

    def claimed(self, job):
        assert job.pk not in self.held, "claimed twice"
        self.held[job.pk] = job.fence
        self.expired.discard(job.pk)
        return job

    @rule(job=renders | publishes)
    def heartbeat(self, job):
        Job.objects.renew({job.pk: job.fence})
        if self.held.get(job.pk) == job.fence:
            self.expired.discard(job.pk)

    @rule(job=renders)
    def begin(self, job):
        engine = Engine.objects.held_by(job.worker).first()
        if engine and job.status == "queued":  # what a worker saw start, it does not begin
            self.write(job, "begin", engine, no_graph)

    @rule(job=renders)
    def started(self, job):
        self.write(job, "started")

    @rule(job=renders, progress=st.integers(1, 99))
    def advanced(self, job, progress):
        if job.started_at:
            self.write(job, "advanced", progress)

    @rule(job=renders)
    def rendered(self, job):
        self.write(job, "rendered", "1_00001_.mp4", releases=True)

    @rule(job=renders)
    def handed_back(self, job):
        self.write(job, "hand_back", "because", releases=True)

    @rule(job=renders)
    def lost_prompt(self, job):
        self.write(job, "snooze", "because", releases=True)

    @rule(job=renders)
    def ran_out_of_memory(self, job):
        self.write(job, "ran_out_of_memory", releases=True, counts="out_of_memory")

    @rule(job=renders | publishes)
    def lost_render(self, job):
        self.write(job, "lost_render", releases=True, counts="lost")

    @rule(job=renders | publishes)
    def failed(self, job):
        self.write(job, "failed", "It failed.", reason="other", releases=True)

    @rule(job=publishes)
    def published_later(self, job):
        self.write(job, "publish_later", releases=True, counts="publish_tries")

    @rule(job=consumes(publishes), twice=st.booleans())
    def completed(self, job, twice):
        self.write(job, "completed", **VIDEO, releases=True)
        if twice and job.status == "completed":  # the answer to the first commit was lost
            before = self.table()
            job.completed(**VIDEO)
            assert self.table() == before

    # What holds after every step

    @invariant()
    def the_rows_are_as_the_model_says(self):
        Jobs.steps += 1
        after = self.table()
        for pk, row in after.items():
            assert (row["lease_until"] is not None) == (pk in self.held)
            assert row["fence"] == self.held.get(pk, row["fence"])
            assert (row["status"] in FINAL) == (row["finished_at"] is not None)
            if pk in self.before:
                self.legal(self.before[pk], row)
        self.before, self.counted, self.requeued = after, set(), set()

    def legal(self, old, new):
        change = (old["status"], new["status"])
        if new["id"] in self.requeued:
            assert old["status"] in ("failed", "cancelled")
            assert [new[name] for name in (*COUNTERS, "attempt", "status")] == [0, 0, 0, 0, 0, "queued"]
            return
        assert change[0] == change[1] or change in LEGAL
        assert old["status"] != "completed" or new == old
        assert new["render"] >= old["render"]
        assert new["fence"] - old["fence"] in ((0, 1) if new["id"] in self.held else (0,))
        for name in COUNTERS:
            assert new[name] - old[name] in ((0, 1) if name in self.counted else (0,)) or (
                name == "lapses" and new[name] == 0
            )

    def teardown(self):
        """Whatever had happened: one healthy worker brings every job to its end."""
        Engine.objects.update(worker="", lease_until=None)
        Job.objects.exclude(lease_until=None).update(lease_until=PAST)
        Job.objects.return_expired()
        Job.objects.exclude(not_before=None).update(not_before=PAST)
        for name in ENGINES:
            engine = Engine.objects.hold(name=name, url="http://gpu", worker=name)
            engine.report(version="", runs=PAIRS, lacks=[])
            while job := Job.objects.claim_render(engine):
                job.begin(engine, no_graph)
                job.started()
                job.rendered("1_00001_.mp4")
        while job := Job.objects.claim_publish("publisher"):
            job.completed(**VIDEO)
        assert not Job.objects.exclude(status__in=FINAL).exists()


@pytest.mark.django_db
def test_any_order_of_events(figure):
    Jobs.steps = 0

    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize=not FULL,
            suppress_health_check=list(HealthCheck),
        ),
    )

    figure("the job's states under any order of events", f"{Jobs.steps:,} steps, no illegal one")
    assert Jobs.steps >= (10_000 if FULL else 500)


# Two at once


def held_job(stage):
    """A job in the hands of worker 1."""
    engine = Engine.objects.hold(name="gpu", url="http://gpu", worker="worker 1")
    engine.report(version="", runs=PAIRS, lacks=[])
    make_job()
    job = Job.objects.claim_render(engine)
    job.begin(engine, no_graph)
    job.started()
    if stage == "publish":
        job.rendered("1_00001_.mp4")
        job = Job.objects.claim_publish("worker 1")
    return job


def take_over(how, stage):
    """Cancels the job, or lets its lease run out and claims it; None if there was nothing to claim."""
    if how == "cancel":
        return Job.objects.all().cancel()
    Job.objects.exclude(lease_until=None).update(lease_until=PAST)
    Job.objects.return_expired()
    Engine.objects.update(worker="worker 2", ready=True, lease_until=Now() + seconds(60))
    return claim_again(stage)


def claim_again(stage):
    if stage == "publish":
        return Job.objects.claim_publish("worker 2")
    return Job.objects.claim_render(Engine.objects.get())


WRITES = {
    "render": [
        lambda job: job.advanced(50),
        lambda job: job.rendered("x.mp4"),
        lambda job: job.lost_render(),
        lambda job: job.hand_back("because"),
        lambda job: job.failed("It failed.", reason="other"),
    ],
    "publish": [
        lambda job: job.completed(**VIDEO),
        lambda job: job.publish_later(),
        lambda job: job.lost_render(),
        lambda job: job.failed("It failed.", reason="other"),
    ],
}


@pytest.mark.django_db(transaction=True)
def test_a_stale_workers_write_at_the_moment_of_the_takeover(figure):
    """Whichever comes first in Postgres: the write was the holder's, or it left no trace."""
    dice, refused = random.Random(4), 0

    def write_at_once(job, write, barrier):
        barrier.wait()
        try:
            write(job)
        except ClaimLost:
            return False
        return True

    with ThreadPoolExecutor(1) as other:
        for _ in range(INTERLEAVINGS):
            Job.objects.all().delete()
            Engine.objects.all().delete()
            stage, how = dice.choice(["render", "publish"]), dice.choice(["cancel", "claim"])
            job, barrier = held_job(stage), Barrier(2)
            stale = Job.objects.get()
            wrote = other.submit(write_at_once, stale, dice.choice(WRITES[stage]), barrier)
            barrier.wait()
            taken_over = take_over(how, stage)
            if not wrote.result():
                refused += 1
                if not taken_over:  # the stale write had locked the row to look at it, and claims skip such
                    claim_again(stage)
                row = Job.objects.get()
                taken = {
                    "cancel": ("cancelled", job.fence, "worker 1", 0),
                    "claim": (row.status, job.fence + 1, "worker 2", 1),
                }
                assert (row.status, row.fence, row.worker, row.lapses) == taken[how]
                assert (row.progress, row.lost, row.publish_tries) == (job.progress, 0, 0)
                assert row.error == ("Cancelled." if how == "cancel" else "")
        other.submit(lambda: connection.close()).result()  # that thread's

    figure("stale worker's writes", f"{INTERLEAVINGS:,} interleavings, {refused} stale, 0 rows changed")
    assert 0 < refused < INTERLEAVINGS
