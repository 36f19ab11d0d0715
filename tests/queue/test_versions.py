"""A preset may be changed while jobs wait for it: only a worker that has it as it was takes them."""

import pytest

from comfy import presets
from jobs.models import Job
from jobs.queue import engines
from jobs.queue.claim import claim_render

pytestmark = pytest.mark.django_db


def changed(files):
    files["text-to-video.json"]["low_noise_shift"]["inputs"]["shift"] = 6.0
    files["text-to-video.json"]["high_noise_shift"]["inputs"]["shift"] = 6.0


def offer(engine, *runs):
    """What the engine's worker says that it can run."""
    engines.report_well(engine, version="", runs=list(runs), lacks=[])


@pytest.fixture
def job(own_preset, engine, submit):
    own_preset()
    return Job.objects.get(pk=submit(preset="mine"))


def test_a_worker_with_another_version_leaves_the_job_to_one_with_the_same(job, engine, own_preset):
    kind = "text-to-video"
    other = own_preset(changed).reference
    assert other != job.preset

    offer(engine, f"{other}/{kind}", f"mine/{kind}", f"{job.preset}/image-to-video")
    assert claim_render(engine) is None
    offer(engine, f"{job.preset}/{kind}")
    assert claim_render(engine).job == job


def test_it_says_so_while_no_worker_has_the_version_of_the_web(api, job, engine):
    def waiting_for():
        return api.get(f"/jobs/{job.pk}").json()["waiting_for"]

    offer(engine, "mine@000000000000/text-to-video")
    assert waiting_for() == "No GPU server has the preset mine as this service has it."
    offer(engine, f"{job.preset}/text-to-video")
    assert waiting_for() is None


def test_it_says_so_when_the_version_is_gone(api, job, engine, own_preset):
    own_preset(changed)
    offer(engine, *presets.runs([]))

    said = api.get(f"/jobs/{job.pk}").json()["waiting_for"]

    assert said == "The preset mine was changed since, and no worker has it as it was."
    assert claim_render(engine) is None


def test_with_the_old_files_back_it_goes_on(job, engine, own_preset):
    own_preset(changed)
    own_preset()
    offer(engine, *presets.runs([]))

    assert claim_render(engine).job == job
