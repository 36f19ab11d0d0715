"""The workers in this process, on the simulator, Postgres and S3: from a queued row to a playable file."""

import base64
import io
import resource
import time

import av
import boto3
import pytest
import requests
from django.db.models.functions import Now
from PIL import Image

from comfy import presets, workflow
from comfy.client import Comfy
from jobs.media import storage
from jobs.models import Job
from jobs.models.clock import seconds
from jobs.models.engine import Engine
from jobs.models.job import folder, prompt_id
from jobs.queue import engines
from jobs.workers.hold import WORKER, stopping
from jobs.workers.publish import publish
from jobs.workers.render import render
from tests.factories import COMFYUI, eventually, folders, make_job, picture, runs
from tests.stack import S3_URL, SIMULATOR_URL

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def now(job):
    job.refresh_from_db()
    return job


def graph_of(preset, seed):
    return workflow.build(presets.find(preset), "text-to-video", {"seed": seed, "prefix": f"other/{seed}"})


class TestTheWholeWay:
    def test_a_text_becomes_a_video_behind_a_link(self, api, submit, engine, simulator, tmp_path):
        job_id = submit(prompt="A cat (red) dancing")

        render()
        publish()

        answer = api.get(f"/jobs/{job_id}").json()
        assert (answer["status"], answer["progress"], answer["attempt"]) == ("completed", 100, 1)
        video = requests.get(answer["video_url"], timeout=5)
        assert video.status_code == 200
        assert video.headers["Content-Type"] == "video/mp4"
        assert video.headers["Content-Disposition"] == f'inline; filename="{job_id}.mp4"'
        (tmp_path / "video.mp4").write_bytes(video.content)
        with av.open(str(tmp_path / "video.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 832, 480)
            assert stream.average_rate == 16
            assert sum(1 for _ in container.decode(stream)) == 81
            assert not {"prompt", "workflow"} & set(container.metadata)
        assert b"dancing" not in video.content  # the graph, with the prompt
        assert video.content.index(b"moov") < video.content.index(b"mdat")  # faststart

    def test_an_image_becomes_a_video(self, submit, engine):
        job_id = submit(image_base64=base64.b64encode(picture()).decode())

        render()
        publish()

        assert Job.objects.get(pk=job_id).status == "completed"

    def test_nothing_is_left_in_comfyui(self, submit, engine, simulator):
        job = Job.objects.get(pk=submit(image_base64=base64.b64encode(picture()).decode()))

        render()
        assert folders(job)
        publish()

        assert folders(job) == []
        assert requests.get(f"{SIMULATOR_URL}/history", timeout=5).json() == {}

    def test_a_link_ends_after_its_time_and_the_next_read_gives_a_new_one(
        self, api, submit, engine, settings
    ):
        settings.VIDEO_URL_TTL = 1
        job_id = submit()
        render()
        publish()
        link = api.get(f"/status/{job_id}").json()["video_url"]

        eventually(lambda: requests.get(link, timeout=5).status_code == 403)

        assert requests.get(api.get(f"/status/{job_id}").json()["video_url"], timeout=5).status_code == 200

    def test_one_prompt_a_job_in_the_order_they_came(self, submit, engine, simulator):
        jobs = [submit() for _ in range(3)]

        render()

        prompts = [prompt_id(Job.objects.get(pk=job).pk, 1) for job in jobs]
        assert simulator.log("started")[-3:] == prompts


class TestOneRunsOneWaits:
    def test_the_next_job_waits_in_comfyui_while_one_runs(self, api, submit, engine, simulator, background):
        simulator.fault("stall", seconds=3)
        first, second, third = submit(), submit(), submit()

        background()
        eventually(lambda: Job.objects.filter(status="processing").exists())

        with Comfy(SIMULATOR_URL) as comfy:
            eventually(lambda: comfy.queue().pending)
            assert len(comfy.queue().marked(str(engine.pk))) == 2
        assert [api.get(f"/jobs/{job}").json()["position"] for job in (first, second, third)] == [None, 0, 1]

    def test_a_job_that_arrives_in_mid_render_is_staged_at_once(self, submit, engine, simulator, background):
        simulator.fault("stall", seconds=5)
        submit()
        background()
        eventually(lambda: Job.objects.filter(status="processing").exists())

        late = submit()

        with Comfy(SIMULATOR_URL) as comfy:
            eventually(lambda: comfy.queue().pending)
        assert Job.objects.get(pk=late).engine == engine

    def test_a_prompt_of_ours_that_belongs_to_no_job_is_removed_before_the_next_is_posted(
        self, submit, engine, simulator
    ):
        with Comfy(SIMULATOR_URL) as comfy:
            stray = graph_of("quality", 1)
            for name in presets.find("quality").samplers:
                stray[name]["inputs"]["steps"] = 10000
            stray["low_noise_sampler"]["inputs"]["end_at_step"] = 10000
            comfy.submit("stray", stray, str(engine.pk))
        submit()

        render()

        assert simulator.log("interrupted")[-1] == "stray"
        assert Job.objects.get().rendered_at

    def test_the_prompt_of_a_job_whose_claim_has_not_run_out_is_left_alone(
        self, submit, engine, simulator, background, slow
    ):
        held = make_job(engine=engine, render=1, lease_until=Now() + seconds(60))
        with Comfy(SIMULATOR_URL) as comfy:
            comfy.submit(held.prompt_id, graph_of("fast", 3), str(engine.pk))
            submit()

            submit()

            background()

            eventually(lambda: comfy.queue().pending)  # one new one waits behind it
            eventually(lambda: Job.objects.filter(worker=WORKER).count() == 2)
            assert held.prompt_id in comfy.queue().running
            time.sleep(0.2)  # some rounds, in which nothing more may be posted
            assert len(comfy.queue().marked(str(engine.pk))) == 2

    def test_other_peoples_prompts_are_left_alone(self, submit, engine, simulator):
        with Comfy(SIMULATOR_URL) as comfy:
            comfy.submit("theirs", graph_of("fast", 2), "x")
        submit()

        render()

        assert "theirs" in simulator.log("finished")


class TestAdoption:
    def test_a_successor_takes_over_the_running_and_the_waiting_prompt(
        self, submit, engine, simulator, background
    ):
        posted = len(simulator.log("accepted"))
        simulator.fault("stall", seconds=2)
        jobs = [submit(), submit()]
        first = background()
        eventually(lambda: len(simulator.log("accepted")) == posted + 2)
        eventually(lambda: Job.objects.filter(status="processing").exists())

        stopping.set()
        first.join(10)
        assert {job.status for job in Job.objects.all()} == {"queued"}
        assert {job.attempt for job in Job.objects.all()} == {0}
        stopping.clear()
        render()
        publish()

        assert len(simulator.log("accepted")) == posted + 2
        assert {Job.objects.get(pk=job).status for job in jobs} == {"completed"}
        assert {job.attempt for job in Job.objects.all()} == {1}

    def test_a_file_that_a_restarted_comfyui_does_not_remember_is_taken(self, submit, engine, simulator):
        job = Job.objects.get(pk=submit())
        render()
        Job.objects.update(
            status="queued", rendered_at=None, output=""
        )  # as if the worker died before it saw
        posted = len(simulator.log("accepted"))

        render()
        publish()

        assert now(job).status == "completed"
        assert len(simulator.log("accepted")) == posted

    @pytest.mark.parametrize("size", [0, 50_000])
    def test_a_file_that_does_not_play_to_its_end_is_not_taken(self, submit, engine, simulator, size):
        """ComfyUI died while it wrote it."""
        job = Job.objects.get(pk=submit())
        render()
        Job.objects.update(status="queued", rendered_at=None, output="")
        file = COMFYUI / "output" / folder(job.pk) / "1_00001_.mp4"
        file.write_bytes(file.read_bytes()[:size])

        render()
        publish()

        assert (now(job).status, job.render, job.lost) == ("completed", 2, 1)

    def test_a_begun_render_that_comfyui_never_got_is_begun_anew_without_counting(self, submit, engine):
        job = Job.objects.get(pk=submit())
        Job.objects.update(engine=engine, render=1)  # died between the commit and the POST

        render()

        assert (now(job).render, job.attempt, job.lost) == (2, 1, 0)
        assert job.rendered_at


class TestTroubleInComfyUI:
    def test_history_that_comes_late_is_waited_for(self, submit, engine, simulator):
        simulator.fault("late_history", seconds=0.5)
        submit()

        render()

        job = Job.objects.get()
        assert (job.render, job.output) == (1, "1_00001_.mp4")

    def test_a_restart_that_forgets_all_costs_one_new_render(self, submit, engine, simulator, background):
        simulator.fault("stall", seconds=30)
        job = Job.objects.get(pk=submit())
        background()
        eventually(lambda: now(job).status == "processing")

        simulator.fault("forget")

        eventually(lambda: now(job).rendered_at)
        assert (job.render, job.lost, job.attempt) == (2, 1, 2)

    def test_out_of_memory_is_tried_once_more(self, submit, engine, simulator, monkeypatch):
        freed, free = [], Comfy.free
        monkeypatch.setattr(Comfy, "free", lambda comfy: freed.append(free(comfy)))
        simulator.fault("out_of_memory", count=1)
        submit()

        render()

        job = Job.objects.get()
        assert (job.render, job.out_of_memory, job.rendered_at is not None) == (2, 1, True)
        assert len(freed) == 1

    def test_out_of_memory_twice_fails_the_job_with_a_sentence(self, submit, engine, simulator):
        simulator.fault("out_of_memory", count=2)
        submit()

        render()

        assert Job.objects.get().error == "The GPU ran out of memory, also on a second try after freeing it."

    def test_a_failing_node_fails_the_job_at_once(self, api, submit, engine, simulator):
        simulator.fault("node_error", count=1)
        job_id = submit(prompt="a secret")

        render()

        assert api.get(f"/status/{job_id}").json() == {
            "job_id": job_id,
            "status": "failed",
            "video_url": None,
            "error": "ComfyUI failed in VAEDecode: ValueError.",
        }
        assert folders(Job.objects.get()) == []

    def test_a_model_file_that_vanished_costs_no_job_and_is_named(self, submit, engine, monkeypatch):
        template = presets.find("fast").kinds["text-to-video"].graph
        monkeypatch.setitem(template["vae"]["inputs"], "vae_name", "none.safetensors")
        image, text = submit(image_base64=base64.b64encode(picture()).decode()), submit()

        render()

        job, lacking = Job.objects.get(pk=text), Engine.objects.get()
        assert (job.status, job.attempt, job.error) == ("queued", 0, "")
        assert "fast/text-to-video" not in lacking.runs
        assert lacking.lacks == ["vae/none.safetensors"]
        assert Job.objects.get(pk=image).rendered_at

    def test_one_that_is_listed_and_refused_again_and_again_makes_the_engine_sick(
        self, submit, engine, monkeypatch
    ):
        template = presets.find("fast").kinds["text-to-video"].graph
        monkeypatch.setitem(template["vae"]["inputs"], "vae_name", "none.safetensors")
        submit()

        def again():
            Engine.objects.update(runs=presets.runs([]))  # as the look finds it each time
            Job.objects.filter(status="queued").update(not_before=None)
            render()
            return Engine.objects.get().trouble

        assert eventually(again) == "ComfyUI lacks the model file vae/none.safetensors."
        assert Job.objects.get().status == "queued"

    def test_what_an_engine_cannot_run_it_does_not_claim(self, submit, engine, simulator):
        engines.report_well(
            engine, version="test", runs=runs("fast/text-to-video", "quality/image-to-video"), lacks=["x"]
        )
        image, text = submit(image_base64=base64.b64encode(picture()).decode()), submit()

        render()

        assert Job.objects.get(pk=text).rendered_at
        assert (Job.objects.get(pk=image).status, Job.objects.get(pk=image).fence) == ("queued", 0)

    def test_one_that_stalls_is_interrupted_and_rendered_anew(self, submit, engine, simulator, settings):
        settings.STALL_TIMEOUT = 4  # encoding, too, shows no progress, and this machine may be slow
        simulator.fault("stall", seconds=6)
        submit()

        render()

        job = Job.objects.get()
        assert (job.render, job.lost, job.rendered_at is not None) == (2, 1, True)

    def test_one_that_takes_too_long_is_interrupted(self, submit, engine, simulator, settings, background):
        settings.RENDER_TIMEOUT = 1
        simulator.fault("stall", seconds=60)
        job = Job.objects.get(pk=submit())
        background()

        eventually(lambda: now(job).lost == 1)

    def test_a_socket_that_stays_silent_delays_nothing(self, submit, engine, simulator, background):
        simulator.fault("stall", seconds=1)
        job = Job.objects.get(pk=submit())
        background()
        eventually(lambda: now(job).status == "processing")

        simulator.fault("silent_sockets")

        eventually(lambda: now(job).rendered_at)

    def test_while_it_does_not_answer_nothing_is_burned(self, submit, engine, settings, caplog):
        settings.JOB_LEASE = 3
        Engine.objects.update(url="http://127.0.0.1:1")
        submit()

        render()

        job = Job.objects.get()
        assert (job.status, job.attempt, job.render, job.lease_until) == ("queued", 0, 0, None)
        assert not Engine.objects.get().ready
        assert caplog.text.count("does not answer") == 1

    def test_without_an_engine_of_its_own_a_worker_takes_nothing(self, submit):
        submit()

        render()

        assert Job.objects.get().lease_until is None


class TestProgress:
    def test_it_grows_in_the_row_while_the_job_renders(self, submit, engine, background):
        job = Job.objects.get(pk=submit())
        Job.objects.update(preset="quality")  # 20 steps
        seen = []
        background()

        def sample():
            seen.append(now(job).progress)
            return job.rendered_at

        eventually(sample)
        assert seen == sorted(seen)
        assert any(0 < progress < 99 for progress in seen)


class TestPublishing:
    @pytest.fixture
    def rendered(self, submit, engine):
        job = Job.objects.get(pk=submit())
        render()
        return now(job)

    def path(self, job):
        return COMFYUI / "output" / folder(job.pk) / job.output

    def objects(self, job):
        s3 = boto3.client("s3", endpoint_url=S3_URL)
        return s3.list_objects_v2(Bucket="wanapi", Prefix=f"videos/{job.pk}/").get("Contents", [])

    def test_while_our_own_disk_is_full_the_job_waits(self, rendered):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # no file may be larger
        try:
            publish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert (now(rendered).status, rendered.publish_tries, rendered.lost) == ("processing", 1, 0)

        Job.objects.update(not_before=None)
        publish()

        assert now(rendered).status == "completed"

    def test_while_s3_is_down_the_job_waits_and_no_gpu_time_is_spent(self, rendered, settings, simulator):
        posted = len(simulator.log("accepted"))
        good, settings.S3_ENDPOINT_URL = settings.S3_ENDPOINT_URL, "http://127.0.0.1:1"
        publish()
        assert (now(rendered).status, rendered.publish_tries) == ("processing", 1)

        settings.S3_ENDPOINT_URL = good
        Job.objects.update(not_before=None)
        publish()

        assert now(rendered).status == "completed"
        assert len(simulator.log("accepted")) == posted

    def test_the_row_says_what_is_in_s3(self, rendered):
        publish()

        poster, stored = self.objects(now(rendered))
        assert (poster["Key"], stored["Key"]) == (rendered.poster_key, rendered.video_key)
        assert stored["Size"] == rendered.video_size
        assert rendered.video_frames == 81
        with Image.open(io.BytesIO(storage.get(rendered.poster_key))) as image:
            assert (image.format, image.size) == ("JPEG", (416, 240))

    @pytest.mark.parametrize("damage", ["gone", "cut"])
    def test_a_file_that_is_gone_or_broken_is_rendered_again(self, rendered, damage):
        if damage == "gone":
            self.path(rendered).unlink()
        else:
            self.path(rendered).write_bytes(self.path(rendered).read_bytes()[:50_000])

        publish()
        assert (now(rendered).status, rendered.lost) == ("queued", 1)
        render()
        publish()

        assert (now(rendered).status, rendered.render) == ("completed", 2)

    def test_a_video_that_is_not_what_was_asked_for_fails_the_job(self, rendered, monkeypatch):
        Job.objects.update(parameters={"size": "832x480", "num_frames": 81, "fps": 24})

        publish()

        assert now(rendered).status == "failed"
        assert "another size, length or format" in rendered.error

    def test_a_publisher_that_lost_its_claim_leaves_no_object(self, rendered, monkeypatch):
        put_video = storage.put_video

        def put_slowly(*args, **options):
            put_video(*args, **options)
            Job.objects.update(fence=99)  # another took it over

        monkeypatch.setattr(storage, "put_video", put_slowly)

        publish()

        assert self.objects(rendered) == []
