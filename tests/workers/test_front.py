"""What stands in front of ComfyUI, or in its place: whose fault an answer is, and an end to all tries."""

import base64
import json
import time
import uuid
from contextlib import closing

import pytest
from django.db import connection
from django.db.models.functions import Now

from comfy.answers import NO_COMFYUI, Unfit
from comfy.client import Comfy
from jobs.models import Event, Job
from jobs.models.clock import seconds
from jobs.models.engine import Engine
from jobs.models.job import prompt_id
from jobs.queue import causes, engines
from jobs.workers import watch as watches
from jobs.workers.denials import MAX_VANISHED, Denials
from jobs.workers.hold import WORKER
from jobs.workers.publish import publish
from jobs.workers.render import render
from jobs.workers.watch import EngineWatch, Relapses
from tests.factories import eventually, picture
from tests.fronts import PAGE, serving
from tests.stack import SIMULATOR_URL

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]

IMAGE = base64.b64encode(picture()).decode()
HTML = "text/html"


@pytest.fixture
def front():
    with serving(SIMULATOR_URL) as front:
        yield front


@pytest.fixture
def engine(engine, front):
    """The simulator behind the front, found ready."""
    Engine.objects.update(url=front.url)
    return Engine.objects.get()


@pytest.fixture
def watch(engine, settings, monkeypatch):
    settings.ENGINE_NAME, settings.COMFYUI_URL = engine.name, engine.url
    monkeypatch.setattr(EngineWatch, "LONGEST_PAUSE", 0)
    monkeypatch.setattr(watches, "LOOK", 0)
    return EngineWatch()


def to(path, *reply):
    """A rule for one path alone."""
    return lambda method, asked, body: reply if asked.startswith(path) else None


def about(word, *reply):
    """A rule for the requests that hold a word, as a firewall has them."""
    return lambda method, path, body: reply if word in body else None


def go_on(jobs_are):
    """Renders as the cluster does, woken up again and again, but without the jobs' pauses."""

    def done():
        Job.objects.filter(not_before__isnull=False, status="queued").update(not_before=Now())
        render()
        return jobs_are()

    eventually(done)


def row(job):
    return Job.objects.get(pk=job)


class TestWhatIsNoComfyUI:
    """Nothing is posted for ever, nothing is counted, and the engine says what an operator can do."""

    REDIRECT = "COMFYUI_URL leads to a redirect: name the address of ComfyUI itself."
    EVERYTHING = {
        "a redirect": ((301, "https://other.example/", b""), REDIRECT),
        "a temporary redirect": ((307, "https://other.example/", b""), REDIRECT),
        "a login": ((302, "/login", b""), REDIRECT),
        "a web page": ((200, HTML, PAGE), NO_COMFYUI),
        "other JSON": ((200, "application/json", b'{"status": "ok"}'), NO_COMFYUI),
        "a list": ((200, "application/json", b"[]"), NO_COMFYUI),
        "nothing": ((200, "application/json", b""), NO_COMFYUI),
        "a password": ((401, HTML, PAGE), "asks for a password"),
        "a proxy's password": ((407, HTML, PAGE), "A proxy in front of ComfyUI asks for a password"),
        "another program": ((404, HTML, PAGE), NO_COMFYUI),
        "another method": ((405, HTML, PAGE), NO_COMFYUI),
        "impatience": ((408, HTML, PAGE), "waits too short a time"),
        "a limit of requests": ((429, HTML, PAGE), "lets too few requests through"),
        "a firewall": ((403, HTML, PAGE), "denies requests (403)"),
    }

    @pytest.mark.parametrize(("reply", "trouble"), EVERYTHING.values(), ids=EVERYTHING)
    def test_the_look_at_it_finds_out(self, front, watch, submit, simulator, reply, trouble):
        posted = len(simulator.log("accepted"))
        front.rule = lambda *_: reply
        submit()

        watch.tick()
        render()

        sick = Engine.objects.get()
        assert not sick.ready
        assert trouble in sick.trouble
        assert (Job.objects.get().render, len(simulator.log("accepted"))) == (0, posted)

    PROMPTS = EVERYTHING | {
        "the answer to a GET": (
            (200, "application/json", b'{"exec_info": {"queue_remaining": 0}}'),
            NO_COMFYUI,
        ),
        "another prompt": (
            (200, "application/json", b'{"prompt_id": "other", "node_errors": {}}'),
            NO_COMFYUI,
        ),
    }
    del PROMPTS["a firewall"]  # it may be about this job: see below

    @pytest.mark.parametrize(("reply", "trouble"), PROMPTS.values(), ids=PROMPTS)
    def test_one_that_answers_so_to_prompts_alone_is_sick_and_no_job_pays(
        self, front, watch, submit, reply, trouble
    ):
        front.rule = to("/prompt", *reply)
        jobs = [submit(), submit()]

        render()

        assert trouble in Engine.objects.get().trouble
        assert {(row(job).status, row(job).attempt, row(job).lost) for job in jobs} == {("queued", 0, 0)}
        watch.tick()
        assert not Engine.objects.get().ready

        front.rule = lambda *_: None
        eventually(lambda: watch.tick() or Engine.objects.get().ready)
        go_on(lambda: all(row(job).rendered_at for job in jobs))

    def test_a_page_in_the_place_of_the_video_costs_no_render(self, front, engine, submit):
        submit()
        render()
        front.rule = to("/view", 200, HTML, PAGE)

        publish()

        job = Job.objects.get()
        assert (job.status, job.lost, job.publish_tries) == ("processing", 0, 1)

    def test_the_password_of_a_redirect_s_target_is_told_to_nobody(self, front):
        front.rule = lambda *_: (302, "https://user:secret@other.example/", b"")
        with Comfy(front.url) as comfy, pytest.raises(Unfit) as error:
            comfy.queue()
        assert "secret" not in str(error.value)


class TestWhatIsAboutOneJob:
    """It fails alone; the others go on, and the engine stays ready."""

    @pytest.mark.parametrize(
        "reply", [(413, HTML, PAGE), (413, "application/json", b'{"error": "too large"}')]
    )
    def test_an_image_that_is_too_large_for_a_server_in_between(self, front, engine, submit, reply):
        front.rule = to("/upload", *reply)
        image, text = submit(image_base64=IMAGE), submit()

        render()

        failed = row(image)
        assert (failed.status, failed.attempt) == ("failed", 1)
        assert failed.error == "The job is larger than a server in front of ComfyUI lets through (413)."
        assert row(text).rendered_at
        assert Engine.objects.get().ready
        assert len(front.answered) == 1

    def test_a_prompt_that_is_too_large_for_it(self, front, engine, submit):
        front.rule = lambda method, path, body: (413, HTML, PAGE) if b"x" * 5000 in body else None
        large, small = submit(prompt="x" * 5000), submit()

        render()

        assert row(large).status == "failed"
        assert row(small).rendered_at

    @pytest.mark.parametrize("status", [400, 403, 451, 502])
    def test_a_prompt_that_a_firewall_dislikes_fails_when_another_s_passes(
        self, front, engine, submit, status
    ):
        front.rule = about(b"drop table", status, HTML, PAGE)
        disliked, others = submit(prompt="drop table"), [submit(), submit()]

        go_on(lambda: row(disliked).status == "failed")

        assert row(disliked).error == (
            f"ComfyUI, or a server in front of it, denies a request of this job ({status})."
        )
        assert all(row(job).rendered_at for job in others)
        assert Engine.objects.get().ready
        assert len(front.answered) <= 6

    def test_an_image_that_gets_no_answer_holds_up_nobody(self, front, engine, submit, monkeypatch):
        monkeypatch.setattr(Comfy.__init__, "__defaults__", (0.5,))
        front.rule = lambda method, path, body: time.sleep(2) if path.startswith("/upload") else None
        image, texts = submit(image_base64=IMAGE), [submit(), submit()]

        go_on(lambda: all(row(job).rendered_at for job in texts))

        assert (row(image).status, row(image).attempt) == ("queued", 0)


class TestWhatIsAboutTheServer:
    @pytest.mark.parametrize("status", [403, 500])
    def test_a_second_job_that_is_denied_makes_it_sick_and_neither_pays(self, front, watch, submit, status):
        front.rule = to("/prompt", status, HTML, PAGE)
        jobs = [submit(), submit()]

        render()

        assert f"({status})" in Engine.objects.get().trouble
        assert {(row(job).status, row(job).attempt) for job in jobs} == {("queued", 0)}

        front.rule = lambda *_: None
        watch.tick()
        go_on(lambda: all(row(job).rendered_at for job in jobs))

    def test_one_job_that_is_denied_again_and_again_makes_it_sick_and_has_growing_pauses(
        self, front, engine, submit
    ):
        front.rule = about(b"drop table", 403, HTML, PAGE)
        submit(prompt="drop table")

        go_on(lambda: Engine.objects.get().trouble)

        job = Job.objects.get()
        assert (job.status, job.attempt, job.snoozes, len(front.answered)) == ("queued", 0, 4, 4)
        pause = Job.objects.filter(not_before__gt=Now() + seconds(35), not_before__lt=Now() + seconds(41))
        assert pause.exists()

    def test_after_that_the_next_job_goes_first_and_tells_whose_fault_it_was(self, front, watch, submit):
        front.rule = about(b"drop table", 403, HTML, PAGE)
        disliked = submit(prompt="drop table")
        go_on(lambda: Engine.objects.get().trouble)
        other = submit()

        watch.tick()
        render()
        assert row(other).rendered_at

        go_on(lambda: row(disliked).status == "failed")

    def test_prompts_that_vanish_before_they_run_make_it_sick(self, front, watch, submit):
        """Something answers in ComfyUI's place, or its queue is cleared each time."""

        def swallow(method, path, body):
            if path == "/prompt" and (prompt_id := json.loads(body).get("prompt_id")):
                return 200, "application/json", json.dumps({"prompt_id": prompt_id}).encode()
            return None

        front.rule = swallow
        job = submit()

        go_on(lambda: Engine.objects.get().trouble)

        assert Engine.objects.get().trouble.startswith("ComfyUI loses prompts before it runs them")
        assert (row(job).status, row(job).attempt, row(job).lost, row(job).render) == ("queued", 0, 0, 3)

        front.rule = lambda *_: None
        watch.tick()
        go_on(lambda: row(job).rendered_at)

    @pytest.mark.parametrize("status", [403, 404, 500])
    def test_images_that_cannot_be_uploaded_hold_up_no_text_job(self, front, watch, submit, status):
        front.rule = to("/upload", status, HTML, PAGE)
        image = submit(image_base64=IMAGE)

        for _ in range(6):
            text = submit()
            go_on(lambda text=text: watch.tick() or row(text).rendered_at)

        assert (row(image).status, row(image).attempt, row(image).lost) == ("queued", 0, 0)
        assert Engine.objects.get().ready

    def test_two_that_a_firewall_dislikes_hold_up_nobody(self, front, watch, submit):
        """With their own pauses, which are longer than those of the engine."""
        front.rule = about(b"poison", 403, HTML, PAGE)
        poison, good = [submit(prompt="poison"), submit(prompt="poison")], [submit(), submit()]

        def done():
            watch.tick()
            render()
            return all(row(job).rendered_at for job in good)

        eventually(done)

        go_on(lambda: watch.tick() or {row(job).status for job in poison} == {"failed"})

    def test_one_whose_end_is_not_told_holds_up_nobody_and_its_file_is_taken(self, front, engine, submit):
        first, others = submit(), [submit(), submit()]
        prompt = prompt_id(row(first).pk, 1)
        front.rule = to(f"/history/{prompt}", 500, HTML, PAGE)

        go_on(lambda: all(row(job).rendered_at for job in [first, *others]))

        assert Job.objects.filter(lost=0, render=1).count() == 3

    def test_models_that_cannot_be_unloaded_stop_nobody(self, front, engine, submit, simulator):
        front.rule = to("/free", 405, HTML, PAGE)
        simulator.fault("out_of_memory", count=1)
        jobs = [submit(), submit()]

        go_on(lambda: all(row(job).rendered_at for job in jobs))

        assert Job.objects.filter(out_of_memory=1).count() == 1

    def test_a_denied_prompt_is_not_told_as_a_lost_one(self, front, engine, submit):
        front.rule = to("/prompt", 500, HTML, PAGE)
        submit()

        go_on(lambda: Engine.objects.get().trouble)

        assert "(500)" in Engine.objects.get().trouble
        assert not Event.objects.filter(kind="prompt_lost").exists()

    def test_an_answer_that_quotes_the_prompt_is_not_in_the_log(self, front, engine, submit, caplog):
        front.rule = lambda method, path, body: (404, HTML, body) if path == "/prompt" else None
        submit(prompt="my secret prompt")

        go_on(lambda: Engine.objects.get().trouble)

        assert "secret" not in caplog.text

    @pytest.mark.parametrize(
        "answer",
        [
            {"error": "unsupported content type in message"},
            {"error": {"type": "x", "message": None}},
            {"error": {"type": "x", "message": "y"}, "node_errors": {"none": {"errors": [{}]}}},
            {"error": {"type": "x", "message": "y"}, "node_errors": [1]},
        ],
        ids=repr,
    )
    def test_a_refusal_of_another_shape_is_judged_all_the_same(self, front, engine, submit, answer):
        front.rule = to("/prompt", 400, "application/json", json.dumps(answer).encode())
        submit()

        go_on(lambda: Job.objects.get().status == "failed" or Engine.objects.get().trouble)


class TestDenials:
    def test_the_longest_pause_of_a_job_does_not_make_it_forgotten(self, monkeypatch):
        now, denials, job, other = [1000.0], Denials(), uuid.uuid4(), uuid.uuid4()
        monkeypatch.setattr("jobs.workers.denials.time.monotonic", lambda: now[0])
        denials.denied("prompt", job, lasting=True)
        denials.passed("prompt", other)

        now[0] += causes.NOT_TAKEN.longest_pause + 60

        assert denials.denied("prompt", job, lasting=True) == "job"

    def test_what_may_be_a_moment_s_fails_a_job_at_the_third_time(self):
        denials, job, other = Denials(), uuid.uuid4(), uuid.uuid4()
        denials.denied("prompt", job, lasting=False)
        denials.passed("prompt", other)

        verdicts = [denials.denied("prompt", job, lasting=False) for _ in range(3)]

        assert verdicts == ["unknown", "unknown", "job"]

    def test_a_prompt_that_ran_gives_all_chances_back_before_too_many_have_vanished(self):
        denials = Denials()
        denials.vanished()

        denials.ran()

        assert [denials.vanished() for _ in range(MAX_VANISHED)] == [False] * (MAX_VANISHED - 1) + [True]


class TestSickness:
    def test_a_trouble_that_is_told_during_a_look_stays(self, watch, front):
        watch.tick()

        def meanwhile(method, path, body):
            if path == "/system_stats":
                with closing(connection):  # of the front's own thread
                    Engine.objects.update(trouble="It is sick.", ready=False)

        front.rule = meanwhile
        watch.tick()

        assert (Engine.objects.get().trouble, Engine.objects.get().ready) == ("It is sick.", False)

    def test_one_that_must_be_restarted_is_not_well_after_another_trouble(self, watch, engine, front):
        engines.report_sick(engine, "ComfyUI runs nothing of its queue; it must be restarted.", ["a-prompt"])
        front.rule = lambda *_: (429, HTML, PAGE)

        watch.tick()

        sick = Engine.objects.get()
        assert (sick.stuck, sick.must_restart) == (["a-prompt"], True)

    def test_the_lease_lasts_through_a_long_first_look(self, watch, front, settings):
        settings.ENGINE_LEASE = 6
        front.rule = lambda method, path, body: time.sleep(0.5) if path.startswith("/object_info") else None

        watch.tick()  # longer than the lease

        assert Engine.objects.held_by(WORKER).exists()


class TestRelapses:
    def test_each_one_makes_the_next_rest_longer_until_it_was_well_for_long(self, monkeypatch):
        now, relapses = [1000.0], Relapses()
        monkeypatch.setattr("jobs.workers.watch.time.monotonic", lambda: now[0])

        def rest():
            relapses.sick()
            began = now[0]
            while relapses.rests:
                now[0] += 1
            relapses.well()
            return now[0] - began

        assert [rest() for _ in range(9)] == [0, 1, 3, 7, 15, 31, 63, 120, 120]
        now[0] += Relapses.TRUST
        assert rest() == 0
