"""The node classes that graphs are made of, in the simulator; in a real ComfyUI with DRIVE=http://..."""

import io
import uuid

import av
import pytest

from comfy import presets, workflow
from comfy.answers import Refused, Rendered
from comfy.client import Comfy
from jobs.models.job import folder
from tests.factories import eventually, picture
from tests.stack import COMFYUI_URL

SIZE = {"width": (16, 16384), "height": (16, 16384), "length": (1, 16384), "batch_size": (1, 4096)}
LIMITS = {
    "latent": ("EmptyHunyuanLatentVideo", SIZE),
    "image_to_video": ("WanImageToVideo", SIZE),
    "first_last_frame": ("WanFirstLastFrameToVideo", SIZE),
    "high_noise_sampler": (
        "KSamplerAdvanced",
        {
            "steps": (1, 10000),
            "cfg": (0.0, 100.0),
            "start_at_step": (0, 10000),
            "end_at_step": (0, 10000),
            "noise_seed": (0, 2**64 - 1),
        },
    ),
    "high_noise_shift": ("ModelSamplingSD3", {"shift": (0.0, 100.0)}),
    "high_noise_lora": ("LoraLoaderModelOnly", {"strength_model": (-100.0, 100.0)}),
    "video": ("CreateVideo", {"fps": (1.0, 120.0)}),
}


@pytest.fixture(scope="module")
def comfy():
    with Comfy(COMFYUI_URL) as comfy:
        yield comfy


def graph_of(comfy, node, images=("image",)):
    """Its prompt id, its folder, and a small graph with that node in it."""
    prompt_id = str(uuid.uuid4())
    place = folder(uuid.UUID(prompt_id))
    kind = {"latent": "text-to-video", "first_last_frame": "first-last-frame"}.get(node, "image-to-video")
    uploaded = {name: comfy.upload_image(place, f"{name}.png", io.BytesIO(picture())) for name in images}
    values = {"prompt": "A cat", "seed": 7, "prefix": f"{place}/1", "size": "64x64", "num_frames": 5}
    return prompt_id, place, workflow.build(presets.find("fast"), kind, values | uploaded)


@pytest.mark.parametrize("node", LIMITS)
def test_the_limits_of_a_node_are_those_of_comfyui(comfy, node):
    """As read in 0.3.64 and 0.33.0."""
    name, limits = LIMITS[node]

    told = comfy._json("GET", f"/object_info/{name}")[name]["input"]["required"]

    assert {each: (told[each][1]["min"], told[each][1]["max"]) for each in limits} == limits


@pytest.mark.parametrize(("node", "name"), [(node, name) for node in LIMITS for name in LIMITS[node][1]])
def test_a_value_beyond_a_limit_is_refused(comfy, node, name):
    class_type, limits = LIMITS[node]
    prompt_id, _, graph = graph_of(comfy, node)
    inputs = graph[node]["inputs"]

    for value in (limits[name][0] - 1, limits[name][1] + 1):
        inputs[name] = value
        with pytest.raises(Refused) as refused:
            comfy.submit(prompt_id, graph, "the-tests")
        assert refused.value.message == f"ComfyUI refused {name} of {class_type}."


def test_the_first_and_last_frame_are_optional_inputs(comfy):
    name = "WanFirstLastFrameToVideo"

    told = comfy._json("GET", f"/object_info/{name}")[name]

    vision = ["clip_vision_start_image", "clip_vision_end_image"]
    assert list(told["input"]["optional"]) == [*vision, "start_image", "end_image"]
    assert told["output"] == ["CONDITIONING", "CONDITIONING", "LATENT"]


@pytest.mark.parametrize("images", [["image"], ["last_image"], ["image", "last_image"], []])
def test_a_video_is_made_of_a_first_or_a_last_frame_or_both(comfy, images):
    prompt_id, place, graph = graph_of(comfy, "first_last_frame", images)

    comfy.submit(prompt_id, graph, "the-tests")

    eventually(lambda: prompt_id not in comfy.queue(), within=300)
    result = comfy.result(prompt_id, place)
    assert isinstance(result, Rendered)
    with comfy.open_output(place, result.filename) as chunks:
        with av.open(io.BytesIO(b"".join(chunks))) as video:
            assert sum(1 for _ in video.decode(video=0)) == 5
