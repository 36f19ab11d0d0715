"""The engines' pages and commands: what an operator does to them, and what is told of it."""

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command

from jobs.models import Engine, EngineEvent
from tests.factories import make_job
from tests.operators.pages import ENGINES, page

pytestmark = pytest.mark.django_db


def do(client, engine, what):
    return client.post(f"{ENGINES}{engine.pk}/do/{what}/", follow=True)


def said(answer):
    return [str(message) for message in answer.context["messages"]]


def test_it_is_paused_and_resumed_and_each_is_noted(admin, engine):
    own = f"{ENGINES}{engine.pk}/change/"
    assert "/do/pause/" in page(admin, own)

    assert said(do(admin, engine, "pause")) == ["Paused: sim."]
    assert said(do(admin, engine, "pause")) == ["It is paused already."]
    text = page(admin, own)
    assert "paused</span>" in text
    assert "/do/resume/" in text
    assert said(do(admin, engine, "resume")) == ["Resumed: sim."]

    noted = EngineEvent.objects.order_by("pk").values_list("kind", "detail")
    assert list(noted) == [("paused", "by admin"), ("resumed", "by admin")]
    assert "by admin" in page(admin, own)


def test_each_asks_first(admin, engine):
    Engine.objects.update(can_restart=True)

    for what, question in (("pause", "Pause sim?"), ("restart", "Restart the ComfyUI of sim")):
        assert question in page(admin, f"{ENGINES}{engine.pk}/do/{what}/")

    assert not Engine.objects.filter(paused=True).exists()
    assert not Engine.objects.filter(restart_wanted=True).exists()


def test_a_restart_is_offered_only_where_there_is_a_command(admin, engine):
    own = f"{ENGINES}{engine.pk}/change/"
    assert "/do/restart/" not in page(admin, own)
    assert said(do(admin, engine, "restart")) == ["Its worker has no COMFYUI_RESTART_COMMAND."]

    Engine.objects.update(can_restart=True)

    assert "/do/restart/" in page(admin, own)
    assert said(do(admin, engine, "restart")) == ["Restart wanted: sim."]
    assert Engine.objects.get().restart_wanted


def test_its_page_says_what_it_does_what_it_can_run_and_what_it_lacks(admin, engine):
    job = make_job(status="processing", engine=engine, prompt="A red fox")
    Engine.objects.update(missing=["vae/wan.safetensors"])

    text = page(admin, f"{ENGINES}{engine.pk}/change/")

    assert f"/admin/jobs/job/{job.pk}/change/" in text
    assert "A red fox" in text
    assert "fast: first-last-frame, image-to-video, text-to-video" in text
    assert "vae/wan.safetensors" in text


def test_who_may_only_look_changes_nothing(client, django_user_model, engine):
    viewer = django_user_model.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_engine"))
    client.force_login(viewer)

    assert "/do/" not in page(client, f"{ENGINES}{engine.pk}/change/")
    assert do(client, engine, "pause").status_code == 403
    assert not Engine.objects.filter(paused=True).exists()


def test_the_list_is_as_cheap_for_many_engines_as_for_one(admin, engine, django_assert_max_num_queries):
    for number in range(20):
        other = Engine.objects.create(name=f"gpu-{number}", url="http://gpu")
        make_job(status="processing", engine=other)

    with django_assert_max_num_queries(14):
        text = page(admin, ENGINES)

    assert text.count("rendering</span>") == 20


def test_the_commands(engine, capsys):
    call_command("pause_engine", "sim")
    call_command("pause_engine", "sim")
    assert Engine.objects.get().paused
    call_command("resume_engine", "sim")

    assert capsys.readouterr().out.splitlines() == [
        "sim is paused.",
        "sim was already paused.",
        "sim is resumed.",
    ]
    assert EngineEvent.objects.filter(detail="by manage.py pause_engine").count() == 1
    with pytest.raises(CommandError, match=r"There is no engine 'sin'; there are sim\. Nothing was paused\."):
        call_command("pause_engine", "sin", "sim")
