"""``make bench-webhooks``: how quickly webhooks arrive, while some receivers hang.

50 receivers, each of an API key of its own, of which 5 take every connection and never answer. 1,000 jobs are
submitted and cancelled through the API, as fast as four clients can do so; each cancellation is an event. Of
each event the time from its ``timestamp`` to its arrival is measured.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from local import parts
from local.parts import ROOT, Part
from local.stack import Problem, Stack

FOLDER = ROOT / ".local" / "bench-webhooks"
RECEIVERS, HANGING, JOBS, CLIENTS = 50, 5, 1000, 4
PATIENCE = 120  # seconds for the events of those that answer
MAKE_KEYS = """
from jobs.models import ApiKey
for number in range({count}):
    key, text = ApiKey.objects.make(name=f"bench {{number}}")
    key.draw_webhook_secret()
    print(text)
"""


class Receiver(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hangs: bool) -> None:
        self.hangs, self.delays, self.asked = hangs, dict[str, float](), 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        arrived = time.time()
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        if self.server.hangs:
            self.connection.recv(1)  # until the sender gives up
            return
        happened = datetime.fromisoformat(event["timestamp"]).timestamp()
        self.server.delays.setdefault(event["id"], arrived - happened)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class WebhookStack(Stack):
    """Without a GPU: jobs wait until they are cancelled."""

    def _programs(self) -> dict[str, Part]:
        return {name: part for name, part in super()._programs().items() if name != "render"}


@contextmanager
def serving(receiver: Receiver) -> Iterator[Receiver]:
    with receiver:
        threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True).start()
        yield receiver
        receiver.shutdown()


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    with ExitStack() as block:
        receivers = [block.enter_context(serving(Receiver(number < HANGING))) for number in range(RECEIVERS)]
        settings = {
            "PORT": str(parts.free_port()),
            "LOG_LEVEL": "WARNING",
            "WEBHOOK_URL_ALLOW": ",".join(f"127.0.0.1:{receiver.server_port}" for receiver in receivers),
        }
        stack = WebhookStack(FOLDER, settings)
        try:
            stack.start()
            measure(stack, receivers)
        except Problem as problem:
            sys.exit(f"bench: {problem}")
        finally:
            stack.stop()
    return 0


def measure(stack: Stack, receivers: list[Receiver]) -> None:
    keys, began = make_keys(stack), time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        work = [(stack.url, keys[turn % RECEIVERS], receivers[turn % RECEIVERS].url) for turn in range(JOBS)]
        list(clients.map(lambda one: submit_and_cancel(*one), work))
    took = time.monotonic() - began
    well = [receiver for receiver in receivers if not receiver.hangs]
    wanted = JOBS * len(well) // RECEIVERS
    deadline = time.monotonic() + PATIENCE
    while sum(len(receiver.delays) for receiver in well) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    delays = sorted(delay for receiver in well for delay in receiver.delays.values())
    tries = sum(receiver.asked for receiver in receivers if receiver.hangs)
    print(f"{JOBS} events within {took:.0f} s to {RECEIVERS} receivers, of which {HANGING} never answer")
    print(f"those that answer got {len(delays)} of {wanted}, {told(delays)} after the event")
    print(f"those that hang were asked {tries} times meanwhile")


def told(delays: list[float]) -> str:
    if not delays:
        return "none"
    named = {"median": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}
    places = {name: min(int(share * len(delays)), len(delays) - 1) for name, share in named.items()}
    return ", ".join(f"{name} {delays[place]:.2f} s" for name, place in places.items())


def make_keys(stack: Stack) -> list[str]:
    """API keys with webhook secrets, one for each receiver."""
    command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", MAKE_KEYS.format(count=RECEIVERS)]
    made = subprocess.run(command, cwd=ROOT, env=os.environ | stack.env, capture_output=True, text=True)
    if made.returncode:
        raise Problem(f"the keys could not be made: {made.stderr}")
    return made.stdout.split()


def submit_and_cancel(url: str, key: str, receiver: str) -> None:
    headers = {"X-API-Key": key}
    body = {"prompt": "A cat", "webhook_url": receiver}
    answer = requests.post(f"{url}/generate", json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    job = answer.json()["job_id"]
    requests.post(f"{url}/jobs/{job}/cancel", headers=headers, timeout=30).raise_for_status()


if __name__ == "__main__":
    sys.exit(main())
