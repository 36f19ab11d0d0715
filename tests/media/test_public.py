"""image_url: fetched from public servers only, within a time and a size. The servers here are real ones."""

import resource
import socket
import threading
import time
from ipaddress import ip_network
from urllib.parse import quote

import pytest

from jobs.media.images import CannotRead
from jobs.media.public import fetch
from jobs.models import Job
from tests.factories import eventually, picture
from tests.image_servers import NOT_PUBLIC, full_server, refused
from wanapi.limits import IMAGE_FETCHES


class TestOwnServer:
    def test_its_image_becomes_that_of_the_job(self, api, submit, own, db):
        submit(image_url=f"{own.url}/image")

        assert Job.objects.get().kind == "image-to-video"

    def test_what_fails_is_a_400_with_the_reason(self, api, own, db):
        body = {"prompt": "A cat", "image_url": f"{own.url}/status/404"}
        answer = api.post("/generate", body, content_type="application/json")

        reason = "The image's server answered with status 404."
        assert (answer.status_code, answer.json()["errors"]) == (400, {"image_url": [reason]})
        assert not Job.objects.exists()

    def test_the_whole_body_is_fetched(self, own):
        assert fetch(f"{own.url}/image") == picture()

    @pytest.mark.parametrize(
        ("written", "sent"),
        [
            ("/image/%7Euser/%2b%e2%82%ac?sig=a%2Bb%2f~", None),
            ("/image/../image/./a//b", None),
            ("/image/100%?a=%zz&&b", None),
            ("/image/?", None),
            ("/image/a b/€?c=ü#part", "/image/a%20b/%E2%82%AC?c=%C3%BC"),
            ('/image/{a}|"<b>', "/image/%7Ba%7D%7C%22%3Cb%3E"),
        ],
    )
    def test_a_url_is_sent_byte_for_byte(self, own, written, sent):
        """A server may have signed exactly this text; only what no request may hold is quoted."""
        fetch(own.url + written)

        assert own.paths == [sent or written]

    @pytest.mark.parametrize("server_first", ["", "{}"])
    def test_so_is_one_that_a_server_redirects_to(self, own, server_first):
        written = "/image/%7Euser/%2b%e2%82%ac?sig=a%2Bb%2f~"

        fetch(f"{own.url}/to/{quote(server_first.format(own.url) + written)}")

        assert own.paths[1] == written

    def test_a_redirect_is_followed(self, own):
        assert fetch(f"{own.url}/to//image") == picture()

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("status/404", "The image's server answered with status 404."),
            ("status/500", "The image's server answered with status 500."),
            ("loop", "The image's server redirected more than 3 times."),
            ("half", "The image's server broke off or sent a damaged answer."),
            ("no_gzip", "The image's server broke off or sent a damaged answer."),
            ("nonsense", "The image's server could not be reached, or broke off."),
            ("to/file:///etc/passwd", "Images are fetched from http and https URLs only."),
            ("to/http://127.0.0.1:1/image", "Images are fetched from ports 80 and 443 only."),
            ("to/http://127.0.0.1/image", NOT_PUBLIC),
            ("to/http://[::1]/image", NOT_PUBLIC),
        ],
    )
    def test_the_client_learns_what_went_wrong(self, own, path, reason):
        assert refused(f"{own.url}/{path}") == reason

    def test_a_proxy_of_the_environment_is_not_asked(self, own, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)

        assert fetch(f"{own.url}/image") == picture()

    def test_a_server_without_tls_behind_https(self, own):
        assert (
            refused(f"https://{own.own}/image")
            == "The image's server offers no TLS connection that can be trusted."
        )

    def test_a_server_that_is_not_there(self, settings):
        settings.IMAGE_URL_ALLOW = ["127.0.0.1:1"]

        assert refused("http://127.0.0.1:1/image") == "The image's server could not be reached, or broke off."

    def test_a_redirect_to_a_private_server_that_is_not_on_the_list_never_connects(self, own, any_port):
        assert refused(f"{own.url}/to/http://127.1:{own.server_port}/image") == NOT_PUBLIC
        assert own.connections == 1


class TestLimits:
    def test_a_body_that_never_ends_is_cut_at_the_size_limit(self, own, settings):
        settings.IMAGE_MAX_BYTES = 1_000_000

        assert refused(f"{own.url}/large") == "The image is larger than 1,000,000 bytes."

    def test_the_body_of_a_redirect_is_not_read(self, own, settings):
        settings.IMAGE_URL_TIMEOUT = 2

        assert fetch(f"{own.url}/long_way") == picture()

    @pytest.mark.parametrize("path", ["slow_body", "slow_headers", "silence"])
    def test_a_server_that_takes_for_ever_is_cut_at_the_deadline(self, own, settings, path):
        settings.IMAGE_URL_TIMEOUT = 1
        began = time.monotonic()

        assert refused(f"{own.url}/{path}") == "The image's server took longer than 1 seconds."
        assert 1 <= time.monotonic() - began < 2

    def test_a_server_that_accepts_no_connection_is_cut_at_the_deadline(self, settings):
        settings.IMAGE_URL_TIMEOUT = 1
        with full_server() as own:
            settings.IMAGE_URL_ALLOW = [own]
            began = time.monotonic()

            assert refused(f"http://{own}/image") == "The image's server took longer than 1 seconds."
            assert time.monotonic() - began < 2

    def test_redirects_do_not_start_the_clock_anew(self, own, settings):
        settings.IMAGE_URL_TIMEOUT = 1
        began = time.monotonic()

        assert "longer than 1 seconds" in refused(f"{own.url}/later//later//later//image")
        assert time.monotonic() - began < 2

    def test_a_name_server_that_does_not_answer(self, settings, monkeypatch):
        settings.IMAGE_URL_TIMEOUT = 1
        ended, look_up = threading.Event(), socket.getaddrinfo

        def hang(host, *arguments, **options):
            if host == "slow.example":
                ended.wait()
            return look_up(host, *arguments, **options)

        monkeypatch.setattr("socket.getaddrinfo", hang)

        assert refused("http://slow.example/a.png") == "The image's server took longer than 1 seconds."

        ended.set()


def test_only_so_many_are_fetched_at_once_and_the_rest_are_told_quickly(api, own, db, settings):
    settings.IMAGE_URL_TIMEOUT = 2
    own.connections = 0
    body = {"prompt": "A cat", "image_url": f"{own.url}/silence"}
    threads = [threading.Thread(target=refused, args=(body["image_url"],)) for _ in range(IMAGE_FETCHES)]
    for thread in threads:
        thread.start()
    eventually(lambda: own.connections == IMAGE_FETCHES)

    answer = api.post("/generate", body, content_type="application/json")

    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    for thread in threads:
        thread.join()
    assert fetch(f"{own.url}/image/") == picture()  # the slots are free again


def test_a_machine_that_starts_no_threads_keeps_its_slots(own, monkeypatch, caplog):
    def submit(*_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("jobs.media.public._threads.submit", submit)
        for _ in range(IMAGE_FETCHES + 1):
            with pytest.raises(CannotRead):
                fetch(f"{own.url}/image")

    assert "can't start new thread" in caplog.text
    assert fetch(f"{own.url}/image") == picture()


def test_a_process_without_free_files_does_not_blame_the_server(own, caplog):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(CannotRead):
            fetch(f"{own.url}/image")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert "Too many open files" in caplog.text


class TestPrivateNetworks:
    @pytest.fixture
    def network(self, settings, server):
        settings.IMAGE_URL_NETWORKS = [(ip_network("127.0.0.0/8"), server.server_port)]
        return server

    def test_an_address_in_one_is_fetched_from(self, network):
        assert fetch(f"{network.url}/image/") == picture()
        assert fetch(f"http://localhost:{network.server_port}/image/") == picture()

    def test_another_port_or_network_is_not(self, network):
        assert "ports 80 and 443" in refused(f"http://127.0.0.1:{network.server_port - 1}/image")
        assert refused(f"http://[::1]:{network.server_port}/image") == NOT_PUBLIC
        assert network.connections == 0

    def test_a_redirect_out_of_it_is_not_followed(self, network):
        assert refused(f"{network.url}/to/http://[::1]:{network.server_port}/image") == NOT_PUBLIC


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "Images are fetched from http and https URLs only."),
        ("ftp://example.com/a.png", "Images are fetched from http and https URLs only."),
        ("gopher://127.0.0.1:6379/_INFO", "Images are fetched from http and https URLs only."),
        ("data:image/png;base64,AAAA", "Images are fetched from http and https URLs only."),
        ("example.com/a.png", "This is not a valid http or https URL."),
        ("//example.com/a.png", "This is not a valid http or https URL."),
        ("http://", "This is not a valid http or https URL."),
        ("http:///a.png", "This is not a valid http or https URL."),
        ("http://[::1/a.png", "This is not a valid http or https URL."),
        ("http://example.com:99999/", "This is not a valid http or https URL."),
        ("http://example.com:x/", "This is not a valid http or https URL."),
        (f"http://{'a' * 300}.com/", "This is not a valid http or https URL."),
        ("http://\ud800.com/", "This is not a valid http or https URL."),
        ("http://user:secret@example.com/", "The URL must not hold a user name or password."),
        ("http://127.0.0.1:6379/", "Images are fetched from ports 80 and 443 only."),
        ("https://example.com:8443/", "Images are fetched from ports 80 and 443 only."),
        ("http://nothing.invalid/", "The image's server could not be reached, or broke off."),
    ],
)
def test_it_refuses_what_is_no_url_of_a_web_server(url, reason):
    assert refused(url) == reason
