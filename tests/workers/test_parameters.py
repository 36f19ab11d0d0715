"""Each parameter of a request on its way: through HTTP into ComfyUI's graph, and into the video.

The graph is the one that ComfyUI ran, as its file tells. `make test-comfyui` does the same with a real one,
which must run without --disable-metadata.
"""

import base64
import io
import json

import av
import boto3
import pytest
import requests
from PIL import Image

from jobs.models import Job
from jobs.workers.publish import publish
from jobs.workers.render import render
from tests.factories import picture
from tests.stack import COMFYUI_URL, REAL_COMFYUI, S3_URL

pytestmark = pytest.mark.django_db(transaction=True)
SMALL = {"preset": "quality", "size": "256x256", "num_frames": 5, "steps": 4}


def colour(name):
    image = io.BytesIO()
    Image.new("RGB", (300, 300), name).save(image, "PNG")
    return base64.b64encode(image.getvalue()).decode()


def in_comfyui(job, name, place):
    """A file of the job in ComfyUI's ``input`` or ``output`` folder."""
    place = {"filename": name, "subfolder": job.folder, "type": place}
    answer = requests.get(f"{COMFYUI_URL}/view", params=place, timeout=10)
    answer.raise_for_status()
    return io.BytesIO(answer.content)


@pytest.fixture
def rendered(submit, engine, simulator):
    """The job, its graph as ComfyUI got it, and its video's frames and rate."""

    def make(**asked):
        submit(**asked)
        render()
        publish()
        job = Job.objects.latest("created_at")
        assert job.status == "completed", job.error
        with av.open(in_comfyui(job, job.output, "output")) as video:
            graph = json.loads(video.metadata["prompt"])
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


def test_the_same_seed_makes_the_same_video_and_another_one_another(rendered):
    seven, eight, again = (rendered(**SMALL | {"seed": seed})[2] for seed in (7, 8, 7))

    assert seven == again != eight


@pytest.mark.skipif(not REAL_COMFYUI, reason="the simulator has no model")
@pytest.mark.parametrize(
    "asked",
    [
        {"negative_prompt": "rain"},
        {"steps": 5},
        {"guidance_scale": 6, "guidance_scale_2": 3.5},
        {"guidance_scale_2": 6},
        {"flow_shift": 3},
    ],
)
def test_the_model_makes_something_else_of_it(rendered, asked):
    usual, other = (rendered(**SMALL | {"seed": 7} | each)[2] for each in ({}, asked))

    assert usual != other


def test_steps_guidance_and_shift(rendered):
    asked = {"steps": 10, "guidance_scale": 5, "guidance_scale_2": 2.5, "flow_shift": 5}

    _, graph, _, _ = rendered(**SMALL | asked)

    high, low = graph["high_noise_sampler"], graph["low_noise_sampler"]
    assert (high["steps"], high["cfg"], low["steps"], low["cfg"]) == (10, 5, 10, 2.5)
    assert high["end_at_step"] == low["start_at_step"] == 5  # of shift 5: down to the noise level of 0.875
    assert graph["high_noise_shift"]["shift"] == graph["low_noise_shift"]["shift"] == 5


@pytest.mark.parametrize(("steps", "split"), [(20, 10), (5, 3), (7, 4)])
def test_the_split_of_the_steps_is_the_presets_own_or_computed(rendered, steps, split):
    _, graph, _, _ = rendered(**SMALL | {"steps": steps, "flow_shift": 8})

    assert graph["high_noise_sampler"]["end_at_step"] == split


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
    if REAL_COMFYUI:  # weights that have learned nothing do not show the images, but heed them
        green = {"last_image_base64": colour("green"), "seed": job.seed}
        assert frames != rendered(**SMALL | images | green)[2]
        return
    red, _, blue = frames[-1].getpixel((10, 192))
    assert blue > 200 > 60 > red
    assert (frames[0].getpixel((10, 192))[0] > 200) == first


@pytest.mark.parametrize("size", ["auto", "480p"])
def test_a_portrait_photograph_is_rendered_upright(rendered, size):
    photo = base64.b64encode(picture(600, 800)).decode()

    _, graph, frames, _ = rendered(**SMALL | {"size": size, "image_base64": photo})

    assert (
        (graph["image_to_video"]["width"], graph["image_to_video"]["height"]) == frames[0].size == (544, 720)
    )


@pytest.mark.parametrize(("fit", "left"), [("cut", (255, 0, 0)), ("pad", (0, 0, 0))])
def test_an_image_of_another_shape_is_cut_or_padded(rendered, fit, left):
    photo = base64.b64encode(picture(600, 800)).decode()

    job, graph, frames, _ = rendered(**SMALL | {"image_base64": photo, "fit": fit})

    assert graph["image"]["image"] == f"{job.folder}/input.png"
    with Image.open(in_comfyui(job, "input.png", "input")) as image:
        assert (image.size, image.getpixel((0, 128))) == (frames[0].size, left) == ((256, 256), left)


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
