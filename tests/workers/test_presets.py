"""A preset of an operator, from its folder to a video."""

import json
import re

import av
import pytest
import requests

from comfy import presets
from jobs.models import Event, Job
from jobs.workers.publish import publish
from jobs.workers.render import render
from local.parts import ROOT
from tests.factories import encoded_picture

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]
LORA = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"  # which the simulator has
NODE, PRESET = map(json.loads, re.findall(r"```json\n(.*?)```", (ROOT / "docs/presets.md").read_text(), re.S))


def as_documented(files):
    """The worked example of docs/presets.md: the graph of ``quality`` with one more LoRA."""
    graph = json.loads((presets.BUILT_IN / "quality" / "text-to-video.json").read_text()) | NODE
    graph["style"]["inputs"]["lora_name"] = LORA
    graph["high_noise_shift"]["inputs"]["model"] = ["style", 0]
    files.clear()
    files.update({"preset.json": PRESET, "text-to-video.json": graph})


@pytest.fixture
def mine(own_preset):
    return own_preset(as_documented)


def with_one_more_shift(files):
    """In the graph of each kind of job."""
    for kind in presets.KINDS:
        graph = files[f"{kind}.json"]
        shift = {"shift": 3.0, "model": ["high_noise_shift", 0]}
        graph["another"] = {"class_type": "ModelSamplingSD3", "inputs": shift}
        graph["high_noise_sampler"]["inputs"]["model"] = ["another", 0]


def test_a_job_of_the_documented_one_is_rendered_and_published(mine, engine, api, submit, tmp_path):
    asked = {"seed": 7, "steps": 12, "size": "480x832", "num_frames": 17, "fps": 12}
    job = Job.objects.get(pk=submit(preset="mine", prompt="A cat (red)", **asked))
    assert job.preset == mine.reference

    render()
    publish()

    graph = Event.objects.get(job=job, kind="posted").graph
    assert graph["style"]["inputs"]["lora_name"] == LORA
    assert graph["high_noise_shift"]["inputs"] == {"model": ["style", 0], "shift": 8.0}
    assert [graph[name]["inputs"]["steps"] for name in mine.samplers] == [12, 12]
    assert graph["prompt"]["inputs"]["text"] == r"A cat \(red\)"
    answer = api.get(f"/jobs/{job.pk}").json()
    assert answer["status"] == "completed"
    assert answer["parameters"]["preset"] == "mine"
    (tmp_path / "video.mp4").write_bytes(requests.get(answer["video_url"], timeout=5).content)
    with av.open(str(tmp_path / "video.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.width, stream.codec_context.height) == (480, 832)
        assert (stream.average_rate, sum(1 for _ in container.decode(stream))) == (12, 17)


def test_each_kind_of_job(own_preset, submit, request):
    own_preset(with_one_more_shift)
    request.getfixturevalue("engine")  # which then offers the preset
    image = encoded_picture()
    bodies = ({"image_base64": image}, {"last_image_base64": image})
    bodies += ({"image_base64": image, "last_image_base64": image},)
    jobs = [submit(preset="mine", num_frames=5, **body) for body in bodies]

    render()
    publish()

    assert {Job.objects.get(pk=job).status for job in jobs} == {"completed"}


def test_clients_find_it_among_the_presets(mine, engine, api):
    found = {preset["name"]: preset for preset in api.get("/presets").json()}

    assert list(found) == ["quality", "fast", "mine"]
    assert found["mine"]["title"] == "Our style"
    steps = found["mine"]["kinds"]["text-to-video"]["steps"]
    assert steps == {"default": 20, "minimum": 8, "maximum": 40}
    assert found["mine"]["ready"] == ["text-to-video"]
