"""jobs.media.storage on stores with the manners of others than AWS in us-east-1, and check_setup on each."""

import contextlib
import hashlib
import io
import uuid
from concurrent.futures import ThreadPoolExecutor

import botocore.awsrequest
import pytest
import requests
from django.core.management import CommandError, call_command

from jobs.media import storage
from jobs.models import Job
from jobs.queue.returns import purge
from tests.factories import make_job
from tests.fronts import serving as serving_front
from tests.stores import Store, serving

FRAMED = b"5\r\nhello\r\n0\r\n\r\n"  # as aws-chunked sends it


@pytest.fixture
def store(settings, monkeypatch):
    """Makes one, and points the service at it."""
    monkeypatch.setattr(storage, "_regions", storage.Regions())
    monkeypatch.setattr(storage, "REGION_PAUSE", 0)
    running = []

    def make(**manners):
        context = serving(Store(**manners))
        running.append(context)
        made = context.__enter__()
        settings.S3_ENDPOINT_URL = settings.S3_PUBLIC_ENDPOINT_URL = made.url
        return made

    yield make
    for context in running:
        context.__exit__(None, None, None)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"hello")
    return path


def check_setup():
    output = io.StringIO()
    with contextlib.suppress(CommandError):
        call_command("check_setup", stdout=output)
    return next(line for line in output.getvalue().splitlines() if line.startswith("S3: "))


@pytest.mark.django_db
@pytest.mark.parametrize(
    "manners",
    [
        {},
        {"region": "eu-west-2"},
        {"region": "garage", "tells_region": False},
        {"delete": (404, "NoSuchKey")},
        {"etag": "5d41402abc4b2a76b9719d911017c592-1"},
        {"etag": hashlib.md5(b"encrypted").hexdigest()},
    ],
    ids=[
        "aws",
        "another region",
        "a region that is not told",
        "delete is a 404",
        "etag of parts",
        "etag of kms",
    ],
)
class TestStoresThatWork:
    def test_check_setup_says_so_and_leaves_nothing(self, store, manners):
        made = store(**manners)

        assert check_setup() == "S3: ok"
        assert made.objects == {}

    def test_a_video_is_stored_its_link_works_and_it_can_be_removed(self, store, manners, video):
        made, job = store(**manners), make_job(status="completed")

        storage.put_video(job.video_key, video, filename="x.mp4")

        assert requests.get(storage.link(job.video_key), timeout=5).content == b"hello"
        assert purge(job) == 1  # it never had an image, nor a poster
        assert made.objects == {}

    def test_no_request_bears_what_some_stores_refuse(self, store, manners, video):
        made = store(**manners)

        storage.put("inputs/x.png", b"hello")
        storage.put_video("videos/x/1.mp4", video, filename="x.mp4")

        names = {name.lower() for _, _, headers in made.requests for name in headers}
        assert not {name for name in names if "checksum" in name or "trailer" in name}


@pytest.mark.parametrize(
    "keeps",
    [lambda body: FRAMED, lambda body: body[:-1], lambda body: b"HELLO"],
    ids=["framed", "cut", "other"],
)
@pytest.mark.parametrize("etag", ["", "5d41402abc4b2a76b9719d911017c592-1"])
class TestStoresThatKeepOtherBytes:
    def test_a_video_or_image_is_not_taken_for_stored(self, store, video, keeps, etag):
        store(keeps=keeps, etag=etag or hashlib.md5(keeps(b"hello")).hexdigest())

        with pytest.raises(storage.StorageError, match="S3 holds"):
            storage.put_video("videos/x/1.mp4", video, filename="x.mp4")
        with pytest.raises(storage.StorageError, match="S3 holds"):
            storage.put("inputs/x.png", b"hello")

    @pytest.mark.django_db
    def test_check_setup_says_so(self, store, keeps, etag):
        store(keeps=keeps, etag=etag or "0" * 32)

        assert "s3:PutObject on inputs/ failed: S3 holds" in check_setup()


def test_a_cut_object_under_the_right_etag_is_found_by_its_size(store, video):
    store(keeps=lambda body: body[:-1])

    with pytest.raises(storage.StorageError, match="S3 holds 4 bytes of videos/x/1"):
        storage.put_video("videos/x/1.mp4", video, filename="x.mp4")


@pytest.mark.django_db
class TestDelete:
    @pytest.mark.parametrize(
        "manner", [(404, "NoSuchBucket"), (404, "404"), (403, "AccessDenied"), (500, "x")]
    )
    def test_another_answer_than_that_the_object_is_not_there_keeps_the_row(self, api, store, manner):
        store(delete=manner)
        job = make_job(status="completed")

        assert api.delete(f"/jobs/{job.pk}").status_code == 503

        assert Job.objects.filter(pk=job.pk).exists()

    def test_a_wrong_address_keeps_the_row(self, api, live_server, settings):
        settings.S3_ENDPOINT_URL = f"{live_server.url}/nothing"  # answers 404 in JSON
        job = make_job(status="completed")

        assert api.delete(f"/jobs/{job.pk}").status_code == 503

        assert Job.objects.filter(pk=job.pk).exists()


class TestRegion:
    @pytest.mark.parametrize(
        ("bucket", "address"),
        [
            ("wanapi", "https://wanapi.s3.eu-west-2.amazonaws.com/videos/"),
            ("my.bucket", "https://s3.eu-west-2.amazonaws.com/my.bucket/videos/"),
        ],
    )
    def test_links_of_aws_lead_to_the_server_of_the_region(self, settings, monkeypatch, bucket, address):
        """The one for all regions does not know buckets of the newer regions."""
        monkeypatch.setattr(storage.Regions, "of", lambda *_: "eu-west-2")
        storage._kept_client.cache_clear()
        settings.S3_BUCKET = bucket

        assert storage.link_at(None, "videos/x/1.mp4").startswith(address)

    def test_it_is_asked_once(self, store):
        made = store(region="eu-west-2")

        links = [storage.link(f"videos/{number}/1.mp4") for number in range(5)]

        assert all("%2Feu-west-2%2Fs3%2F" in link for link in links)
        assert (
            len([command for command, key, _ in made.requests if not key]) == 2
        )  # the first for another region

    def test_whoever_reads_at_the_start_of_a_process_waits_for_it(self, store):
        store(region="eu-west-2")

        with ThreadPoolExecutor(8) as threads:
            links = list(threads.map(storage.link, [f"videos/{number}/1.mp4" for number in range(8)]))

        assert all("%2Feu-west-2%2Fs3%2F" in link for link in links)

    def test_while_s3_is_away_links_are_signed_for_the_configured_one(self, store, settings):
        made = store(region="eu-west-2")
        settings.S3_ENDPOINT_URL, url = "http://127.0.0.1:1", settings.S3_ENDPOINT_URL
        assert "%2Fus-east-1%2Fs3%2F" in storage.link("videos/x/1.mp4")

        settings.S3_ENDPOINT_URL = url
        made.objects["videos/x/1.mp4"] = b"x"
        assert requests.get(storage.link("videos/x/1.mp4"), timeout=5).status_code == 200

    def test_a_role_that_may_not_list_is_no_hindrance(self, store):
        made = store(region="eu-west-2", lists=False)
        made.objects["videos/x/1.mp4"] = b"x"

        assert requests.get(storage.link("videos/x/1.mp4"), timeout=5).status_code == 200


@pytest.mark.django_db
class TestCheckSetup:
    def test_links_to_an_address_that_cannot_be_reached_from_here_are_tried_at_our_own(self, store, settings):
        store()
        settings.S3_PUBLIC_ENDPOINT_URL = "http://127.0.0.1:1"

        assert check_setup() == (
            "S3: ok, but S3_PUBLIC_ENDPOINT_URL cannot be reached from here: open the link of a first job."
        )

    def test_links_that_are_refused_are_an_error(self, store, monkeypatch):
        store(region="eu-west-2")
        monkeypatch.setattr(storage.Regions, "of", lambda *_: "us-east-1")

        assert "S3: s3:GetObject on videos/, by a signed link, failed: S3 answers 400" in check_setup()

    def test_a_redirect_is_named(self, settings):
        with serving_front("http://127.0.0.1:1") as front:
            front.rule = lambda *_: (302, "/login", b"")
            settings.S3_ENDPOINT_URL = settings.S3_PUBLIC_ENDPOINT_URL = front.url

            assert "S3_ENDPOINT_URL leads to a redirect" in check_setup()

    def test_a_store_that_cannot_remove_is_an_error(self, store):
        store(delete=(501, "NotImplemented"))

        assert "s3:DeleteObject on inputs/ and videos/ failed" in check_setup()


def test_over_tls_nothing_is_sent_in_frames(settings, monkeypatch):
    """boto3 would by itself: some stores keep the frames."""
    sent = []
    client = storage._new_client("https://127.0.0.1:1")
    client.meta.events.register(
        "before-send.s3", lambda request, **_: sent.append(request) or answer(request)
    )
    monkeypatch.setattr(storage, "_client", lambda *_: client)

    with pytest.raises(storage.StorageError):  # the stand-in's answer to HEAD has no length
        storage.put("inputs/x.png", b"hello")

    assert "aws-chunked" not in str(sent[0].headers)
    assert sent[0].headers["Content-Length"] == "5"


def answer(request):
    raw = io.BytesIO()
    raw.stream = lambda **_: iter([])
    return botocore.awsrequest.AWSResponse(request.url, 200, {"ETag": '"x"', "Content-Length": "0"}, raw)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(store, monkeypatch):
    store()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    client = storage._new_client(storage.settings.S3_ENDPOINT_URL)

    assert client.put_object(Bucket="wanapi", Key=str(uuid.uuid4()), Body=b"x")["ETag"]
