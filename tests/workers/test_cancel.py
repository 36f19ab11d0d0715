"""Cancelling: the row at once, the prompt in ComfyUI soon, nobody else's at all."""

import pytest
from django.db import connection

from comfy.client import Comfy
from jobs.media import storage
from jobs.models import Job
from jobs.models.job import prompt_id
from jobs.queue.submit import requeue
from jobs.workers.hold import stopping
from jobs.workers.publish import publish
from jobs.workers.render import render
from tests.factories import eventually, folders, make_job
from tests.stack import SIMULATOR_URL

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def listens():
    """The renderer, for cancellations."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN wanapi_cancelled'")
        return cursor.fetchone()[0]


def cancel(api, job_id):
    return api.post(f"/jobs/{job_id}/cancel")


class TestTheAnswer:
    def test_a_queued_job_is_cancelled_at_once(self, api, submit):
        job_id = submit()

        answer = cancel(api, job_id)

        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["error"]) == ("cancelled", "Cancelled.")

    def test_the_references_endpoints_show_it_as_failed(self, api):
        job = make_job(status="cancelled", error="Cancelled.")

        assert api.get(f"/status/{job.pk}").json()["status"] == "failed"
        assert api.get("/jobs?status=failed").json()[0]["error"] == "Cancelled."
        assert api.get("/jobs").json()[0]["status"] == "failed"
        assert api.get(f"/jobs/{job.pk}").json()["status"] == "cancelled"

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_a_finished_job_is_a_409(self, api, status):
        job = make_job(status=status)

        assert cancel(api, job.pk).status_code == 409
        assert cancel(api, job.pk).json() == {
            "detail": f"The job is finished ({status}) and cannot be cancelled."
        }

    def test_an_unknown_job_is_a_404(self, api):
        assert cancel(api, "x").status_code == 404


class TestTheGPU:
    def test_its_prompt_is_interrupted_without_waiting_for_the_next_look(
        self, api, submit, engine, simulator, background, slow, monkeypatch
    ):
        monkeypatch.setattr(
            "jobs.workers.render.POLL", 3600
        )  # only ComfyUI's messages call it, until the job runs
        job = submit()
        background()
        eventually(lambda: Job.objects.get().status == "processing")
        prompt_id = Job.objects.get().prompt_id
        eventually(listens)

        cancel(api, job)

        eventually(lambda: prompt_id in simulator.log("interrupted"))

    def test_a_running_prompt_is_interrupted_and_the_next_job_goes_on(
        self, api, submit, engine, simulator, background, slow
    ):
        first, second = submit(), submit()
        background()
        eventually(lambda: Job.objects.filter(status="processing").exists())

        cancel(api, first)

        eventually(lambda: Job.objects.get(pk=second).status == "processing")
        assert simulator.log("interrupted")[-1] == prompt_id(Job.objects.get(pk=first).pk, 1)

    def test_a_waiting_prompt_is_deleted_and_the_running_one_not_touched(
        self, api, submit, engine, simulator, background, slow
    ):
        first, second = submit(), submit()
        background()
        with Comfy(SIMULATOR_URL) as comfy:
            eventually(lambda: comfy.queue().running and comfy.queue().pending)

            cancel(api, second)

            eventually(lambda: not comfy.queue().pending)
        assert Job.objects.get(pk=first).status == "processing"

    def test_a_prompt_whose_worker_is_dead_is_removed_by_the_next_one(
        self, api, submit, engine, simulator, background, slow
    ):
        first = submit()
        thread = background()
        eventually(lambda: Job.objects.filter(status="processing").exists())
        stopping.set()
        thread.join(10)
        stopping.clear()
        cancel(api, first)
        submit()

        background()

        eventually(lambda: Job.objects.filter(status="processing").exists())
        assert simulator.log("interrupted")[-1] == prompt_id(Job.objects.get(pk=first).pk, 1)

    def test_nothing_of_it_is_left(self, api, submit, engine, simulator, background, slow):
        job = Job.objects.get(pk=submit())
        thread = background()
        eventually(lambda: Job.objects.filter(status="processing").exists())

        cancel(api, job.pk)

        thread.join(10)
        assert not thread.is_alive()
        assert folders(job) == []

    def test_a_video_that_is_being_published_is_not_completed_any_more(
        self, api, submit, engine, monkeypatch
    ):
        job_id = submit()
        render()
        put_video = storage.put_video

        def put_and_cancel(*args, **options):
            put_video(*args, **options)
            cancel(api, job_id)

        monkeypatch.setattr(storage, "put_video", put_and_cancel)

        publish()

        job = Job.objects.get()
        assert job.status == "cancelled"
        assert list(storage.listed(f"videos/{job.pk}/")) == []


def test_a_cancelled_job_can_be_requeued(engine):
    make_job(status="cancelled", error="Cancelled.")

    assert requeue(Job.objects.all()) == 1
