"""What may stand in a POST to /v1/videos, by OpenAI, vLLM-Omni and SGLang, and what becomes of it."""

import base64
import io
import json

import pytest

from jobs.models import Job
from tests.factories import picture
from tests.stack import KEY

pytestmark = pytest.mark.django_db
DATA_URL = "data:image/png;base64," + base64.b64encode(picture()).decode()


def file(data=None, name="cat.png"):
    stream = io.BytesIO(picture() if data is None else data)
    stream.name = name
    return stream


@pytest.fixture
def create(api):
    def post(**fields):
        return api.post("/v1/videos", {"prompt": "A cat"} | fields)

    return post


@pytest.fixture
def made(create):
    """The job that was made of these fields."""

    def post(**fields):
        answer = create(**fields)
        assert answer.status_code == 200, answer.content
        return Job.objects.get(pk=answer.json()["id"])

    return post


def refused(answer):
    assert answer.status_code == 400, answer.content
    return answer.json()["error"]["param"], answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "content", ["multipart/form-data", "application/x-www-form-urlencoded", "application/json"]
)
def test_each_kind_of_body_makes_the_same_job(api, content):
    fields = {"prompt": "Ä cat", "seconds": "3", "size": "480x832", "seed": "7", "model": "quality"}
    if content == "application/json":
        answer = api.post("/v1/videos", fields, content_type=content)
    elif content == "multipart/form-data":
        answer = api.post("/v1/videos", fields)
    else:
        body = "prompt=%C3%84+cat&seconds=3&size=480x832&seed=7&model=quality"
        answer = api.post("/v1/videos", body, content_type=content)

    job = Job.objects.get(pk=answer.json()["id"])
    assert (job.prompt, job.preset_name, job.seed) == ("Ä cat", "quality", 7)
    assert (job.parameters["num_frames"], job.parameters["size"], job.warnings) == (49, "480x832", [])


class TestTheModel:
    def test_names_a_preset(self, made):
        assert made(model="quality").preset_name == "quality"

    @pytest.mark.parametrize("model", ["sora-2", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"])
    def test_any_other_is_the_default_with_a_warning(self, made, model):
        job = made(model=model)

        assert job.preset_name == "fast"
        assert job.warnings == ["model: there is no such preset, and the default one was taken."]

    def test_a_preset_by_our_own_name_must_exist(self, create):
        assert refused(create(preset="sora-2"))[0] == "preset"


class TestTheLength:
    @pytest.mark.parametrize(
        ("fields", "frames"),
        [
            ({}, 81),
            ({"seconds": "4"}, 65),
            ({"seconds": "5"}, 81),
            ({"seconds": "2.5"}, 41),
            ({"seconds": "5", "fps": "16"}, 81),
            ({"seconds": "2", "fps": "24"}, 49),
            ({"seconds": "10", "fps": "8"}, 81),
            ({"num_frames": "80"}, 81),
            ({"num_frames": "83"}, 81),
            ({"num_frames": "32"}, 33),
            ({"num_frames": "33"}, 33),
            ({"num_frames": "49", "seconds": "4"}, 49),
        ],
    )
    def test_in_frames(self, made, fields, frames):
        assert made(**fields).parameters["num_frames"] == frames

    def test_what_was_changed_is_told(self, made):
        assert made(num_frames="80").warnings == ["num_frames was rounded to 81."]
        assert made(num_frames="49", seconds="4").warnings == [
            "seconds was ignored, since there is num_frames."
        ]

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"seconds": "8"}, "seconds"),
            ({"seconds": "5", "fps": "24"}, "seconds"),
            ({"seconds": "0", "fps": "24"}, "seconds"),
            ({"seconds": "x"}, "seconds"),
            ({"num_frames": "84"}, "num_frames"),
            ({"num_frames": "1"}, "num_frames"),
            ({"num_frames": "0"}, "num_frames"),
            ({"num_frames": "-3"}, "num_frames"),
            ({"num_frames": "9" * 30}, "num_frames"),
            ({"fps": "60"}, "fps"),
        ],
    )
    def test_beyond_the_limits_is_refused(self, create, fields, param):
        assert refused(create(**fields))[0] == param


class TestTheSize:
    @pytest.mark.parametrize(
        ("fields", "size"),
        [
            ({}, "832x480"),
            ({"size": "720x1280"}, "720x1280"),
            ({"width": "480", "height": "832"}, "480x832"),
            ({"size": "1280x720", "width": "480", "height": "832"}, "1280x720"),
            ({"width": "850", "height": "490"}, "848x480"),
            ({"size": "854x480"}, "848x480"),
            ({"aspect_ratio": "9:16"}, "480x832"),
            ({"aspect_ratio": "1:1"}, "624x624"),
            ({"aspect_ratio": "auto"}, "832x480"),
            ({"size": "720p"}, "1280x720"),
        ],
    )
    def test_in_pixels(self, made, fields, size):
        assert made(**fields).parameters["size"] == size

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"size": "1024x1792"}, "size"),
            ({"size": "large"}, "size"),
            ({"width": "480"}, "height"),
            ({"width": "1920", "height": "1080"}, "width"),
            ({"width": "x", "height": "480"}, "width"),
            ({"width": "1.5", "height": "480"}, "width"),
            ({"aspect_ratio": "0:1"}, "aspect_ratio"),
            ({"aspect_ratio": "wide"}, "aspect_ratio"),
            ({"short_edge": "720"}, "short_edge"),
        ],
    )
    def test_beyond_the_limits_is_refused(self, create, fields, param):
        assert refused(create(**fields))[0] == param

    def test_what_was_changed_is_told(self, made):
        assert made(size="854x480").warnings == ["The size was rounded down to 848x480."]
        assert made(size="832x480", width="1280").warnings == ["width was ignored, since there is a size."]


class TestTheImage:
    @pytest.mark.parametrize(
        "fields",
        [
            {"input_reference": file},
            {"input_reference": lambda: DATA_URL},
            {"input_reference[image_url]": lambda: DATA_URL},
            {"input_reference": lambda: json.dumps({"image_url": DATA_URL})},
            {"image_reference": lambda: json.dumps({"image_url": DATA_URL})},
            {"image_reference": lambda: json.dumps([{"image_url": DATA_URL}])},
            {"image_reference": lambda: json.dumps({"image_url": {"url": DATA_URL}})},
            {"reference_url": lambda: DATA_URL},
            {"image_base64": lambda: DATA_URL},
        ],
    )
    def test_comes_in_many_forms(self, made, fields):
        job = made(**{name: make() for name, make in fields.items()})

        assert (job.kind, job.warnings) == ("image-to-video", [])

    @pytest.mark.parametrize("value", [DATA_URL, {"image_url": DATA_URL}])
    def test_also_in_json(self, api, value):
        body = {"prompt": "A cat", "input_reference": value, "fit": "pad"}
        answer = api.post("/v1/videos", body, content_type="application/json")

        assert Job.objects.get(pk=answer.json()["id"]).parameters["fit"] == "pad"

    @pytest.mark.parametrize("name", ["input_reference", "input_reference[image_url]", "reference_url"])
    def test_is_fetched(self, made, own, name):
        assert made(**{name: f"{own.url}/image"}).kind == "image-to-video"

    def test_gives_the_video_its_shape_unless_a_size_is_asked_for(self, made):
        assert made(input_reference=file(picture(480, 832))).parameters["size"] == "480x832"
        assert made(input_reference=file(picture(480, 832)), size="832x480").parameters["size"] == "832x480"

    def test_an_own_last_frame_comes_beside_it(self, made):
        assert made(input_reference=file(), last_image_base64=DATA_URL).kind == "first-last-frame"

    @pytest.mark.parametrize("name", ["input_reference", "image_reference", "reference_url"])
    @pytest.mark.parametrize(
        "value",
        [
            "/etc/passwd",
            "cat.png",
            "file:///etc/passwd",
            '{"image_url": "/etc/passwd"}',
            "[]",
            "{",
            '["a","b"]',
        ],
    )
    def test_a_path_is_never_read(self, create, name, value):
        assert refused(create(**{name: value}))[0] == name

    def test_stored_files_are_not_to_be_had(self, create):
        assert refused(create(**{"input_reference[file_id]": "file-1"}))[0] == "input_reference"

    def test_what_is_none_is_an_error_of_its_field(self, create):
        assert refused(create(input_reference=file(b"no image")))[0] == "input_reference"
        assert refused(create(input_reference=file(b"")))[0] == "input_reference"
        assert refused(create(image_reference="http://127.0.0.1/a.png"))[0] == "image_reference"

    def test_two_are_refused(self, create):
        assert refused(create(input_reference=file(), reference_url=DATA_URL))[0] == "input_reference"
        assert refused(create(input_reference=[file(), file()]))[0] == "input_reference"
        both = {"input_reference": file(), "input_reference[image_url]": DATA_URL}
        assert refused(create(**both))[0] == "input_reference"

    def test_a_file_where_none_belongs(self, create):
        assert refused(create(prompt=file()))[0] == "prompt"
        assert refused(create(size=file()))[0] == "size"
        assert refused(create(image_url=file()))[0] == "image_url"


class TestNumbersAndTruth:
    def test_come_as_text(self, made):
        job = made(model="quality", num_inference_steps="40", guidance_scale="4.0", flow_shift="5", seed="7")

        assert (job.parameters["steps"], job.parameters["guidance_scale"]) == (40, 4)
        assert (job.parameters["guidance_scale_2"], job.parameters["flow_shift"], job.seed) == (4, 5, 7)

    def test_beyond_the_presets_limits_have_the_name_of_the_request(self, create):
        param, message = refused(create(model="quality", num_inference_steps="100"))

        assert param == "num_inference_steps"
        assert message.startswith("num_inference_steps: ")

    def test_what_the_preset_does_not_take_is_ignored_with_a_warning(self, made):
        assert made(num_inference_steps="40", guidance_scale_2="3").warnings == [
            "num_inference_steps was ignored: the preset fast does not take it.",
            "guidance_scale_2 was ignored: the preset fast does not take it.",
        ]

    @pytest.mark.parametrize("value", ["False", "false", "0"])
    def test_what_is_off_is_off(self, made, value):
        assert made(enable_frame_interpolation=value, generate_sound=value).warnings == []

    @pytest.mark.parametrize("value", ["True", "true", "1"])
    def test_what_cannot_be_switched_on_is_refused(self, create, value):
        assert refused(create(enable_frame_interpolation=value))[0] == "enable_frame_interpolation"


class TestWhatWouldMakeSomethingElse:
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"n": "2"}, "n"),
            ({"num_outputs_per_prompt": "2"}, "num_outputs_per_prompt"),
            ({"lora": '{"name": "a", "path": "/a"}'}, "lora"),
            ({"lora[name]": "a"}, "lora"),
            ({"video_reference": "{}"}, "video_reference"),
            ({"video_path": "/a.mp4"}, "video_path"),
            ({"audio_reference": "a"}, "audio_reference"),
            ({"prompt": ""}, "prompt"),
        ],
    )
    def test_is_refused_with_the_fields_name(self, create, fields, param):
        assert refused(create(**fields))[0] == param

    def test_what_has_no_meaning_is_ignored_with_a_warning(self, made):
        job = made(user="me", n="1", num_outputs_per_prompt="1", negative="x", seconds="")

        assert sorted(job.warnings) == ["negative was ignored.", "user was ignored."]

    def test_text_that_is_not_utf_8(self, api):
        answer = api.post("/v1/videos", b"prompt=%E4", content_type="application/x-www-form-urlencoded")

        assert refused(answer)[0] == "prompt"

    def test_a_field_twice(self, api):
        answer = api.post("/v1/videos", "prompt=a&prompt=b", content_type="application/x-www-form-urlencoded")

        assert refused(answer)[0] == "prompt"


def test_an_idempotency_key_counts_here_as_well(api):
    def post(**fields):
        return api.post("/v1/videos", {"prompt": "A cat"} | fields, headers={"Idempotency-Key": "abc"})

    first = post(input_reference=file())

    assert post(input_reference=file()).json()["id"] == first.json()["id"]
    assert post(input_reference=file(picture(48, 64))).status_code == 422
    assert post().json()["error"]["code"] == "idempotency_key_reused"


def test_the_same_limits_hold_as_at_the_other_door(client, settings):
    settings.MAX_WAITING = 0
    answer = client.post("/v1/videos", {"prompt": "A cat"}, headers={"Authorization": f"Bearer {KEY}"})

    assert answer.status_code == 503
    assert answer["Retry-After"] == "60"
