"""POST /generate."""

import base64
import gzip
import io
import json

import boto3
import pytest
from PIL import Image

from jobs.models import Job
from tests.factories import make_job, picture
from tests.stack import S3_URL

pytestmark = pytest.mark.django_db


def stored_image(job_id):
    s3 = boto3.client("s3", endpoint_url=S3_URL)
    return Image.open(io.BytesIO(s3.get_object(Bucket="wanapi", Key=f"inputs/{job_id}.png")["Body"].read()))


def refused(api, body, status=400):
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = api.post("/generate", content, content_type="application/json")
    assert answer.status_code == status, answer.content
    assert not Job.objects.exists()
    return answer.json()


def test_it_answers_with_exactly_the_fields_of_the_reference(api):
    answer = api.post("/generate", {"prompt": "A cat dancing on the moon"}, content_type="application/json")

    assert answer.status_code == 200
    job = Job.objects.get()
    assert answer.json() == {"job_id": str(job.pk), "status": "queued", "position": 0}
    assert (job.prompt, job.kind, job.preset_name) == ("A cat dancing on the moon", "text-to-video", "fast")


def test_it_wakes_the_render_cluster_in_the_same_transaction(api, submit):
    from django_q.models import OrmQ

    submit()

    message = OrmQ.objects.get(key="render")
    assert message.task["func"] == "jobs.render.render"
    assert message.task["args"] == ()


def test_position_counts_the_queued_jobs_before_this_one(api, submit):
    make_job(status="completed")
    submit(), submit()

    answer = api.post("/generate", {"prompt": "A dog"}, content_type="application/json")

    assert answer.json()["position"] == 2


def test_equal_requests_make_different_videos(submit):
    submit(), submit()

    first, second = Job.objects.values_list("seed", flat=True)
    assert first != second


def test_a_job_keeps_its_prompt_as_sent(api, submit):
    prompt = "  Ein Kätzchen 🐈\n\ttanzt (1.5)  "

    submit(prompt=prompt)

    assert Job.objects.get().prompt == prompt


def test_white_space_does_not_count_towards_the_limit(api, submit):
    submit(prompt=" " * 500 + "x" * 10_000)


@pytest.mark.parametrize(
    "prompt", [None, "", "  \n ", 5, ["a"], {"a": 1}, True, "x" * 10_001, "a\x00b", "a\ud800b"]
)
def test_it_refuses_a_prompt_that_is_none(api, prompt):
    answer = refused(api, {"prompt": prompt})

    assert list(answer["errors"]) == ["prompt"]
    assert answer["detail"].startswith("prompt: ")


def test_it_refuses_a_missing_prompt(api):
    assert refused(api, {}) == {
        "detail": "prompt: This field is required.",
        "errors": {"prompt": ["This field is required."]},
    }


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"a"',
        b"null",
        b'{"prompt": NaN}',
        b'{"prompt": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"prompt": "A cat", "prompt": "A dog"}',
        b'{"prompt": "A cat", "n": ' + b"9" * 5000 + b"}",
        '{"prompt": "A cat"}'.encode("utf-16"),
    ],
)
def test_it_refuses_a_body_that_is_no_json_object(api, body):
    assert set(refused(api, body)) == {"detail"}


@pytest.mark.parametrize("prompt", ["A cat", "Eine Kätzchen", "\ufeffA cat"])
def test_a_byte_order_mark_before_the_body_does_no_harm(api, db, prompt):
    body = json.dumps({"prompt": prompt}, ensure_ascii=False).encode("utf-8-sig")

    answer = api.post("/generate", body, content_type="application/json")

    assert answer.status_code == 200
    assert Job.objects.get().prompt == prompt


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf" * 2 + b"{}", b"\xef\xbb\xbf", b"\xff\xfe{\0}\0", b"\xef\xbb{}"]
)
def test_what_only_looks_like_one_is_refused(api, body):
    assert refused(api, body)["detail"].startswith("The body is not JSON")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"prompt":\n  "A cat" "seed": 1}', "line 2, column 11: Expecting ',' delimiter."),
        (b'{"prompt": "A\ncat"}', "line 1, column 14: Invalid control character. (A line break"),
        (b'{"prompt": "K\xe4tzchen"}', "byte 14 is of another encoding."),
        (b'{"prompt": "A cat", "seed": NaN}', "it has a number that JSON does not know."),
    ],
)
def test_it_says_where_a_body_is_no_json(api, body, sentence):
    assert sentence in refused(api, body)["detail"]


def test_it_refuses_other_content_types(api):
    answer = api.post("/generate", {"prompt": "A cat"})  # a form

    assert answer.status_code == 415
    assert "as application/json, and say so in the Content-Type header" in answer.json()["detail"]


def test_it_refuses_a_compressed_body(api):
    body, headers = gzip.compress(b'{"prompt": "A cat"}'), {"Content-Encoding": "gzip"}

    answer = api.post("/generate", body, content_type="application/json", headers=headers)

    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["detail"]


def test_it_refuses_a_body_that_is_too_large(api, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000

    assert refused(api, {"prompt": "A cat", "other": "x" * 1000}, status=413) == {
        "detail": "The request body is too large."
    }


def test_unknown_fields_are_ignored(api, submit):
    submit(stepz=5, image_url=None, image_base64="")

    assert Job.objects.get().kind == "text-to-video"


class TestImage:
    def test_it_is_stored_in_the_size_of_the_model(self, api, submit):
        job_id = submit(image_base64=base64.b64encode(picture(2000, 1000)).decode())

        assert Job.objects.get().kind == "image-to-video"
        image = stored_image(job_id)
        assert (image.format, image.size, image.mode) == ("PNG", (832, 480), "RGB")

    @pytest.mark.parametrize(
        "encoded",
        [
            lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
            lambda data: base64.b64encode(data).decode().rstrip("="),
            lambda data: base64.urlsafe_b64encode(data).decode(),
            lambda data: base64.encodebytes(data).decode(),
        ],
        ids=["data prefix", "no padding", "url-safe", "line breaks"],
    )
    def test_base64_comes_in_several_forms(self, api, submit, encoded):
        data = picture(61, 47, mode="RGBA")
        submit(image_base64=encoded(data))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"no image at all", "not a PNG, JPEG or WebP"),
            (picture(format="GIF", mode="P"), "not a PNG, JPEG or WebP"),
            (picture(400, 400, "JPEG")[:-200], "damaged or incomplete"),
            (picture(400, 400)[:-100], "damaged or incomplete"),
            (picture(8000, 5001, mode="1"), "40 megapixels"),
            (picture(16, 15), "Each side must have 16 to 16,384 pixels."),
            (picture(16_385, 16, mode="1"), "Each side"),
        ],
        ids=["text", "gif", "cut jpeg", "cut png", "bomb", "small", "long"],
    )
    def test_it_refuses_what_is_no_whole_image(self, api, data, reason):
        answer = refused(api, {"prompt": "A cat", "image_base64": base64.b64encode(data).decode()})

        assert reason in answer["errors"]["image_base64"][0]

    @pytest.mark.parametrize("text", ["%%%", "a", "Zm9v!mFy"])
    def test_it_refuses_what_is_no_base64(self, api, text):
        assert "Base64" in str(refused(api, {"prompt": "A cat", "image_base64": text}))

    def test_a_server_that_cannot_read_images_says_so(self, api, submit, monkeypatch, caplog):
        monkeypatch.setattr("jobs.media.images.sys.executable", "/nothing/here")
        body = {"prompt": "A cat", "image_base64": base64.b64encode(picture()).decode()}

        assert refused(api, body, status=503) == {
            "detail": "The server cannot read images at the moment; please try again later."
        }
        assert "jobs.media.decode" in caplog.text
        submit()

    def test_base64_wins_over_a_url(self, api, submit):
        submit(
            image_base64=base64.b64encode(picture()).decode(), image_url="http://127.0.0.1:1/never-fetched"
        )

    def test_without_s3_image_jobs_get_503_and_text_jobs_are_accepted(self, api, submit, settings):
        from jobs.media import storage

        settings.S3_ENDPOINT_URL = "http://127.0.0.1:1"
        storage._kept_client.cache_clear()
        image = base64.b64encode(picture()).decode()

        refused(api, {"prompt": "A cat", "image_base64": image}, status=503)
        submit()
