"""A small reverse proxy in front of the simulator, which answers some requests itself: as logins, firewalls,
and servers with limits do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import requests

from tests import servers

Reply = tuple[int, str, bytes]  # status, content type (of a redirect: its target), body
Rule = Callable[[str, str, bytes], Reply | None]  # method, path and body; None: passed on

PAGE = b"<html><h1>Who are you?</h1></html>"


class Front:
    """``rule`` may be changed at any time. ``answered`` are the requests that were not passed on."""

    def __init__(self, target: str):
        self.target = target
        self.rule: Rule = lambda method, path, body: None
        self.answered: list[str] = []
        self.url = ""


@contextmanager
def serving(target: str) -> Iterator[Front]:
    front = Front(target)
    with servers.serving(Handler, front=front) as front.url:
        yield front


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms
    front: Front

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.front.rule(self.command, self.path, body)
        if reply:
            self.front.answered.append(f"{self.command} {self.path}")
        status, kind, content = reply or self.passed_on(body)
        self.send_response(status)
        self.send_header("Location" if 300 <= status < 400 else "Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def passed_on(self, body: bytes) -> Reply:
        kept = {name: self.headers[name] for name in ("Content-Type", "Range") if name in self.headers}
        answer = requests.request(
            self.command, self.front.target + self.path, data=body, headers=kept, timeout=30
        )
        return answer.status_code, answer.headers.get("Content-Type", "text/plain"), answer.content

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

    def log_message(self, *_: object) -> None:
        pass
