"""An engine that an operator paused: it ends what it renders, and takes nothing more."""

import pytest

from comfy.client import Comfy
from jobs.models import Engine, Event, Job
from jobs.queue import engines
from jobs.workers.render import render
from jobs.workers.watch import EngineWatch
from tests.factories import eventually
from tests.stack import SIMULATOR_URL

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def pause():
    assert engines.pause(Engine.objects.all(), "by a test") == ["sim"]


def test_what_runs_goes_on_and_what_only_waits_in_comfyui_goes_back(submit, engine, background, slow):
    first, second = submit(), submit()
    background()
    with Comfy(SIMULATOR_URL) as comfy:
        eventually(lambda: comfy.queue().running and comfy.queue().pending)

        pause()

        eventually(lambda: not comfy.queue().pending)
    waiting = Job.objects.get(pk=second)
    assert (waiting.status, waiting.engine, waiting.attempt) == ("queued", None, 0)
    assert waiting.events.get(kind=Event.Kind.HANDED_BACK).detail == "An operator paused this engine."
    assert Job.objects.get(pk=first).status == "processing"


def test_it_takes_new_jobs_when_it_is_resumed(submit, engine, simulator):
    pause()
    job_id = submit()
    render()
    assert Job.objects.get().status == "queued"

    engines.resume(Engine.objects.all(), "by a test")
    render()

    assert Job.objects.get(pk=job_id).rendered_at


def test_a_restart_that_an_operator_wants_is_done_once(engine, settings, tmp_path):
    settings.ENGINE_NAME, settings.COMFYUI_URL = engine.name, SIMULATOR_URL
    settings.COMFYUI_RESTART_COMMAND = f"echo restarted >> {tmp_path}/log"
    watch = EngineWatch()
    assert engines.want_restart(Engine.objects.all(), "by a test") == []  # it has told of no command yet

    watch.tick()
    assert engines.want_restart(Engine.objects.all(), "by a test") == ["sim"]
    watch.tick()
    watch.tick()

    eventually((tmp_path / "log").exists)
    assert (tmp_path / "log").read_text() == "restarted\n"
    assert not Engine.objects.get().restart_wanted


def test_one_that_warms_up_says_so(engine, settings, monkeypatch):
    settings.ENGINE_NAME, settings.COMFYUI_URL = engine.name, SIMULATOR_URL
    monkeypatch.setattr(EngineWatch, "_is_warm", lambda *_: False)

    EngineWatch().tick()

    assert Engine.objects.get().state == "warming up"
