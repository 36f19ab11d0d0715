"""What a request may ask for beside its prompt: each parameter through HTTP into the job's row."""

import base64
import io
import threading

import boto3
import pytest
from django.test import override_settings
from PIL import Image

from comfy import presets
from jobs.media import storage
from jobs.models import Job
from tests.factories import encoded_picture, picture
from tests.stack import S3_URL

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quality(settings):
    settings.WORKFLOW_PRESET = "quality"  # which takes the most


@pytest.fixture
def stored():
    """The image in S3 under a key."""

    def read(key):
        body = boto3.client("s3", endpoint_url=S3_URL).get_object(Bucket="wanapi", Key=key)["Body"]
        return Image.open(io.BytesIO(body.read()))

    return read


def encoded(*size):
    return base64.b64encode(picture(*size)).decode()


def parameters(submit, **body):
    submit(**body)
    return Job.objects.latest("created_at").shown_parameters


def refused(api, **body):
    """The field, and what is said of it."""
    answer = api.post("/generate", {"prompt": "A cat"} | body, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert not Job.objects.exists()
    [(field, [sentence])] = answer.json()["errors"].items()
    return field, sentence


def test_without_any_the_job_has_what_the_reference_says(submit):
    found = parameters(submit)

    negative, seed = found.pop("negative_prompt"), found.pop("seed")
    assert found == {
        "preset": "quality",
        "size": "832x480",
        "num_frames": 81,
        "fps": 16,
        "steps": 20,
        "guidance_scale": 3.5,
        "guidance_scale_2": 3.5,
        "flow_shift": 8.0,
    }
    assert "静态" in negative
    assert 0 <= seed < 2**48


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"preset": "fast"}, {"preset": "fast"}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": 2**53 - 1}, {"seed": 2**53 - 1}),
        ({"negative_prompt": " rain (heavy) "}, {"negative_prompt": " rain (heavy) "}),
        ({"size": "", "fit": "", "preset": "", "steps": None}, {"size": "832x480", "steps": 20}),
        ({"size": "480x832"}, {"size": "480x832"}),
        ({"size": "256x1280"}, {"size": "256x1280"}),
        ({"size": "720p"}, {"size": "1280x720"}),
        ({"size": "480p"}, {"size": "832x480"}),
        ({"size": "auto"}, {"size": "832x480"}),
        ({"num_frames": 5}, {"num_frames": 5}),
        ({"num_frames": 41.0}, {"num_frames": 41}),
        ({"seconds": 5}, {"num_frames": 81}),
        ({"seconds": 3.2, "fps": 24}, {"num_frames": 53, "fps": 24}),
        ({"fps": 30}, {"fps": 30, "num_frames": 81}),
        ({"steps": 4}, {"steps": 4}),
        ({"guidance_scale": 5}, {"guidance_scale": 5, "guidance_scale_2": 5}),
        ({"guidance_scale": 5, "guidance_scale_2": 2.5}, {"guidance_scale": 5, "guidance_scale_2": 2.5}),
        ({"flow_shift": 5}, {"flow_shift": 5}),
        (
            dict.fromkeys(["seed", "size", "num_frames", "preset", "fit"]),
            {"size": "832x480", "num_frames": 81},
        ),
    ],
    ids=str,
)
def test_what_was_asked_is_stored_and_shown(submit, asked, found):
    assert parameters(submit, **asked).items() >= found.items()


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({"preset": "slow"}, "preset", "quality, fast"),
        ({"preset": 5}, "preset", "string"),
        ({"preset": presets.find("fast").reference}, "preset", "quality, fast"),
        ({"seed": -1}, "seed", "from 0"),
        ({"seed": 2**53}, "seed", "from 0"),
        ({"seed": 1.5}, "seed", "whole number"),
        ({"seed": True}, "seed", "whole number"),
        ({"seed": "7"}, "seed", "whole number"),
        ({"seed": 1e308}, "seed", "from 0"),
        ({"negative_prompt": "x" * 10_001}, "negative_prompt", "10,000"),
        ({"negative_prompt": ["rain"]}, "negative_prompt", "string"),
        ({"negative_prompt": "a\x00b"}, "negative_prompt", "NUL"),
        ({"size": "832"}, "size", "WIDTHxHEIGHT"),
        ({"size": "832X480"}, "size", "WIDTHxHEIGHT"),
        ({"size": "0832x480"}, "size", "WIDTHxHEIGHT"),
        ({"size": "８３２x480"}, "size", "WIDTHxHEIGHT"),
        ({"size": "833x480"}, "size", "multiples of 16"),
        ({"size": "240x480"}, "size", "from 256"),
        ({"size": "1280x736"}, "size", "921,600 is the most"),
        ({"size": "x" * 21}, "size", "20"),
        ({"num_frames": 80}, "num_frames", "77 or 81"),
        ({"num_frames": 4}, "num_frames", "from 5"),
        ({"num_frames": 85}, "num_frames", "to 81"),
        ({"num_frames": True}, "num_frames", "whole number"),
        ({"num_frames": 81, "seconds": 5}, "seconds", "not both"),
        ({"seconds": 0}, "seconds", "from 0.31 to 5.06"),
        ({"seconds": 6}, "seconds", "from 0.31 to 5.06"),
        ({"seconds": 1e308}, "seconds", "from"),
        ({"seconds": 1e-320}, "seconds", "from"),
        ({"fps": 7}, "fps", "from 8"),
        ({"fps": 16.5}, "fps", "whole number"),
        ({"steps": 3}, "steps", "at least 4"),
        ({"steps": 51}, "steps", "at most 50"),
        ({"guidance_scale": 0.5}, "guidance_scale", "at least 1"),
        ({"guidance_scale_2": 21}, "guidance_scale_2", "at most 20"),
        ({"flow_shift": "8"}, "flow_shift", "number"),
        ({"fit": "stretch"}, "fit", "cut"),
        ({"fit": "pad"}, "fit", "there is none"),
        ({"preset": "fast", "steps": 8}, "steps", "fast does not take it"),
        ({"preset": "fast", "guidance_scale": 2}, "guidance_scale", "fast does not take it"),
        ({"last_image_base64": "no image"}, "last_image_base64", "not a PNG"),
        ({"last_image_url": "file:///etc/passwd"}, "last_image_url", "URL"),
        ({"last_image_url": "http://127.0.0.1/"}, "last_image_url", "not public"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words_and_nothing_is_stored(api, asked, field, words):
    found, sentence = refused(api, **asked)

    assert found == field
    assert words in sentence


NUMBERS = (
    "seed",
    "num_frames",
    "seconds",
    "fps",
    "steps",
    "guidance_scale",
    "guidance_scale_2",
    "flow_shift",
)
WHOLE = ("seed", "num_frames", "fps", "steps")
NO_NUMBERS = (
    "1e309",
    "-1e309",
    "NaN",
    "Infinity",
    "1" * 5000,
    "1e308",
    "-1",
    "true",
    '"8"',
    "[8]",
    '{"a": 8}',
)


def test_what_is_no_number_in_range_is_refused(api):
    for field in NUMBERS:
        for value in NO_NUMBERS:
            body = f'{{"prompt": "A cat", "{field}": {value}}}'
            answer = api.post("/generate", body, content_type="application/json")
            assert answer.status_code == 400, (field, value)
            is_json = "errors" in answer.json()
            assert list(answer.json()["errors"]) == [field] if is_json else "JSON" in answer.json()["detail"]
    assert not Job.objects.exists()


def test_a_text_of_10_mb_is_refused_at_any_place(api):
    for field in ("preset", "negative_prompt", "size", "fit", "last_image_url", *NUMBERS):
        assert refused(api, **{field: "8" * 10_000_000})[0] == field


def test_each_image_that_cannot_be_used_is_named_and_none_is_stored(api):
    before = len(list(storage.listed("inputs/")))
    good, bad = encoded_picture(), "no image"
    for fields in (["image_base64"], ["last_image_base64"], ["image_base64", "last_image_base64"]):
        body = {"prompt": "A cat", "image_base64": good, "last_image_base64": good} | dict.fromkeys(
            fields, bad
        )
        answer = api.post("/generate", body, content_type="application/json")
        assert answer.status_code == 400
        assert list(answer.json()["errors"]) == fields
    assert len(list(storage.listed("inputs/"))) == before


def test_openapi_tells_numbers_from_texts(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]["properties"]

    found = {name: schema[name]["type"][0] for name in schema if name not in ("prompt", "webhook_events")}
    numbers = {name: kind for name, kind in found.items() if kind != "string"}
    assert numbers == dict.fromkeys(NUMBERS, "number") | dict.fromkeys(WHOLE, "integer")
    assert (schema["seed"]["minimum"], schema["seed"]["maximum"]) == (0, 2**53 - 1)


@pytest.mark.parametrize(
    ("picture_size", "asked", "size"),
    [
        ((600, 800), {}, "832x480"),
        ((600, 800), {"size": "auto"}, "544x720"),
        ((600, 800), {"size": "720p"}, "816x1104"),
        ((600, 800), {"size": "480p"}, "544x720"),
        ((2000, 200), {"size": "auto"}, "1280x256"),
        ((600, 800), {"size": "480x832"}, "480x832"),
    ],
    ids=str,
)
def test_the_size_follows_the_image_where_that_is_asked_for(submit, stored, picture_size, asked, size):
    found = parameters(submit, image_base64=encoded(*picture_size), **asked)

    assert found["size"] == size
    assert "{}x{}".format(*stored(Job.objects.get().input_key).size) == size


def test_an_image_of_another_shape_is_cut_or_padded(submit, stored):
    red = base64.b64encode(picture(400, 800)).decode()
    for fit, corner_is_black in (("cut", False), ("pad", True)):
        parameters(submit, image_base64=red, fit=fit)
        image = stored(Job.objects.latest("created_at").input_key)
        assert (image.getpixel((2, 240)) == (0, 0, 0)) == corner_is_black


def test_a_last_frame_comes_with_a_first_one_or_alone_in_the_same_size(submit, stored):
    both = {"image_base64": encoded(600, 800), "last_image_base64": encoded(300, 300), "size": "auto"}
    for body in (both, {"last_image_base64": encoded(600, 800), "size": "auto"}):
        submit(**body)
        job = Job.objects.latest("created_at")
        assert job.kind == "first-last-frame"
        assert {stored(key).size for key in job.input_keys} == {(544, 720)}
        assert len(job.input_keys) == len([name for name in body if "image" in name])


def test_two_images_take_one_place_after_the_other(submit, monkeypatch):
    monkeypatch.setattr("jobs.media.images._slots", threading.BoundedSemaphore(1))

    submit(image_base64=encoded_picture(), last_image_base64=encoded_picture())


class TestWarnings:
    def test_an_unknown_field_is_named_with_the_one_that_may_be_meant(self, api, submit):
        job_id = submit(zzz=1, num_frame=41, SEED=1, aaa=1)

        assert api.get(f"/jobs/{job_id}").json()["warnings"] == [
            "zzz was ignored.",
            "num_frame was ignored; did you mean num_frames?",
            "SEED was ignored; did you mean seed?",
            "aaa was ignored.",
        ]

    def test_a_name_may_hold_what_postgres_does_not_take(self, api, submit):
        job_id = submit(**{"a\x00b": 1, "\ud800": 1, "\u202e": 1, "": 1})

        assert api.get(f"/jobs/{job_id}").json()["warnings"] == [
            "a?b was ignored.",
            "? was ignored.",
            "? was ignored.",
            "A field without a name was ignored.",
        ]

    def test_many_long_names_are_told_in_part(self, api, submit):
        job_id = submit(**{f"{number}{'x' * 100}": 1 for number in range(20)})

        warnings = api.get(f"/jobs/{job_id}").json()["warnings"]
        assert len(warnings) == 10
        assert max(map(len, warnings)) < 100

    @pytest.mark.parametrize(
        ("asked", "warned"),
        [
            ({"preset": "fast", "negative_prompt": "rain"}, True),
            ({"preset": "quality", "negative_prompt": "rain"}, False),
            ({"preset": "quality", "negative_prompt": "rain", "guidance_scale": 1}, True),
            ({"preset": "fast"}, False),
        ],
        ids=str,
    )
    def test_a_negative_prompt_without_guidance_has_no_effect(self, submit, asked, warned):
        submit(**asked)

        assert bool(Job.objects.get().warnings) == warned


class TestOperatorsLimits:
    @override_settings(MAX_FRAMES=50, MAX_PIXELS=512 * 512)
    def test_defaults_are_brought_within_them(self, submit):
        assert parameters(submit).items() >= {"size": "672x384", "num_frames": 49}.items()

    @override_settings(MAX_FRAMES=50, MAX_PIXELS=512 * 512)
    @pytest.mark.parametrize(
        "asked", [{"size": "832x480"}, {"size": "480p"}, {"num_frames": 53}, {"seconds": 4}], ids=str
    )
    def test_nothing_larger_passes(self, api, asked):
        assert refused(api, **asked)[0] == next(iter(asked))

    @pytest.mark.parametrize("most", [256 * 256, 512 * 512])
    @pytest.mark.parametrize("shape", [(64, 48), (16_384, 16), (16, 16_384)])
    def test_an_image_gives_no_larger_size(self, submit, settings, most, shape):
        settings.MAX_PIXELS = most
        found = parameters(submit, image_base64=encoded(*shape), size="auto")["size"]
        width, height = map(int, found.split("x"))
        assert width * height <= most
