"""DELETE /v1/videos of a job that is not finished: its client sees it no more, and its row goes after its
prompt."""

import pytest

from comfy.client import Comfy
from jobs.models import Job
from jobs.models.job import prompt_id
from jobs.queue.submit import requeue
from jobs.workers.cluster import Purging
from jobs.workers.hold import stopping
from jobs.workers.publish import publish
from jobs.workers.render import render
from jobs.workers.retention import purge_old
from tests.factories import eventually, folders

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def delete(api, job_id):
    answer = api.delete(f"/v1/videos/{job_id}", content_type="application/json")
    assert answer.json() == {"id": job_id, "object": "video.deleted", "deleted": True}
    for path in (f"/v1/videos/{job_id}", f"/jobs/{job_id}", f"/status/{job_id}"):
        assert api.get(path).status_code == 404
    assert api.get("/jobs").json() == api.get("/v1/videos").json()["data"] == []


def test_one_that_waits_is_gone_at_once(api, submit):
    delete(api, submit())

    assert not Job.objects.exists()


@pytest.mark.usefixtures("slow")
def test_the_row_of_one_that_renders_goes_after_its_prompt(api, submit, engine, simulator, background):
    job_id = submit()
    thread = background()
    eventually(lambda: Job.objects.get().status == "processing")
    prompt = prompt_id(Job.objects.get().pk, 1)

    delete(api, job_id)

    eventually(Job.objects.to_remove().exists)
    assert prompt in simulator.log("interrupted")
    thread.join(20)
    assert folders(Job.objects.get()) == []
    purge_old()
    assert not Job.objects.exists()


@pytest.mark.usefixtures("slow")
def test_it_stays_as_long_as_its_prompt_is_there(api, submit, engine, background, monkeypatch):
    job_id, asked = submit(), []
    background()
    eventually(lambda: Job.objects.get().status == "processing")
    cancel = Comfy.cancel
    monkeypatch.setattr(Comfy, "cancel", lambda comfy, prompt: asked.append(prompt))

    delete(api, job_id)

    eventually(lambda: len(asked) > 3)
    assert not Job.objects.to_remove().exists()
    monkeypatch.setattr(Comfy, "cancel", cancel)
    eventually(Job.objects.to_remove().exists)


@pytest.mark.usefixtures("slow")
def test_also_if_its_worker_stopped_before_it_could_take_the_prompt_out(
    api, submit, engine, simulator, background
):
    job_id = submit()
    thread = background()
    eventually(lambda: Job.objects.get().status == "processing")
    stopping.set()
    thread.join(20)
    stopping.clear()

    delete(api, job_id)
    assert not Job.objects.to_remove().exists()
    render()  # as the tick of the next worker would begin it

    assert simulator.log("interrupted")
    assert Job.objects.to_remove().exists()


def test_one_that_is_rendered_but_not_published(api, submit, engine):
    job_id = submit()
    render()

    delete(api, job_id)
    publish()
    render()
    purge_old()

    assert not Job.objects.exists()


def test_one_whose_engine_fell_silent_goes_as_well(api, submit, engine, settings):
    job_id = submit()
    render()
    delete(api, job_id)

    settings.ENGINE_GRACE = 0

    assert Job.objects.to_remove().exists()


def test_the_tick_starts_the_task_for_it_once(api, submit, engine, monkeypatch):
    tasks, purging = [], Purging()
    monkeypatch.setattr("jobs.workers.cluster.async_task", lambda *task, **_: tasks.append(task))
    purging.start_if_due()
    assert tasks == []
    job_id = submit()
    render()
    delete(api, job_id)
    render()

    purging.start_if_due()
    purging.start_if_due()

    assert tasks == [("jobs.retention.purge_old",)]


def test_its_idempotency_key_is_free_at_once(api, submit, engine):
    def post():
        headers = {"Idempotency-Key": "abc"}
        return api.post("/generate", {"prompt": "A cat"}, "application/json", headers=headers).json()[
            "job_id"
        ]

    first = post()
    render()
    delete(api, first)

    assert post() != first


def test_an_operator_who_requeues_it_brings_it_back(api, submit, engine):
    job_id = submit()
    render()
    delete(api, job_id)

    requeue(Job.objects.filter(pk=job_id))

    assert api.get(f"/v1/videos/{job_id}").json()["status"] == "queued"
