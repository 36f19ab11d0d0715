"""Each parameter of a request on its way: through HTTP into ComfyUI's graph, and into the video."""

import base64
import io

import av
import boto3
import pytest
from PIL import Image

from jobs.models import Event, Job
from jobs.workers.publish import publish
from jobs.workers.render import render
from tests.factories import picture
from tests.stack import S3_URL

pytestmark = pytest.mark.django_db(transaction=True)
SMALL = {"preset": "quality", "size": "256x256", "num_frames": 5, "steps": 4}


def colour(name):
    image = io.BytesIO()
    Image.new("RGB", (300, 300), name).save(image, "PNG")
    return base64.b64encode(image.getvalue()).decode()


@pytest.fixture
def rendered(submit, engine, simulator):
    """The job, its graph as ComfyUI got it, and its video's frames and rate."""

    def make(**asked):
        submit(**asked)
        render()
        publish()
        job = Job.objects.latest("created_at")
        assert job.status == "completed", job.error
        graph = Event.objects.filter(job=job, kind="posted").latest("at").graph
        body = boto3.client("s3", endpoint_url=S3_URL).get_object(Bucket="wanapi", Key=job.video_key)["Body"]
        with av.open(io.BytesIO(body.read())) as video:
            rate = video.streams.video[0].average_rate
            frames = [frame.to_image() for frame in video.decode(video=0)]
        return job, {name: node["inputs"] for name, node in graph.items()}, frames, rate

    return make


def test_size_length_rate_and_seed(rendered):
    job, graph, frames, rate = rendered(**SMALL | {"size": "320x256", "num_frames": 9, "fps": 24, "seed": 7})

    assert (graph["latent"]["width"], graph["latent"]["height"], graph["latent"]["length"]) == (320, 256, 9)
    assert graph["video"]["fps"] == 24
    assert graph["high_noise_sampler"]["noise_seed"] == 7
    assert ({frame.size for frame in frames}, len(frames), rate) == ({(320, 256)}, 9, 24)
    assert job.video_frames == 9


def test_seconds_count_at_the_presets_rate(rendered):
    _, graph, frames, rate = rendered(**SMALL | {"num_frames": None, "seconds": 1, "fps": 8})

    assert (graph["latent"]["length"], len(frames), rate) == (17, 17, 8)


def test_steps_guidance_and_shift(rendered):
    asked = {"steps": 10, "guidance_scale": 5, "guidance_scale_2": 2.5, "flow_shift": 5}

    _, graph, _, _ = rendered(**SMALL | asked)

    high, low = graph["high_noise_sampler"], graph["low_noise_sampler"]
    assert (high["steps"], high["cfg"], low["steps"], low["cfg"]) == (10, 5, 10, 2.5)
    assert high["end_at_step"] == low["start_at_step"] == 5  # of shift 5: down to the noise level of 0.875
    assert graph["high_noise_shift"]["shift"] == graph["low_noise_shift"]["shift"] == 5


def test_the_presets_own_split_of_the_steps_stands_where_its_steps_and_shift_do(rendered):
    _, graph, _, _ = rendered(**SMALL | {"steps": 20, "flow_shift": 8})

    assert graph["high_noise_sampler"]["end_at_step"] == 10


def test_texts_are_escaped(rendered):
    _, graph, _, _ = rendered(**SMALL | {"prompt": "a (red:1.5) cat", "negative_prompt": "rain (heavy)"})

    assert graph["prompt"]["text"] == r"a \(red:1.5\) cat"
    assert graph["negative_prompt"]["text"] == r"rain \(heavy\)"


@pytest.mark.parametrize("first", [True, False])
def test_the_first_and_the_last_frame(rendered, first):
    images = {"image_base64": colour("red")} if first else {}

    job, graph, frames, _ = rendered(**SMALL | images | {"last_image_base64": colour("blue")})

    assert job.kind == "first-last-frame"
    assert ("start_image" in graph["first_last_frame"]) == first
    red, _, blue = frames[-1].getpixel((10, 192))
    assert blue > 200 > 60 > red
    assert (frames[0].getpixel((10, 192))[0] > 200) == first


def test_auto_renders_a_portrait_photograph_upright(rendered):
    photo = base64.b64encode(picture(600, 800)).decode()

    _, graph, frames, _ = rendered(**SMALL | {"size": "auto", "image_base64": photo})

    assert (
        (graph["image_to_video"]["width"], graph["image_to_video"]["height"]) == frames[0].size == (544, 720)
    )


def test_the_other_preset(rendered):
    _, graph, _, _ = rendered(preset="fast", size="256x256", num_frames=5)

    assert "high_noise_lora" in graph
    assert graph["high_noise_sampler"]["steps"] == 4


def test_a_job_of_a_release_without_parameters_is_rendered_as_it_was_asked_for(rendered, submit):
    """Its row has the preset's name alone, and no parameters."""
    submit()
    Job.objects.update(preset="fast", parameters={}, work=0)
    render()
    publish()

    job = Job.objects.get()
    assert (job.status, job.video_frames) == ("completed", 81)


def test_a_row_of_another_version_of_the_preset_waits(submit, engine, simulator):
    submit()
    Job.objects.update(preset="fast@0123456789ab")

    render()

    assert Job.objects.get().attempt == 0
