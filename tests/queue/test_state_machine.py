"""The job's states under any order of events: Hypothesis plays workers, operators, clients and the clock.

Workers keep their claims after they lost them and go on writing. What must then happen is told by a model
that knows only who claimed what: a write of the holder succeeds, any other changes no row.
"""

import random
import uuid
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

from comfy import presets
from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.engine import Engine
from jobs.models.job import FINAL
from jobs.queue import causes, engines
from jobs.queue.claim import ClaimLost, claim_publish, claim_render, renew
from jobs.queue.returns import cancel, return_expired
from jobs.queue.submit import requeue, submit
from tests.factories import FULL, make_job

EXAMPLES, STEPS = (150, 100) if FULL else (15, 60)
INTERLEAVINGS = 1000 if FULL else 50
COUNTERS = ("lost", "out_of_memory", "lapses", "publish_tries")
# LEASE_RAN_OUT is not the holder's to tell, and NOT_PUBLISHED is told by publish_later().
RENDER_CAUSES = [each for each in causes.ALL if each not in (causes.LEASE_RAN_OUT, causes.NOT_PUBLISHED)]
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
names = st.sampled_from(ENGINES)


class Jobs(RuleBasedStateMachine):
    renders, publishes = Bundle("renders"), Bundle("publishes")  # claims, held or lost
    steps = 0

    def __init__(self):
        super().__init__()
        for model in (Job, Engine, OrmQ):
            model.objects.all().delete()
        Engine.objects.bulk_create(Engine(name=name, url="http://gpu") for name in ENGINES)
        self.submitted = 0
        self.submit()
        Jobs.steps -= 1  # the look before the first step
        self.held = {}  # job id -> fence of its live claim
        self.expired = set()  # those of them whose lease ran out
        self.counted, self.requeued = set(), set()  # by the rule that was just played
        self.before = {}

    def table(self):
        return {row["id"]: row for row in Job.objects.values()}

    def write(self, claim, method, *args, releases=False, counts=None, **options):
        """A worker's write, by a claim that it may have lost long ago."""
        live = self.held.get(claim.job.pk) == claim.fence
        before = self.table()
        try:
            getattr(claim, method)(*args, **options)
        except ClaimLost:
            assert not live, f"{method}: the holder was refused"
            assert self.table() == before, f"{method}: a stale write changed a row"
            return
        assert live, f"{method}: a stale write was accepted"
        self.counted = {counts, "lapses"}
        if releases:
            del self.held[claim.job.pk]

    # The client and the operator

    @rule()
    def submit(self):
        if Job.objects.exclude(status__in=FINAL).count() < 2:  # few, so that events meet on one job
            self.submitted += 1
            # Hypothesis plays an example more than once, and must find the jobs in the same order.
            named = uuid.UUID(int=self.submitted)
            submit(Job(id=named, kind="text-to-video", prompt="A cat", preset="fast", seed=1))

    @rule(data=st.data())
    def cancel(self, data):
        job = self.one(data)
        if job and cancel(Job.objects.filter(pk=job.pk)):
            assert job.status not in FINAL
            self.held.pop(job.pk, None)

    @rule(data=st.data())
    def requeue(self, data):
        job = self.one(data)
        if job:
            requeued = requeue(Job.objects.filter(pk=job.pk))
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

    @rule(name=names)
    def engine_lease_runs_out(self, name):
        Engine.objects.filter(name=name, lease_until__isnull=False).update(lease_until=PAST)

    @rule(name=names)
    def engine_falls_silent(self, name):
        Engine.objects.filter(name=name).update(seen_at=Now() - seconds(3600), lease_until=None, worker="")

    @rule()
    def pauses_end(self):
        Job.objects.exclude(not_before=None).update(not_before=PAST)

    def tick(self):
        lapsed = {pk for pk in self.held if pk in self.expired}
        assert return_expired() == len(lapsed)
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
        engine = engines.hold(name=name, url="http://gpu", worker=worker)
        if engine:
            assert engine.worker == worker
            engines.report_well(engine, version="", runs=presets.runs([]), lacks=[])
            self.drop(set() if mine else theirs)

    @rule(name=names)
    def release_engine(self, name):
        engines.release(Engine.objects.get(name=name))

    @rule(target=renders, name=names, worker=workers, suspects=st.booleans())
    def claim_render(self, name, worker, suspects):
        self.hold_engine(name, worker)
        engine = Engine.objects.get(name=name)
        engine.worker = worker  # what it believes
        holds = Engine.objects.held_by(worker).filter(name=name, ready=True).exists()
        claim = claim_render(engine, suspects=suspects)
        if claim is None:
            return multiple()
        assert holds
        job = claim.job
        assert suspects or job.lapses < 2
        if job.engine and job.engine != engine:
            assert Engine.objects.silent().filter(pk=job.engine.pk).exists()
        return self.claimed(claim)

    @rule(target=publishes, worker=workers)
    def claim_publish(self, worker):
        claim = claim_publish(worker)
        return self.claimed(claim) if claim else multiple()

    def claimed(self, claim):
        assert claim.job.pk not in self.held, "claimed twice"
        self.held[claim.job.pk] = claim.fence
        self.expired.discard(claim.job.pk)
        return claim

    @rule(claim=renders | publishes)
    def heartbeat(self, claim):
        renew([claim])
        if self.held.get(claim.job.pk) == claim.fence:
            self.expired.discard(claim.job.pk)

    @rule(claim=renders)
    def begin(self, claim):
        engine = Engine.objects.held_by(claim.job.worker).first()
        if engine and claim.job.status == "queued":  # what a worker saw start, it does not begin
            self.write(claim, "begin", engine, {})

    @rule(claim=renders)
    def started(self, claim):
        self.write(claim, "started")

    @rule(claim=renders, progress=st.integers(1, 99))
    def advanced(self, claim, progress):
        if claim.job.started_at:
            self.write(claim, "advanced", progress)

    @rule(claim=renders)
    def rendered(self, claim):
        self.write(claim, "rendered", "1_00001_.mp4", releases=True)

    @rule(claim=renders, cause=st.sampled_from(RENDER_CAUSES))
    def ended(self, claim, cause):
        self.write(claim, "end", cause, "because", error="It failed.", releases=True, counts=cause.counter)

    @rule(claim=publishes, cause=st.sampled_from([causes.LOST, causes.NOT_AS_ASKED]))
    def not_published(self, claim, cause):
        self.write(claim, "end", cause, "because", releases=True, counts=cause.counter)

    @rule(claim=publishes)
    def published_later(self, claim):
        self.write(claim, "publish_later", releases=True, counts="publish_tries")

    @rule(claim=consumes(publishes), twice=st.booleans())
    def completed(self, claim, twice):
        self.write(claim, "completed", **VIDEO, releases=True)
        if twice and claim.job.status == "completed":  # the answer to the first commit was lost
            before = self.table()
            claim.completed(**VIDEO)
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
            assert [new[name] for name in (*COUNTERS, "status")] == [0, 0, 0, 0, "queued"]
            assert new["attempt"] == old["attempt"]
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
        return_expired()
        Job.objects.exclude(not_before=None).update(not_before=PAST)
        for name in ENGINES:
            engine = engines.hold(name=name, url="http://gpu", worker=name)
            engines.report_well(engine, version="", runs=presets.runs([]), lacks=[])
            while claim := claim_render(engine):
                claim.begin(engine, {})
                claim.started()
                claim.rendered("1_00001_.mp4")
        while claim := claim_publish("publisher"):
            claim.completed(**VIDEO)
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
    engine = engines.hold(name="gpu", url="http://gpu", worker="worker 1")
    engines.report_well(engine, version="", runs=presets.runs([]), lacks=[])
    make_job()
    claim = claim_render(engine)
    claim.begin(engine, {})
    claim.started()
    if stage == "publish":
        claim.rendered("1_00001_.mp4")
        claim = claim_publish("worker 1")
    return claim


def take_over(how, stage):
    """Cancels the job, or lets its lease run out and claims it; None if there was nothing to claim."""
    if how == "cancel":
        return cancel(Job.objects.all())
    Job.objects.exclude(lease_until=None).update(lease_until=PAST)
    return_expired()
    Engine.objects.update(worker="worker 2", ready=True, lease_until=Now() + seconds(60))
    return claim_again(stage)


def claim_again(stage):
    if stage == "publish":
        return claim_publish("worker 2")
    return claim_render(Engine.objects.get())


WRITES = {
    "render": [
        lambda claim: claim.advanced(50),
        lambda claim: claim.rendered("x.mp4"),
        lambda claim: claim.end(causes.LOST),
        lambda claim: claim.end(causes.HANDED_BACK),
        lambda claim: claim.end(causes.NODE_FAILED, error="It failed."),
    ],
    "publish": [
        lambda claim: claim.completed(**VIDEO),
        lambda claim: claim.publish_later(),
        lambda claim: claim.end(causes.LOST),
        lambda claim: claim.end(causes.NOT_AS_ASKED),
    ],
}


@pytest.mark.django_db(transaction=True)
def test_a_stale_workers_write_at_the_moment_of_the_takeover(figure):
    """Whichever comes first in Postgres: the write was the holder's, or it left no trace."""
    dice, refused = random.Random(4), 0

    def write_at_once(claim, write, barrier):
        barrier.wait()
        try:
            write(claim)
        except ClaimLost:
            return False
        return True

    with ThreadPoolExecutor(1) as other:
        for _ in range(INTERLEAVINGS):
            Job.objects.all().delete()
            Engine.objects.all().delete()
            stage, how = dice.choice(["render", "publish"]), dice.choice(["cancel", "claim"])
            stale, barrier = held_job(stage), Barrier(2)
            wrote = other.submit(write_at_once, stale, dice.choice(WRITES[stage]), barrier)
            barrier.wait()
            taken_over = take_over(how, stage)
            if not wrote.result():
                refused += 1
                if not taken_over:  # the stale write had locked the row to look at it, and claims skip such
                    claim_again(stage)
                row = Job.objects.get()
                taken = {
                    "cancel": ("cancelled", stale.fence, "worker 1", 0),
                    "claim": (row.status, stale.fence + 1, "worker 2", 1),
                }
                assert (row.status, row.fence, row.worker, row.lapses) == taken[how]
                assert (row.progress, row.lost, row.publish_tries) == (stale.job.progress, 0, 0)
                assert row.error == ("Cancelled." if how == "cancel" else "")
        other.submit(lambda: connection.close()).result()  # that thread's

    figure("stale worker's writes", f"{INTERLEAVINGS:,} interleavings, {refused} stale, 0 rows changed")
    assert 0 < refused < INTERLEAVINGS
