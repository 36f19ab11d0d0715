"""One render's steps, without a ComfyUI and without waiting: what each look at it means."""

import pytest

from comfy.client import Failed
from jobs.models import Job
from jobs.queue import causes
from jobs.queue.claim import claim_render
from jobs.workers.denials import Denials
from jobs.workers.rendering import Prompt, Rendering, failed
from tests.factories import make_job


@pytest.fixture
def rendering(engine, settings):
    settings.STALL_TIMEOUT, settings.RENDER_TIMEOUT = 900, 3600
    make_job(lapses=1)
    claim = claim_render(engine)
    claim.begin(engine, {})
    return Rendering(claim, engine, None, None, Denials())


def sampled(step):
    return {"high_noise_sampler": {"value": step, "max": 2}}


class TestFollow:
    def test_a_render_whose_nodes_stand_still_is_broken_off(self, rendering):
        assert rendering.follow(sampled(1), connected=True, now=0) is None
        assert rendering.follow(sampled(1), connected=True, now=900) is None

        outcome = rendering.follow(sampled(1), connected=True, now=901)

        assert (outcome.cause, outcome.prompt) == (causes.LOST, Prompt.RUNNING)

    def test_without_its_socket_nobody_can_tell_a_stall(self, rendering):
        rendering.follow(sampled(1), connected=True, now=0)

        assert rendering.follow(sampled(1), connected=False, now=2000) is None
        assert rendering.follow(sampled(1), connected=True, now=2900) is None

    def test_the_longest_time_holds_also_without_its_socket(self, rendering):
        rendering.follow({}, connected=False, now=0)

        assert rendering.follow({}, connected=False, now=3601).cause is causes.LOST

    def test_progress_gives_new_chances(self, rendering):
        rendering.follow({}, connected=True, now=0)
        Job.objects.update(lapses=3)

        rendering.follow(sampled(1), connected=True, now=5)

        assert Job.objects.get().lapses == 0
        assert Job.objects.get().progress == 25


@pytest.mark.parametrize(
    ("reason", "cause", "unload", "sick"),
    [
        ("out_of_memory", causes.OUT_OF_MEMORY, True, False),
        ("gpu", causes.GPU_FAILED, True, True),
        ("no_access", causes.NO_ACCESS, False, True),
        ("no_space", causes.DISK_FULL, False, True),
        ("interrupted", causes.LOST, False, False),
        ("error", causes.NODE_FAILED, False, False),
    ],
)
def test_what_a_failure_means_for_the_job_and_for_the_engine(reason, cause, unload, sick):
    outcome = failed(Failed(reason, "It failed.", "A traceback"))

    assert (outcome.cause, outcome.unload, bool(outcome.sick)) == (cause, unload, sick)
    assert outcome.detail == "It failed.\nA traceback"
    assert "traceback" not in outcome.log
