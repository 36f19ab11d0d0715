"""One render's steps, and what is claimed beside it, without a ComfyUI and without waiting."""

import pytest

from comfy.answers import Failed
from jobs.models import Job
from jobs.queue import causes
from jobs.queue.claim import claim_render
from jobs.workers.denials import Denials
from jobs.workers.hold import Heartbeat
from jobs.workers.render import Memory, Renderer
from jobs.workers.rendering import WRITE_PAUSE, Outcome, Prompt, Rendering, failed
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

    def test_progress_is_written_when_there_is_some_and_not_at_every_message(self, rendering):
        told = []
        for nodes, now in (({}, 10), (sampled(1), 10.5), (sampled(2), 11), (sampled(2), 10.5 + WRITE_PAUSE)):
            rendering.follow(nodes, connected=True, now=now)
            told.append(Job.objects.get().progress)

        assert told == [0, 25, 25, 50]


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


class TestBeside:
    """What is claimed while another render is in hand."""

    @pytest.fixture
    def renderer(self, engine, monkeypatch):
        monkeypatch.setattr("jobs.workers.render.memory", Memory())
        return Renderer(engine, None, None, Heartbeat())

    def claimed(self, renderer):
        renderer._claim()
        return [each.job.turn for each in renderer.renderings]

    def test_a_job_that_may_kill_its_worker_is_rendered_alone(self, renderer):
        make_job(turn=1, lapses=2), make_job(turn=2)

        assert self.claimed(renderer) == [1]

    def test_nor_is_it_claimed_beside_an_innocent_one(self, renderer):
        make_job(turn=1), make_job(turn=2, lapses=2), make_job(turn=3)

        assert self.claimed(renderer) == [1, 3]

    def test_after_s3_gave_no_image_only_text_jobs_are_begun_for_a_while(self, renderer):
        for turn in (1, 2, 3):
            make_job(turn=turn, kind="image-to-video")
        make_job(turn=4)
        assert self.claimed(renderer) == [1, 2]
        first = renderer.renderings[0]

        renderer._end(first, Outcome(causes.NO_IMAGE_YET, prompt=Prompt.NOT_THERE))

        assert self.claimed(renderer) == [2, 4]
