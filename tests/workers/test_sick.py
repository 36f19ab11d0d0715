"""A ComfyUI that answers and cannot work burns no jobs, and goes on by itself when it is well again."""

import base64

import pytest
import requests

from comfy import presets, warmup
from jobs.models import Event, Job, Metric
from jobs.models.engine import Engine
from jobs.queue import engines
from jobs.queue.wake import RENDER
from jobs.workers.hold import stopping
from jobs.workers.render import render
from jobs.workers.watch import EngineWatch
from tests.factories import COMFYUI, eventually, picture

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


@pytest.fixture
def watch(engine, settings, monkeypatch):
    """The tick's eyes, without its pauses."""
    settings.ENGINE_NAME, settings.COMFYUI_URL = engine.name, engine.url
    monkeypatch.setattr(EngineWatch, "LONGEST_PAUSE", 0)
    return EngineWatch()


def test_a_dead_worker_thread_is_noticed_and_survived(submit, watch, engine, simulator, settings):
    settings.STUCK_TIMEOUT = 1
    jobs = [submit(), submit()]
    simulator.fault("dead_worker")

    render()

    assert [(job.status, job.attempt, job.lost) for job in Job.objects.all()] == [("queued", 0, 0)] * 2
    watch.tick()
    sick = Engine.objects.get()
    assert (sick.ready, sick.trouble) == (
        False,
        "ComfyUI runs nothing of its queue; it must be restarted.",
    )

    simulator.fault("forget")  # it is restarted
    watch.tick()
    assert Engine.objects.get().ready
    render()
    assert Job.objects.filter(pk__in=jobs, rendered_at__isnull=False, lost=0).count() == 2


def test_a_prompt_that_cannot_be_stopped_is_noticed(submit, watch, engine, simulator, settings, background):
    settings.STALL_TIMEOUT = settings.STUCK_TIMEOUT = 1
    simulator.fault("stall", seconds=60)
    submit()

    render()

    job, sick = Job.objects.get(), Engine.objects.get()
    assert (job.status, job.lost) == ("queued", 1)
    assert sick.trouble == "ComfyUI does not let go of an interrupted prompt; it must be restarted."


def test_a_full_disk_costs_no_job(submit, watch, engine, simulator, settings):
    settings.COMFYUI_OUTPUT_DIR = str(COMFYUI / "output")
    simulator.fault("disk_full")
    submit()

    render()

    job = Job.objects.get()
    assert (job.status, job.attempt, job.lost, job.error) == ("queued", 0, 0, "")
    assert Engine.objects.get().trouble == "The GPU server's disk is full."
    assert requests.get(f"{simulator.url}/history", timeout=5).json() == {}  # with the client's prompt
    told = Event.objects.exclude(detail="").order_by("pk").values_list("kind", "detail")
    assert [kind for kind, _ in told] == ["created", "disk_full"]
    assert Metric.objects.filter(name="job_events", label="disk_full").exists()
    assert not Metric.objects.filter(name="job_events", label="prompt_lost").exists()

    watch.tick()  # there is room again
    render()
    assert Job.objects.get().rendered_at


def test_a_gpu_that_failed_costs_a_render_and_must_be_restarted(submit, watch, engine, simulator):
    simulator.fault("gpu_error")
    submit()

    render()

    job, sick = Job.objects.get(), Engine.objects.get()
    assert (job.status, job.lost) == ("queued", 1)
    assert sick.trouble == (
        "The GPU failed, which ends all work of a process on it: ComfyUI must be restarted."
    )


def test_a_gpu_that_failed_is_well_when_a_warm_up_succeeds(submit, watch, engine, simulator):
    simulator.fault("gpu_error", count=4)
    jobs = [submit(), submit()]
    render()

    def looked():
        watch.tick()
        render()  # takes nothing, as long as the engine is sick
        return Job.objects.filter(pk__in=jobs, rendered_at__isnull=False).count() == 2

    eventually(looked)  # three warm-ups fail first, as they would until somebody restarts it

    assert Job.objects.filter(pk__in=jobs, lost__lte=1).count() == 2


def test_what_a_restart_does_not_mend_is_not_restarted(watch, engine, settings, tmp_path):
    settings.COMFYUI_RESTART_COMMAND = f"echo restarted >> {tmp_path}/log"
    engines.report_sick(engine, "COMFYUI_URL leads to a redirect: name the address of ComfyUI itself.")
    Engine.objects.update(url="http://127.0.0.1:1")

    watch.tick()

    assert Engine.objects.get().trouble
    assert not watch._restart_at


def test_what_was_handed_back_says_why(submit, engine, simulator, background):
    simulator.fault("stall", seconds=30)
    submit()
    worker = background()
    eventually(lambda: Job.objects.get().status == "processing")

    stopping.set()
    worker.join(10)

    assert Event.objects.get(kind="handed_back").detail == "The worker was told to stop."


def test_the_operators_command_restarts_it_once(watch, engine, settings, tmp_path):
    settings.COMFYUI_RESTART_COMMAND = f"echo restarted >> {tmp_path}/log"
    engines.report_sick(engine, "ComfyUI runs nothing of its queue; it must be restarted.", ["a-prompt"])
    Engine.objects.update(url="http://127.0.0.1:1")  # as while it restarts

    watch.tick()
    watch.tick()

    log = tmp_path / "log"
    assert eventually(lambda: log.exists() and log.read_text()) == "restarted\n"


def test_a_wakeup_is_not_sent_to_a_sick_engine(submit, watch, engine):
    from jobs.workers.cluster import waiting

    submit()
    watch.tick()
    assert list(waiting(watch)) == [RENDER]

    Engine.objects.update(ready=False, trouble="x", stuck=["y"])
    Engine.objects.update(url="http://127.0.0.1:1")
    watch.tick()

    assert not list(waiting(watch))


def test_that_comfyui_does_not_answer_is_said_once_a_minute(watch, caplog):
    Engine.objects.update(url="http://127.0.0.1:1", ready=False)

    for _ in range(5):
        watch.tick()

    assert caplog.text.count("does not answer") == 1


class TestWarmUp:
    @pytest.fixture(autouse=True)
    def cold(self, engine, settings):
        settings.WARM_UP = True
        engines.report_unreachable(engine)

    @pytest.fixture
    def warmed_up(self, simulator):
        """The kinds that ran since the test began."""
        before = len(simulator.log("finished"))
        kinds = {warmup.prompt_id(f"fast/{kind}"): kind for kind in presets.KINDS}
        return lambda: [kinds[prompt] for prompt in simulator.log("finished")[before:]]

    def until_ready(self, watch):
        eventually(lambda: watch.tick() or Engine.objects.get().ready)

    def test_it_comes_once_before_the_engine_is_ready(self, watch, warmed_up):
        watch.tick()
        assert not Engine.objects.get().ready
        self.until_ready(watch)

        watch.tick()
        assert warmed_up() == ["text-to-video"]

    def test_of_a_card_that_holds_one_kind_it_is_the_kind_that_is_asked_for_first(
        self, submit, watch, warmed_up
    ):
        submit(image_base64=base64.b64encode(picture()).decode())
        submit()

        self.until_ready(watch)

        assert warmed_up() == ["image-to-video"]

    def test_of_a_card_that_holds_all_that_kind_comes_last(self, submit, watch, warmed_up, monkeypatch):
        monkeypatch.setattr("comfy.warmup.HOLDS_ALL", 0)
        submit()

        self.until_ready(watch)

        assert warmed_up() == ["image-to-video", "text-to-video"]

    def test_a_new_worker_finds_it_warm(self, watch, warmed_up, engine):
        self.until_ready(watch)
        for _ in range(3):  # workers that were killed
            engines.report_unreachable(engine)
            successor = EngineWatch()
            successor.tick()
            assert Engine.objects.get().ready

        assert len(warmed_up()) == 1

    def test_one_that_restarted_is_cold_again(self, watch, simulator, engine):
        self.until_ready(watch)
        simulator.fault("forget")
        engines.report_unreachable(engine)

        EngineWatch().tick()

        assert not Engine.objects.get().ready

    def test_one_whose_models_were_unloaded_is_cold_again(self, watch, submit, simulator, engine):
        self.until_ready(watch)
        simulator.fault("out_of_memory", count=2)
        submit()
        render()
        engines.report_unreachable(engine)

        EngineWatch().tick()

        assert not Engine.objects.get().ready


def test_one_that_runs_a_render_of_ours_is_warm(submit, watch, engine, simulator, settings, background, slow):
    submit()
    background()
    eventually(lambda: Job.objects.get().started_at)
    settings.WARM_UP, before = True, len(simulator.log("finished"))
    engines.report_unreachable(engine)

    assert eventually(lambda: watch.tick() or Engine.objects.get().ready)
    assert len(simulator.log("finished")) == before
