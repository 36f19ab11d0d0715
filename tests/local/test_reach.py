"""How other machines reach ``make serve``: its addresses, and the port that links lead to."""

import socket
import subprocess
import sys

import boto3
import pytest
import requests

from local import parts, reach
from local.parts import Problem, free_port
from local.reach import Reach, links_port
from tests.factories import eventually
from tests.stack import S3_URL

OURS = "192.0.2.7"


@pytest.fixture(autouse=True)
def address(monkeypatch):
    monkeypatch.setattr("local.reach.own_address", lambda listen: OURS)


@pytest.mark.parametrize(
    ("given", "listen", "public", "is_open"),
    [
        ({}, "127.0.0.1", "127.0.0.1", False),
        ({"HOST": "localhost"}, "localhost", "localhost", False),
        ({"HOST": "0.0.0.0"}, "0.0.0.0", OURS, True),
        ({"HOST": "10.0.0.7"}, "10.0.0.7", "10.0.0.7", True),
        ({"PUBLIC_ADDRESS": "gpu.example"}, "0.0.0.0", "gpu.example", True),
        ({"PUBLIC_ADDRESS": "2001:db8::7"}, "[::]", "[2001:db8::7]", True),
        ({"PUBLIC_ADDRESS": "gpu.example", "HOST": "127.0.0.1"}, "127.0.0.1", "gpu.example", False),
    ],
)
def test_where_it_listens_and_what_clients_call_it(given, listen, public, is_open):
    found = Reach.of(given)

    assert (found.listen, found.public, found.is_open) == (listen, public, is_open)
    assert public in found.allowed_hosts.split(",")
    assert "127.0.0.1" in found.allowed_hosts.split(",")


@pytest.fixture
def taken():
    with socket.socket() as program:
        program.bind(("127.0.0.1", 0))
        program.listen()
        yield program.getsockname()[1]


class TestTheLinksPort:
    def test_it_is_the_same_at_each_start(self, tmp_path, monkeypatch):
        monkeypatch.setattr(reach, "FIRST_PORT", free_port())
        first = links_port(tmp_path, "127.0.0.1")
        monkeypatch.setattr(reach, "FIRST_PORT", free_port())

        assert links_port(tmp_path, "127.0.0.1") == first
        assert not first[1]

    def test_if_another_program_took_it_there_is_a_new_one_and_a_sentence(self, tmp_path, taken):
        (tmp_path / "s3-port").write_text(str(taken))

        port, told = links_port(tmp_path, "127.0.0.1")

        assert port != taken
        assert f"took port {taken}, so links lead to port {port} now" in told
        assert links_port(tmp_path, "127.0.0.1") == (port, "")

    def test_it_is_not_the_services_own(self, tmp_path):
        port = links_port(tmp_path, "127.0.0.1")[0]

        assert links_port(tmp_path, "127.0.0.1", not_this=port)[0] != port

    def test_one_that_was_asked_for_and_is_taken_ends_it_with_a_sentence(self, tmp_path, taken):
        with pytest.raises(Problem, match=f"S3_PORT={taken} cannot be used"):
            links_port(tmp_path, "127.0.0.1", str(taken))


@pytest.fixture(scope="module")
def door():
    port = free_port()
    part = parts.door(host="127.0.0.1", port=port, to=S3_URL, bucket="wanapi", signed_for="gpu.example:9000")
    with subprocess.Popen([sys.executable, "-m", "local.child", "--", *part.command]) as process:
        eventually(lambda: not reach.is_free("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"
        process.terminate()


class TestTheDoor:
    @pytest.fixture
    def link(self, door):
        """One that is signed for gpu.example, at the door's own address."""
        boto3.client("s3", endpoint_url=S3_URL).put_object(Bucket="wanapi", Key="videos/a b", Body=b"video")
        config = boto3.session.Config(signature_version="s3v4", s3={"addressing_style": "path"})
        s3 = boto3.client("s3", endpoint_url="http://gpu.example:9000", config=config)
        return lambda what="get_object": s3.generate_presigned_url(
            what, {"Bucket": "wanapi", "Key": "videos/a b"}
        ).replace("http://gpu.example:9000", door)

    def test_a_link_gives_the_object_and_any_part_of_it(self, link):
        whole, part = (requests.get(link(), headers=h, timeout=10) for h in ({}, {"Range": "bytes=1-2"}))

        assert (whole.status_code, whole.content) == (200, b"video")
        assert (part.status_code, part.content) == (206, b"id")

    def test_a_changed_link_is_refused(self, link):
        assert requests.get(link().replace("a%20b", "c"), timeout=10).status_code == 403

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/_ministack/reset"), ("GET", "/_ministack/health"), ("PUT", "/wanapi/videos/x")],
    )
    def test_nothing_else_of_the_s3_server_can_be_reached(self, door, method, path):
        for signature in ("", "?X-Amz-Signature=0"):
            assert requests.request(method, door + path + signature, timeout=10).status_code == 403

    def test_what_is_not_signed_does_not_even_reach_it(self, door):
        assert "Only signed links" in requests.get(f"{door}/wanapi/videos/a b", timeout=10).text

    def test_nobody_writes_through_it_even_with_a_signature(self, link):
        assert requests.put(link("put_object"), data=b"other", timeout=10).status_code == 403
        assert requests.get(link(), timeout=10).content == b"video"
