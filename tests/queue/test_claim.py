"""The job's states, the claim, the lease and the fence, on the real Postgres."""

import threading
import uuid
from functools import partial

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from comfy import presets
from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.engine import Engine
from jobs.models.job import prompt_id
from jobs.queue import causes, engines
from jobs.queue.claim import ClaimLost, claim_publish, claim_render, renew
from jobs.queue.returns import return_expired
from jobs.queue.submit import requeue
from jobs.workers.hold import WORKER
from tests.factories import make_job, runs

pytestmark = pytest.mark.django_db


def expire(job):
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - seconds(1))


def claimed(engine, **fields):
    make_job(**fields)
    return claim_render(engine)


class TestClaim:
    def test_the_oldest_job_comes_first(self, engine):
        new, old = make_job(), make_job(turn=0)

        assert claim_render(engine).job == old
        assert claim_render(engine).job == new
        assert claim_render(engine) is None

    def test_it_takes_a_lease_a_fence_and_counts_an_attempt(self, engine):
        job = claimed(engine).job

        assert (job.status, job.worker, job.fence, job.attempt) == ("queued", WORKER, 1, 1)
        assert job.lease_until is not None

    def test_a_render_begun_on_this_engine_comes_before_older_jobs(self, engine):
        make_job(turn=0)
        begun = make_job(engine=engine, render=1)

        assert claim_render(engine).job == begun

    @pytest.mark.parametrize("kind", ["image-to-video", "first-last-frame"])
    def test_while_s3_gives_no_images_no_image_job_is_begun_and_a_begun_one_goes_on(self, engine, kind):
        make_job(kind=kind)
        begun = make_job(kind=kind, engine=engine, render=1)

        assert claim_render(engine, images=False).job == begun
        assert claim_render(engine, images=False) is None
        assert claim_render(engine)

    def test_a_render_begun_elsewhere_is_left_alone(self, engine):
        other = Engine.objects.create(name="other", url="http://other", seen_at=Now())
        make_job(engine=other, render=1)

        assert claim_render(engine) is None

    def test_after_the_grace_another_engine_may_begin_it_anew(self, engine, settings):
        gone = Engine.objects.create(name="gone", url="http://gone", seen_at=Now() - seconds(601))
        job = make_job(engine=gone, render=1, started_at=Now(), progress=50)

        claim = claim_render(engine)
        claim.begin(engine, {})

        assert claim.job == job
        assert (claim.job.render, claim.job.progress, claim.job.started_at) == (2, 0, None)

    def test_a_grace_that_ran_out_while_all_was_down_costs_an_engine_nothing(self, engine):
        """Its own renders may still be in ComfyUI, however long nobody looked."""
        begun = make_job(engine=engine, render=1)
        Engine.objects.update(seen_at=Now() - seconds(9999))

        assert claim_render(engine).job.engine == engine
        assert begun.render == 1

    def test_a_job_that_two_workers_did_not_survive_is_claimed_alone_or_not_at_all(self, engine):
        suspect = make_job(lapses=2, turn=0)
        innocent = make_job(lapses=1)

        assert claim_render(engine, suspects=False).job == innocent
        assert claim_render(engine, suspects=False) is None
        assert claim_render(engine).job == suspect

    def test_a_job_that_is_to_wait_waits(self, engine):
        job = make_job(not_before=Now() + seconds(60))
        assert claim_render(engine) is None

        Job.objects.filter(pk=job.pk).update(not_before=Now())
        assert claim_render(engine).job == job

    @pytest.mark.parametrize(
        "trouble", [{"ready": False}, {"lease_until": Now() - seconds(1)}, {"worker": "another"}]
    )
    def test_nothing_is_claimed_for_an_engine_that_is_down_or_not_ours(self, engine, trouble):
        make_job()
        Engine.objects.filter(pk=engine.pk).update(**trouble)

        assert claim_render(engine) is None

    def test_finished_videos_are_claimed_in_the_order_they_were_rendered(self):
        late = make_job(status="processing", rendered_at=Now())
        early = make_job(status="processing", rendered_at=Now() - seconds(9))
        make_job(status="processing")

        assert claim_publish(WORKER).job == early
        assert claim_publish(WORKER).job == late
        assert claim_publish(WORKER) is None


@pytest.mark.django_db(transaction=True)
def test_workers_that_race_for_jobs_never_get_the_same_one(engine):
    for _ in range(40):
        make_job()
    got, barrier = [], threading.Barrier(4)

    def worker():
        barrier.wait()
        while claim := claim_render(engine):
            got.append(claim.job.pk)
        connection.close()

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == len(set(got)) == 40


class TestFence:
    def test_a_worker_whose_claim_was_taken_over_changes_nothing(self, engine):
        stale = claimed(engine)
        expire(stale.job)
        return_expired()
        fresh = claim_render(engine).job

        writes = [
            lambda: stale.begin(engine, {}),
            stale.started,
            lambda: stale.advanced(50),
            lambda: stale.rendered("x.mp4"),
            lambda: stale.completed(size=1, frames=1, sha256="0"),
            stale.publish_later,
            *(partial(stale.end, cause) for cause in causes.ALL),
        ]
        for write in writes:
            with pytest.raises(ClaimLost):
                write()
        before = Job.objects.filter(pk=fresh.pk).values().get()
        renew([stale])
        assert Job.objects.filter(pk=fresh.pk).values().get() == before

    def test_a_lease_that_ran_out_and_was_not_taken_still_counts(self, engine):
        claim = claimed(engine)
        expire(claim.job)

        claim.begin(engine, {})

        assert claim.job.render == 1

    def test_nobody_begins_a_render_on_an_engine_that_was_lost(self, engine):
        claim = claimed(engine)
        Engine.objects.update(worker="another")

        with pytest.raises(ClaimLost):
            claim.begin(engine, {})

    @pytest.mark.django_db(transaction=True)
    def test_a_write_never_takes_the_next_holders_fence_for_its_own(self, engine, monkeypatch):
        """What it reads back is its own: until then nobody else can get at the row."""
        claim, others = claimed(engine), []

        def look():
            row = Job.objects.select_for_update(skip_locked=True).filter(pk=claim.job.pk)
            with transaction.atomic():
                others.append(list(row))
            connection.close()

        def refresh(job):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()

        monkeypatch.setattr(Job, "refresh_from_db", refresh)
        claim.advanced(5)

        assert others == [[]]

    def test_completing_twice_is_no_loss(self, engine):
        """A commit whose answer was lost is tried again, and its object must not be deleted for that."""
        make_job(status="processing", rendered_at=Now())
        claim = claim_publish(WORKER)
        facts = {"size": 1, "frames": 81, "sha256": "0" * 64}

        claim.completed(**facts)
        claim.completed(**facts)

        assert claim.job.status == "completed"


def test_a_finished_render_wakes_the_publishers(engine):
    claimed(engine).rendered("1_00001_.mp4")

    assert OrmQ.objects.filter(key="publish").count() == 1


class TestReturned:
    def test_a_render_goes_back_to_the_queue_and_keeps_its_engine(self, engine):
        claim = claimed(engine)
        claim.begin(engine, {})
        claim.started()
        expire(job := claim.job)

        return_expired()

        job.refresh_from_db()
        assert (job.status, job.engine, job.render, job.lapses) == ("queued", engine, 1, 1)

    def test_a_finished_render_stays_processing_for_the_next_publisher(self):
        make_job(status="processing", rendered_at=Now())
        expire(job := claim_publish(WORKER).job)

        return_expired()

        assert claim_publish("another").job == job

    def test_a_job_that_kills_every_worker_fails(self, engine):
        job = make_job(engine=engine, render=1, started_at=Now())
        for _ in range(causes.LEASE_RAN_OUT.limit):
            claim_render(engine).started()  # it was adopted: that it runs is no progress
            expire(job)
            return_expired()

        job.refresh_from_db()
        assert (job.status, job.attempt) == ("failed", 5)
        assert job.error == "The worker went away 5 times in a row while it had this job; given up."

    def test_progress_gives_new_chances(self, engine):
        job = make_job(lapses=4)

        claim_render(engine).started()
        expire(job)
        return_expired()

        job.refresh_from_db()
        assert (job.status, job.lapses) == ("queued", 1)

    def test_each_pause_in_a_row_is_longer_by_one_doubling(self, engine):
        make_job()
        for times in (1, 2):
            claim = claim_render(engine)
            claim.end(causes.NO_IMAGE_YET)
            assert claim.job.snoozes == times
            Job.objects.update(not_before=None)

    def test_handing_back_counts_nothing(self, engine):
        claim = claimed(engine)

        claim.end(causes.HANDED_BACK, "because")

        job = claim.job
        assert (job.status, job.attempt, job.lapses, job.lease_until) == ("queued", 0, 0, None)

    def test_the_third_lost_render_fails_the_job(self, engine):
        claimed(engine).end(causes.LOST)
        claim_render(engine).end(causes.LOST)
        claim = claim_render(engine)
        claim.end(causes.LOST)

        job = claim.job
        assert (job.status, job.attempt) == ("failed", 3)
        assert job.error == "The render was lost 3 times on the GPU server; given up."

    def test_the_second_time_out_of_memory_fails_the_job(self, engine):
        claimed(engine).end(causes.OUT_OF_MEMORY)
        claim = claim_render(engine)
        claim.end(causes.OUT_OF_MEMORY)

        assert claim.job.status == "failed"

    def test_publishing_is_tried_again_with_growing_pauses(self):
        make_job(status="processing", rendered_at=Now())
        pauses = []
        for _ in range(8):
            claim = claim_publish(WORKER)
            began = timezone.now()
            claim.publish_later()
            pauses.append(round((claim.job.not_before - began).total_seconds()))
            Job.objects.update(not_before=None)

        assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


class TestEngine:
    def test_one_worker_holds_it_and_a_second_waits(self, engine):
        assert engines.hold(name="sim", url="http://x", worker="another") is None

    def test_after_its_lease_the_next_one_takes_it_with_the_renders_left_there(self, engine):
        claim = claimed(engine)
        claim.begin(engine, {})
        claim.started()
        Engine.objects.update(lease_until=Now() - seconds(1))

        taken = engines.hold(name="sim", url="http://x", worker="another")
        engines.report_well(taken, version="", runs=presets.runs([]), lacks=[])

        assert claim_render(taken).job == claim.job

    def test_a_file_that_vanished_takes_away_only_what_needs_it(self, engine):
        lost = runs("fast/text-to-video")

        engines.report_lacking(engine, lost[0], "loras/x")

        assert set(presets.runs([])) - set(Engine.objects.get().runs) == set(lost)

    def test_one_whose_comfyui_is_away_is_not_ready_for_its_holder_either(self, engine):
        engines.report_unreachable(engine)

        assert not engine.ready

    def test_a_worker_holds_one_engine_only(self, engine):
        with pytest.raises(IntegrityError), transaction.atomic():
            engines.hold(name="second", url="http://x", worker=WORKER)

    def test_release_gives_it_to_the_next_at_once(self, engine):
        engines.release(engine)

        assert engines.hold(name="sim", url="http://x", worker="another")


class TestRequeue:
    def test_a_failed_job_starts_over_with_a_new_render(self, engine):
        job = make_job(
            status="failed",
            render=3,
            lost=3,
            out_of_memory=1,
            lapses=2,
            attempt=3,
            engine=engine,
            progress=70,
        )

        assert requeue(Job.objects.all()) == 1

        job.refresh_from_db()
        assert (job.status, job.error, job.attempt, job.lost, job.progress) == ("queued", "", 3, 0, 0)
        assert (job.engine, job.render, job.finished_at) == (None, 3, None)

    def test_others_stay_as_they_are(self):
        for status in ("queued", "processing", "completed"):
            make_job(status=status)

        assert requeue(Job.objects.all()) == 0


@pytest.mark.parametrize(
    "impossible",
    [
        {"status": "done"},
        {"status": "completed", "video_size": None},
        {"status": "completed", "finished_at": None},
        {"status": "completed", "video_sha256": ""},
        {"status": "failed", "error": ""},
        {"status": "processing", "started_at": None},
        {"status": "queued", "finished_at": Now()},
        {"status": "completed", "lease_until": Now()},
        {"progress": 101},
    ],
)
def test_the_database_refuses_rows_that_cannot_be(impossible):
    with pytest.raises(IntegrityError), transaction.atomic():
        make_job(**impossible)


def plan(queryset):
    plan = queryset.explain()
    assert "Seq Scan on jobs_job" not in plan, plan
    assert "Sort" not in plan, plan
    return plan


def test_at_100_000_rows_the_claim_and_the_list_use_their_indexes(engine):
    make_job(status="completed")
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO jobs_job SELECT row.* FROM jobs_job template, generate_series(1, 100000) n,
                jsonb_populate_record(template, jsonb_build_object(
                    'id', gen_random_uuid(),
                    'created_at', now() - n * interval '1 s',
                    'turn', n,
                    'status', CASE WHEN n % 10 = 0 THEN 'queued' WHEN n % 1000 = 1 THEN 'processing'
                        ELSE 'completed' END,
                    'rendered_at', CASE WHEN n % 10 > 0 THEN now() END,
                    'finished_at', CASE WHEN n % 10 > 0 AND n % 1000 > 1 THEN now() END)) row
            """
        )
        cursor.execute("ANALYZE jobs_job")
    waiting, newest = Job.objects.to_render().in_order(), Job.objects.order_by("-created_at", "-id")

    with CaptureQueriesContext(connection) as queries:
        claim_render(engine)
    claims = [query["sql"] for query in queries if "SKIP LOCKED" in query["sql"]]
    assert len(claims) == 2  # those begun here, then the others
    for claim in claims:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + claim)
            assert "Seq Scan on jobs_job" not in str(cursor.fetchall())
    assert "job_queue" in plan(waiting.filter(engine=None)[:1])
    assert "job_to_publish" in plan(Job.objects.to_publish().order_by("rendered_at", "id")[:1])
    assert "job_list" in plan(newest[:100])
    assert "job_list_by_status" in plan(newest.filter(status__in=["failed"])[:100])
    assert "job_leases" in plan(Job.objects.filter(lease_until__lt=Now()))


def test_prompt_ids_are_the_same_for_everybody_and_differ_by_render():
    job_id = uuid.UUID(int=1)

    assert prompt_id(job_id, 1) == prompt_id(job_id, 1)
    assert prompt_id(job_id, 1) != prompt_id(job_id, 2)


def test_counters_are_never_written_from_memory(engine):
    """Two transitions of one claim add up, whatever the object in hand says."""
    claim = claimed(engine)
    Job.objects.filter(pk=claim.job.pk).update(lost=F("lost") + 5)

    claim.end(causes.LOST)

    assert claim.job.lost == 6
