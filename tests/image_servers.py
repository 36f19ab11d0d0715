"""Image servers of every kind, and a name server."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from jobs.media.images import BadImage
from jobs.media.public import fetch
from tests.factories import picture

NOT_PUBLIC = "The address is not public; images are fetched from public servers only."


class Server(ThreadingHTTPServer):
    """Somebody's image server. ``connections`` is the witness."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.connections = 0
        self.paths: list[str] = []
        self.ended = threading.Event()
        self.held: list[threading.Event] = []  # of requests to /held, each of which waits until it is set
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

    def send_held(self, _) -> None:
        go_on = threading.Event()
        self.server.held.append(go_on)
        go_on.wait(8)
        self.send_image(_)

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


@contextmanager
def full_server(address: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """One whose queue of connections is full: the kernel leaves further ones without an answer."""
    with socket.create_server((address, port), backlog=1) as listener, ExitStack() as waiting:
        for _ in range(4):
            connection = waiting.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        yield f"{address}:{listener.getsockname()[1]}"


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


def refused(url: str) -> str:
    with pytest.raises(BadImage) as error:
        fetch(url)
    return str(error.value)
