"""``eta_seconds``: it counts what was measured, what is ahead, and who can run it."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from jobs.models import Job
from jobs.models.clock import ago, seconds
from jobs.queue import engines, estimate
from jobs.queue.estimate import seconds_left
from jobs.queue.timings import Timings
from tests.factories import make_job

pytestmark = pytest.mark.django_db

WORK = 832 * 480 * 81 * 20
PAIR = "fast/text-to-video"
PUBLISHING = 2


def timing(render, **fields):
    """A completed job that rendered for so many seconds, and was published in PUBLISHING."""
    times = {"rendered_at": ago(timedelta(minutes=1)), "finished_at": Now() - seconds(60 - PUBLISHING)}
    return make_job(
        status="completed", started_at=Now() - seconds(60 + render), **times | {"work": WORK} | fields
    )


def make_engine(name, runs=(PAIR,)):
    engine = engines.hold(name=name, url="http://-", worker=f"worker of {name}")
    engines.report_well(engine, version="-", runs=list(runs), lacks=[])
    return engine


def queued(**fields):
    return make_job(**{"work": WORK} | fields)


def running(engine, since, **fields):
    held = {"engine": engine, "worker": engine.worker, "lease_until": Now() + seconds(60)}
    return make_job(status="processing", started_at=Now() - seconds(since), **held | {"work": WORK} | fields)


def staged(engine, **fields):
    """Its prompt waits in ComfyUI."""
    return queued(engine=engine, worker=engine.worker, lease_until=Now() + seconds(60), **fields)


def left(job):
    """Seconds until it is rendered. (The answer is rounded up, and time passes while a test runs.)"""
    return seconds_left(Job.objects.get(pk=job.pk)) - PUBLISHING


@pytest.fixture
def one():
    return make_engine("one")


class TestTimings:
    def test_without_a_timing_nothing_is_known(self, one):
        timing(100, work=0)  # of an earlier release

        assert seconds_left(queued()) is None
        assert seconds_left(running(one, 10)) is None

    def test_the_median_of_equal_jobs_counts_whatever_others_took(self, one):
        for took in (90, 100, 500):
            timing(took, preset="fast@000000000000")  # of another version of the preset
        timing(7, kind="image-to-video")
        timing(7, preset="quality")
        timing(7, work=WORK + 1)

        assert left(queued()) == 100

    def test_only_the_last_50_count(self):
        spans = [timedelta(seconds=took) for took in [100] * 50 + [7] * 200]
        times = Timings([("fast", "text-to-video", WORK, span, timedelta()) for span in spans])

        assert times.render("fast", "text-to-video", WORK) == 100

    @pytest.mark.parametrize(
        ("known", "expected"),
        [
            ([{}, {"work": 10 * WORK}], 50),  # the one nearest to it
            ([{"kind": "image-to-video"}, {"preset": "quality", "work": WORK // 2}], 50),
            ([{"preset": "quality", "kind": "image-to-video"}], 50),
        ],
    )
    def test_without_an_equal_job_the_nearest_is_scaled(self, one, known, expected):
        for number, fields in enumerate(known):
            timing(100 if number == 0 else 7, **fields)

        assert left(queued(work=WORK // 2)) == expected


class TestUnderWay:
    def test_a_running_job_counts_down_to_nothing(self, one):
        timing(100)

        assert left(running(one, 30)) == 70
        assert left(running(one, 300, progress=99)) in (0, 1)

    def test_a_slow_render_is_not_called_ready_before_its_progress_says_so(self, one):
        timing(100)

        assert left(running(one, 300, progress=40)) == 30

    def test_a_rendered_job_is_still_published(self, one):
        timing(100)
        job = running(one, 100, rendered_at=Now())

        assert seconds_left(job) == PUBLISHING

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_a_finished_job_has_none(self, one, status):
        timing(100)

        assert seconds_left(make_job(status=status, work=WORK)) is None


class TestQueue:
    def test_what_the_engine_has_comes_first(self, one):
        timing(100)
        running(one, 30)
        waiting = staged(one)

        assert left(waiting) == 170
        assert left(queued()) == 270

    def test_jobs_ahead_are_spread_over_the_engines(self, one):
        timing(100)
        two = make_engine("two")
        jobs = [queued() for _ in range(4)]
        late = queued(priority=1)

        assert [left(job) for job in (late, *jobs)] == [100, 100, 200, 200, 300]
        running(one, 50), running(two, 50)
        assert left(late) == 150

    def test_the_engine_whose_last_job_begins_first_takes_it(self, one):
        timing(100)
        two = make_engine("two")
        for engine, since in ((one, 95), (two, 40)):
            staged(engine)
            running(engine, since, progress=since)

        assert left(queued()) in range(205, 208)

    def test_an_engine_that_is_long_busy_does_not_hold_up_an_idle_one(self, one):
        timing(100)
        make_engine("two")
        running(one, 0, work=100 * WORK)

        assert left(queued()) == 100

    def test_an_engine_that_cannot_run_it_does_not_count(self, one):
        timing(100)
        make_engine("other", runs=["quality/text-to-video"])
        queued()
        other = queued(preset="quality")

        assert left(queued()) == 200
        assert left(other) == 100

    def test_without_an_engine_that_can_run_it_nobody_knows(self, one):
        timing(100)
        job = queued(kind="image-to-video")

        assert seconds_left(job) is None
        engines.report_unreachable(one)
        assert seconds_left(queued()) is None

    def test_a_job_that_was_set_aside_waits_for_its_time(self, one):
        timing(100)

        assert left(queued(not_before=Now() + seconds(1000))) == 1000 + 100

    @pytest.mark.parametrize("fleet", [2, 5])
    def test_a_long_queue_is_estimated_from_a_sample(self, one, fleet, monkeypatch):
        monkeypatch.setattr(estimate, "NEAR", 50)
        timing(100)
        for number in range(1, fleet):
            make_engine(f"more {number}")
        for number in range(400):
            queued(work=WORK * (1 + number % 3))

        assert left(queued()) == pytest.approx(400 * 200 / fleet, rel=0.25)

    def test_a_long_queue_goes_round_an_engine_that_is_busy_for_longer(self, one, monkeypatch):
        monkeypatch.setattr(estimate, "NEAR", 30)
        timing(100)
        running(make_engine("two"), 0, work=1000 * WORK)
        for _ in range(60):
            queued()

        assert left(queued()) == pytest.approx(6100, abs=1)

    def test_few_queries_however_long_the_queue(self, one, api, django_assert_max_num_queries):
        timing(100)
        running(one, 10)
        job = Job.objects.get(pk=[queued() for _ in range(300)][-1].pk)
        assert job.position == 299

        with django_assert_max_num_queries(3):
            assert seconds_left(job)


def test_clients_see_it(api, one):
    timing(100)
    job, done = running(one, 30), timing(100)

    assert api.get(f"/jobs/{job.pk}").json()["eta_seconds"] == 70 + PUBLISHING
    assert api.get(f"/jobs/{done.pk}").json()["eta_seconds"] is None
