"""A ComfyUI that answers and cannot work burns no jobs, and goes on by itself when it is well again."""

import pytest

from jobs.engines import Engine
from jobs.models import Job
from jobs.render import render
from jobs.watch import EngineWatch
from tests.conftest import COMFYUI, eventually

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

    watch.tick()  # there is room again
    render()
    assert Job.objects.get().rendered_at


def test_the_operators_command_restarts_it_once(watch, engine, settings, tmp_path):
    settings.COMFYUI_RESTART_COMMAND = f"echo restarted >> {tmp_path}/log"
    engine.report_sick("ComfyUI runs nothing of its queue; it must be restarted.", ["a-prompt"])
    Engine.objects.update(url="http://127.0.0.1:1")  # as while it restarts

    watch.tick()
    watch.tick()

    log = tmp_path / "log"
    assert eventually(lambda: log.exists() and log.read_text()) == "restarted\n"


def test_a_wakeup_is_not_sent_to_a_sick_engine(submit, watch, engine):
    from jobs.management.commands.worker import work_waits

    submit()
    watch.tick()
    assert work_waits(watch)

    Engine.objects.update(ready=False, trouble="x", stuck=["y"])
    Engine.objects.update(url="http://127.0.0.1:1")
    watch.tick()

    assert not work_waits(watch)


def test_a_comfyui_is_warmed_up_once_before_it_is_ready(watch, engine, simulator, settings):
    settings.WARM_UP, before = True, len(simulator.log("finished"))
    engine.report_unreachable()

    watch.tick()
    assert not Engine.objects.get().ready
    assert eventually(lambda: watch.tick() or Engine.objects.get().ready)

    watch.tick()
    assert len(simulator.log("finished")) == before + 2  # one of each kind


def test_one_that_runs_a_render_of_ours_is_warm(submit, watch, engine, simulator, settings, background, slow):
    submit()
    background()
    eventually(lambda: Job.objects.get().started_at)
    settings.WARM_UP, before = True, len(simulator.log("finished"))
    engine.report_unreachable()

    assert eventually(lambda: watch.tick() or Engine.objects.get().ready)
    assert len(simulator.log("finished")) == before
