"""image_url: fetched from public servers only, within a time and a size. The servers here are real ones."""

import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from jobs.media.images import BadImage, CannotRead
from jobs.media.public import NOT_PUBLIC, _is_public, fetch
from jobs.models import Job
from tests.factories import eventually, picture
from wanapi.limits import IMAGE_FETCHES


class Server(ThreadingHTTPServer):
    """Somebody's image server. ``connections`` is the witness."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.connections = 0
        self.paths: list[str] = []
        self.ended = threading.Event()
        super().__init__((address, 0), Handler)
        self.own = f"{address}:{self.server_port}"
        self.url = f"http://{self.own}"

    def verify_request(self, *_) -> bool:
        self.connections += 1
        return True

    def handle_error(self, *_) -> None:
        pass  # a client that leaves is what these tests are about


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        name, _, rest = unquote(self.path[1:]).partition("/")
        getattr(self, f"send_{name}")(rest)

    def start(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def endless(self, chunk: bytes, pause: float = 0) -> None:
        """For ever, as a client sees it: longer than any test allows."""
        end = time.monotonic() + 8
        while time.monotonic() < end and not self.server.ended.wait(pause):
            self.wfile.write(chunk)

    def send_image(self, _) -> None:
        self.start()
        self.wfile.write(picture())

    def send_status(self, status: str) -> None:
        self.start(int(status))

    def send_to(self, location: str) -> None:
        self.start(302, Location=location)

    def send_later(self, location: str) -> None:
        self.server.ended.wait(0.4)
        self.send_to(location)

    def send_loop(self, _) -> None:
        self.start(302, Location="/loop")

    def send_long_way(self, _) -> None:
        self.start(302, Location="/image")
        self.endless(b"x" * 65536)

    def send_large(self, _) -> None:
        self.start()
        self.endless(b"x" * 65536)

    def send_slow_body(self, _) -> None:
        self.start()
        self.endless(b"x", pause=0.05)

    def send_slow_headers(self, _) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.endless(b"x", pause=0.05)

    def send_silence(self, _) -> None:
        self.server.ended.wait(8)

    def send_half(self, _) -> None:
        self.start(**{"Content-Length": "1000"})
        self.wfile.write(b"x" * 500)

    def send_no_gzip(self, _) -> None:
        self.start(**{"Content-Encoding": "gzip"})
        self.wfile.write(picture())

    def send_nonsense(self, _) -> None:
        self.wfile.write(b"nonsense\r\n\r\n")

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


@pytest.fixture
def own(server, settings) -> Server:
    """A server that the operator named in IMAGE_URL_ALLOW."""
    settings.IMAGE_URL_ALLOW = [server.own]
    return server


@pytest.fixture
def any_port(server, monkeypatch) -> Server:
    """A server on a port like port 80: only its address keeps us from it."""
    monkeypatch.setattr("jobs.media.public.PORTS", (None, 80, 443, server.server_port))
    return server


def refused(url: str) -> str:
    with pytest.raises(BadImage) as error:
        fetch(url)
    return str(error.value)


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


@contextmanager
def full_server(address: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """One whose queue of connections is full: the kernel leaves further ones without an answer."""
    with socket.create_server((address, port), backlog=1) as listener, ExitStack() as waiting:
        for _ in range(4):
            connection = waiting.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        yield f"{address}:{listener.getsockname()[1]}"


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


class TestForeignAddresses:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "0.0.0.0"]
    )
    def test_a_private_server_sees_no_connection(self, any_port, host):
        assert refused(f"http://{host}:{any_port.server_port}/image") == NOT_PUBLIC
        assert any_port.connections == 0

    @pytest.mark.parametrize("answers", [["93.184.216.34", "127.0.0.1"], ["127.0.0.1", "93.184.216.34"]])
    def test_every_address_of_a_name_must_be_public(self, any_port, monkeypatch, answers):
        resolve_to(monkeypatch, answers)

        assert refused(f"http://two.example:{any_port.server_port}/image") == NOT_PUBLIC

    def test_a_server_on_the_list_stands_for_no_other(self, own):
        assert refused("http://127.0.0.1/image") == NOT_PUBLIC
        assert refused("http://127.0.0.1:1/image") == "Images are fetched from ports 80 and 443 only."
        assert "user name" in refused(f"http://{own.own}@127.1/image")


class TestSeveralAddresses:
    """A name with more than one address. 127.0.0.2 and up, and ::1, stand for public ones here; 127.0.0.1,
    where every server would answer, for a private one."""

    PUBLIC = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "::1")

    @pytest.fixture
    def public(self, monkeypatch) -> Iterator[Server]:
        monkeypatch.setattr("jobs.media.public._is_public", lambda address: str(address) in self.PUBLIC)
        with serving(Server("127.0.0.2")) as server:
            monkeypatch.setattr("jobs.media.public.PORTS", (None, 80, 443, server.server_port))
            yield server

    @pytest.mark.parametrize(
        "answers",
        [
            ["127.0.0.3", "127.0.0.2"],
            ["127.0.0.3", "127.0.0.4", "127.0.0.2"],
            ["::1", "127.0.0.2"],
            ["127.0.0.2", "127.0.0.3"],
        ],
        ids=["first is down", "two are down", "IPv6 leads nowhere", "second is down"],
    )
    def test_what_cannot_be_reached_is_passed(self, public, monkeypatch, answers):
        resolve_to(monkeypatch, answers)

        assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_an_address_that_never_answers_leaves_time_for_the_next(self, public, monkeypatch, settings):
        settings.IMAGE_URL_TIMEOUT = 3
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])

        with full_server("127.0.0.3", public.server_port):
            assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_a_server_of_the_operator_may_have_several_as_well(self, public, monkeypatch, settings):
        settings.IMAGE_URL_TIMEOUT = 3
        settings.IMAGE_URL_ALLOW = [f"two.example:{public.server_port}"]
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])

        with full_server("127.0.0.3", public.server_port):
            assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_behind_a_redirect_as_well(self, public, monkeypatch):
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])
        target = f"http://two.example:{public.server_port}/image"

        assert fetch(f"http://127.0.0.2:{public.server_port}/to/{target}") == picture()

    def test_none_that_can_be_reached(self, public, monkeypatch):
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.4"])

        reason = "The image's server could not be reached, or broke off."
        assert refused(f"http://two.example:{public.server_port}/image") == reason

    def test_ipv4_has_its_turn_behind_many_of_ipv6(self, public, monkeypatch):
        monkeypatch.setattr("jobs.media.public._is_public", lambda address: True)
        many = [f"::ffff:127.0.1.{number}" for number in range(20)]
        resolve_to(monkeypatch, [*many, "127.0.0.2"])

        assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_a_server_that_was_reached_has_the_last_word(self, public, monkeypatch):
        with serving(Server("127.0.0.3")) as other:
            resolve_to(monkeypatch, ["127.0.0.2", "127.0.0.3"])
            monkeypatch.setattr("jobs.media.public.PORTS", (other.server_port, public.server_port))

            assert "status 404" in refused(f"http://two.example:{public.server_port}/status/404")
        assert (public.connections, other.connections) == (1, 0)

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_one_private_address_refuses_the_name(self, public, monkeypatch, place):
        answers = ["127.0.0.3", "127.0.0.2"]
        answers.insert(place, "127.0.0.1")
        resolve_to(monkeypatch, answers)

        assert refused(f"http://two.example:{public.server_port}/image") == NOT_PUBLIC
        assert public.connections == 0

    @pytest.mark.parametrize("second", ["127.0.0.1", "::127.0.0.1"])
    def test_a_name_that_turns_private_after_the_check_changes_nothing(self, public, monkeypatch, second):
        resolve_to(monkeypatch, ["127.0.0.2"], [second])

        assert fetch(f"http://two.example:{public.server_port}/image") == picture()
        assert refused(f"http://two.example:{public.server_port}/image") == NOT_PUBLIC
        assert public.connections == 1

    def test_a_name_that_turns_private_behind_a_redirect_is_refused(self, public, monkeypatch):
        resolve_to(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])

        url = f"http://two.example:{public.server_port}"
        assert refused(f"{url}/to/{url}/image") == NOT_PUBLIC
        assert public.connections == 1

    def test_tls_is_for_the_name(self, public, monkeypatch, tmp_path):
        names = secured(public, tmp_path, "two.example")
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "certificate"))
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])

        assert fetch(f"https://two.example:{public.server_port}/image") == picture()
        assert names == ["two.example"]
        assert "TLS" in refused(f"https://127.0.0.2:{public.server_port}/image")  # which it does not certify


def secured(server: Server, folder: Path, name: str) -> list[str]:
    """Gives the server a certificate, and returns the names that clients ask it for."""
    certificate, key = folder / "certificate", folder / "key"
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -addext subjectAltName=DNS:{name}"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context, names = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, asked, __: names.append(asked) if asked else None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return names


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:21f::1", True),
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34 behind NAT64
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b::168.63.129.16", False),
        ("64:ff9b::100.64.0.1", False),
        ("64:ff9b::224.0.0.1", False),
        ("64:ff9b:1::5db8:d822", False),  # a network's own NAT64
        ("64:ff9b:0:1::5db8:d822", False),
        ("::ffff:10.0.0.1", False),
        ("192.0.0.9", False),
        ("192.88.99.1", False),
        ("2002:5db8:d822::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert _is_public(ip_address(address)) is public


def resolve_to(monkeypatch, *answers: list[str]) -> None:
    """A name server of our own cannot be had: each look-up gets the next answer."""
    looks, look_up = iter(answers), socket.getaddrinfo
    last = answers[-1]

    def getaddrinfo(host, port, *arguments, **options):
        if host != "two.example":  # threads that earlier tests left look names up as well
            return look_up(host, port, *arguments, **options)
        found = next(looks, last)
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, 1, 6, "", (ip, port or 0)) for ip in found]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)


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
