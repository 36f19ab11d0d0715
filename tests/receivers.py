"""Receivers of webhooks, of every kind."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Got:
    """A webhook as it came."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes):
        self.at, self.path, self.headers, self.body = time.time(), path, headers, body

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]


class Receiver(ThreadingHTTPServer):
    """Somebody's receiver. ``got`` is the witness. It answers 200, or what ``answers`` says, one after the
    other; a None among them, or ``hangs``, is no answer at all. With a ``secret``, it refuses what was not
    signed with that, or a while ago."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *answers: int | None, port: int = 0, secret: str = "") -> None:
        self.secret = secret
        self.got: list[Got] = []
        self.answers = list(answers)
        self.headers: dict[str, str] = {}
        self.body: Iterator[Any] = iter(())
        self.raw: bytes | None = None  # in the place of an answer
        self.hangs = False
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)
        self.own = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.own}/hook"

    def handle_error(self, *_: Any) -> None:
        pass  # a client that leaves is what these tests are about

    @property
    def events(self) -> list[str]:
        return [got.event["type"] for got in self.got]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if server.secret:
            Webhook(server.secret).verify(body, headers)
        with server.lock:
            server.got.append(Got(self.path, headers, body))
            answer = server.answers.pop(0) if server.answers else 200
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            if server.hangs or answer is None:
                self.connection.settimeout(30)
                self.connection.recv(1)  # until the sender gives up
                return
            if server.raw is not None:
                self.wfile.write(server.raw)
                return
            self.send_response(answer)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for chunk in server.body:
                self.wfile.write(chunk)
        finally:
            with server.lock:
                server.at_once -= 1

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving(*answers: int | None, **options: Any) -> Iterator[Receiver]:
    with Receiver(*answers, **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
