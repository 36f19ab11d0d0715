"""The clients of ``make bench-wait``, and who changes their jobs. ``waiting.py`` runs it."""

import os
import random
import re
import selectors
import socket
import sys
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wanapi.settings")
django.setup()

import requests  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from jobs.models import Job  # noqa: E402
from jobs.queue.wake import tell_of_change  # noqa: E402

WAITING = 200
ASKED, CHANGED = 50, 20  # a second: /status, by others; jobs of which somebody is told
SECONDS = 15.0  # of each measurement
KEY = os.environ["API_KEY"]


def main() -> None:
    jobs = fill()
    url = sys.argv[1]
    crowd = Crowd(url, jobs)
    crowd.answer_once()  # until every thread of the web processes was used
    alone, small = ask(url, jobs, SECONDS), memory()
    crowd.start()
    time.sleep(3)  # until all of them wait
    beside, large = ask(url, jobs, SECONDS), memory()
    changing = threading.Thread(target=change, args=[crowd, time.monotonic() + SECONDS])
    changing.start()
    meanwhile = ask(url, jobs, SECONDS)
    changing.join()
    crowd.ended = True
    crowd.join()
    show("/status, while nobody waits", alone)
    show(f"/status, while {WAITING} wait", beside)
    show(f"/status, while {CHANGED} of {WAITING} a second are told of a change and wait again", meanwhile)
    show("from the commit of a change to the whole answer", crowd.told)
    print(f"Memory of all web processes (PSS): {small:.0f} MiB, and {large:.0f} MiB while {WAITING} wait.")


def show(what: str, seconds: list[float]) -> None:
    p99 = quantiles(seconds, n=100)[98]
    print(f"{what}: {1000 * median(seconds):.0f} ms in the median, p99 {1000 * p99:.0f} ms ({len(seconds)}).")


def fill() -> list[Job]:
    """Jobs that no worker takes: they may be claimed tomorrow at the earliest."""
    tomorrow = timezone.now() + timedelta(days=1)
    fields = {"kind": "text-to-video", "prompt": "A cat", "preset": "fast", "seed": 1, "not_before": tomorrow}
    return Job.objects.bulk_create([Job(turn=turn, **fields) for turn in range(WAITING)])


def ask(url: str, jobs: list[Job], seconds: float) -> list[float]:
    """The seconds that each of ASKED requests a second took."""
    took: list[float] = []
    session = requests.Session()
    session.headers["X-API-Key"] = KEY
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        time.sleep(max(begin + len(took) / ASKED - time.monotonic(), 0))
        began = time.monotonic()
        session.get(f"{url}/status/{random.choice(jobs).pk}", timeout=30).raise_for_status()  # noqa: S311
        took.append(time.monotonic() - began)
    return took


def change(crowd: "Crowd", end: float) -> None:
    while time.monotonic() < end:
        time.sleep(1 / CHANGED)
        job = random.choice(crowd.jobs)  # noqa: S311
        job.progress = (job.progress + 1) % 100
        with transaction.atomic():
            job.save(update_fields=["progress"])
            transaction.on_commit(partial(crowd.change, job))
            tell_of_change([job])
    connection.close()


class Crowd(threading.Thread):
    """All who wait: each for any change of a job of its own, again and again."""

    def __init__(self, url: str, jobs: list[Job]):
        super().__init__(daemon=True)
        address = urlsplit(url).hostname, urlsplit(url).port
        self.jobs, self.ended = jobs, False
        self.clients = [Client(socket.create_connection(address), job) for job in jobs]
        self.changed: dict[Job, float] = {}
        self.told: list[float] = []

    def answer_once(self) -> None:
        for client in self.clients:
            client.ask(wait=0)
        for client in self.clients:
            while not client.hears():
                pass

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for client in self.clients:
                selector.register(client.connection, selectors.EVENT_READ, client)
                client.ask(wait=50)
            while not self.ended:
                for key, _ in selector.select(1.0):
                    if key.data.hears():
                        self.note(key.data.job)
                        key.data.ask(wait=50)

    def change(self, job: Job) -> None:
        self.changed[job] = time.monotonic()

    def note(self, job: Job) -> None:
        if job in self.changed:
            self.told.append(time.monotonic() - self.changed.pop(job))


class Client:
    def __init__(self, connection: socket.socket, job: Job):
        self.connection, self.job, self.tag = connection, job, '"none"'
        self.answer = b""

    def ask(self, wait: int) -> None:
        path = f"/jobs/{self.job.pk}?wait={wait}"
        head = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\nIf-None-Match: {self.tag}\r\n\r\n"
        )
        self.connection.sendall(head.encode())

    def hears(self) -> bool:
        """Reads what there is; whether the answer is whole."""
        self.answer += self.connection.recv(65536)
        head, _, body = self.answer.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return False
        [self.tag], self.answer = re.findall(r"ETag: (\S+)", head.decode()), b""
        return True


def memory() -> float:
    """MiB of the web processes of this stack."""
    port = f"PORT={os.environ['PORT']}".encode()
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = port in (process / "environ").read_bytes().split(b"\0")
            if ours and b"wanapi.wsgi" in (process / "cmdline").read_bytes():
                total += int(re.findall(r"Pss:\s+(\d+)", (process / "smaps_rollup").read_text())[0])
        except OSError:
            continue  # it ended, or is somebody else's
    return total / 1024


if __name__ == "__main__":
    main()
