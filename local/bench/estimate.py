"""``make bench-eta``: how well ``eta_seconds`` foretells, and what it costs.

Four simulated GPUs, three API keys that submit at random times, and jobs of both presets, with and without an
image, in several sizes and lengths. Each job is asked for its estimate right after its submit, and then again
and again. An estimate that grew is told apart from one that grew with a reason: another key's turn came
before the job (its position grew, or another key submitted meanwhile), or its render began anew.
"""

import base64
import io
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

import requests
from PIL import Image

from local import parts
from local.bench.idle import wait_for_engines
from local.gpu import Gpu
from local.parts import ROOT
from local.serve import Stopped, stop_on_signals, stop_on_signals_no_more
from local.stack import Problem, Stack

FOLDER = ROOT / ".local" / "bench-eta"
GPUS, KEYS = 4, 3
STEP = "0.7"  # seconds for a step of the standard request; a render takes 2 to 17 s
FIRST, JOBS = 12, 33  # jobs whose timings the estimates begin with, and jobs that are measured
BURST, PAUSE = 4, 8.0  # jobs of a key at once, and seconds until its next ones on average
LOOK = 1.5  # seconds between two looks at each job
LONGEST = 150  # seconds for all jobs


Look = tuple[float, dict[str, Any]]  # seconds since the beginning, and what GET /jobs/{id} said


@dataclass
class Watched:
    """A job and the looks at it."""

    key: str
    looks: list[Look] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        return self.looks[-1][1]

    @property
    def took(self) -> float:
        """From submit to completed."""
        ended, created = (datetime.fromisoformat(self.last[name]) for name in ("finished_at", "created_at"))
        return (ended - created).total_seconds()

    @property
    def error(self) -> float:
        return abs(self.looks[0][1]["eta_seconds"] - self.took) / self.took


class Bench:
    def __init__(self, stack: Stack) -> None:
        self.stack, self.began = stack, time.monotonic()
        self.dice = random.Random(12)  # noqa: S311 - the same jobs in each run
        self.jobs: list[Watched] = []
        self.submits: list[tuple[float, str]] = []  # when, and with which key

    def now(self) -> float:
        return time.monotonic() - self.began

    def body(self) -> dict[str, Any]:
        asked = {
            "prompt": "A cat",
            "preset": self.dice.choice(["quality", "fast"]),
            "size": self.dice.choice(["832x480", "480x832", "480x480"]),
            "num_frames": self.dice.choice([41, 81]),
        }
        return asked | ({"image_base64": picture()} if self.dice.random() < 0.3 else {})

    def submit(self, key: str, body: dict[str, Any]) -> None:
        sent = self.now()
        answer = requests.post(
            f"{self.stack.url}/generate", json=body, headers={"X-API-Key": key}, timeout=30
        )
        answer.raise_for_status()
        self.submits.append((sent, key))
        job = Watched(key)
        self.look(job, answer.json()["job_id"])
        self.jobs.append(job)

    def look(self, job: Watched, job_id: str) -> None:
        headers = {"X-API-Key": job.key}
        answer = requests.get(f"{self.stack.url}/jobs/{job_id}", headers=headers, timeout=30)
        answer.raise_for_status()
        job.looks.append((self.now(), answer.json()))
        if job.last["status"] == "failed":
            raise Problem(f"a job failed: {job.last['error']}")

    def client(self, number: int, key: str, bodies: list[dict[str, Any]]) -> None:
        dice = random.Random(number)  # noqa: S311
        while bodies:
            for _ in range(min(len(bodies), dice.randint(1, BURST))):
                self.submit(key, bodies.pop())
            time.sleep(dice.expovariate(1 / PAUSE))

    def watch(self, clients: list[threading.Thread]) -> None:
        """Looks at all jobs until each is completed."""
        deadline = time.monotonic() + LONGEST
        while any(client.is_alive() for client in clients) or any(map(is_open, self.jobs)):
            if time.monotonic() > deadline:
                raise Problem(f"not all jobs were completed within {LONGEST} s; see {self.stack.logs}.")
            began = time.monotonic()
            for job in filter(is_open, list(self.jobs)):
                self.look(job, job.last["job_id"])
            time.sleep(max(0.0, LOOK - (time.monotonic() - began)))

    def growths(self) -> tuple[int, int, int]:
        """How often a look found the estimate higher by more than 10% and more than a second (the answers are
        whole seconds): without a reason, and with one; and the number of looks."""
        pairs = [(job.key, *pair) for job in self.jobs for pair in pairwise(job.looks)]
        pairs = [pair for pair in pairs if pair[2][1]["eta_seconds"] is not None]
        grown = [self.has_reason(*pair) for pair in pairs if has_grown(pair[1][1], pair[2][1])]
        return len(grown) - sum(grown), sum(grown), len(pairs)

    def has_reason(self, key: str, earlier: Look, later: Look) -> bool:
        """Whether between these looks another key's turn came before the job, or its render was lost."""
        (begin, before), (end, after) = earlier, later
        if after["status"] != "queued" or before["status"] != "queued":
            return before["started_at"] not in (None, after["started_at"])
        others = any(begin - 1 < sent < end and other != key for sent, other in self.submits)
        return others or after["position"] > before["position"]


def has_grown(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return bool(after["eta_seconds"] > max(1.1 * before["eta_seconds"], before["eta_seconds"] + 1))


def is_open(job: Watched) -> bool:
    return job.last["status"] in ("queued", "processing")


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    stop_on_signals()
    try:
        measure()
    except Stopped:
        sys.exit("make bench-eta: stopped.")
    except (Problem, OSError, requests.RequestException) as problem:
        sys.exit(f"make bench-eta: {problem}")


def measure() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.environ["SIMULATOR_SECONDS_PER_STEP"] = STEP
    stack = Stack(FOLDER, {"PORT": str(parts.free_port())})
    gpus: list[Gpu] = []
    try:
        stack.start()
        gpus = [Gpu(stack, f"gpu-{number}") for number in range(2, GPUS + 1)]
        for gpu in gpus:
            gpu.start()
        wait_for_engines(stack, GPUS)
        keys = [manage(stack, "create_api_key", f"client-{number}").strip() for number in range(KEYS)]
        first = Bench(stack)
        for _ in range(FIRST):
            first.submit(keys[0], first.body())
        first.watch([])
        report(watched(stack, keys))
        print(run(stack, [sys.executable, "-m", "local.bench.estimate_cost"]), end="")
    finally:
        stop_on_signals_no_more()
        for gpu in gpus:
            gpu.remove()
        stack.stop()
        stop_on_signals()


def watched(stack: Stack, keys: list[str]) -> Bench:
    bench = Bench(stack)
    shares = [[bench.body() for _ in range(JOBS // KEYS)] for _ in keys]
    clients = [
        threading.Thread(target=bench.client, args=(number, key, shares[number]), daemon=True)
        for number, key in enumerate(keys)
    ]
    for client in clients:
        client.start()
    bench.watch(clients)
    return bench


def report(bench: Bench) -> None:
    errors = sorted(job.error for job in bench.jobs)
    took = sorted(job.took for job in bench.jobs)
    print(
        f"{len(errors)} jobs of {KEYS} keys on {GPUS} GPUs, completed in {took[0]:.0f} to {took[-1]:.0f} s."
    )
    p90 = errors[int(0.9 * (len(errors) - 1))]
    print(f"Error of the estimate made at submit: median {median(errors):.0%}, p90 {p90:.0%}.")
    without, reasoned, looks = bench.growths()
    print(f"Of {looks} looks, {without} found it more than 10% higher without a reason, {reasoned} with one.")


def manage(stack: Stack, *command: str) -> str:
    return run(stack, [sys.executable, "manage.py", *command])


def run(stack: Stack, command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | stack.env, check=True, capture_output=True, text=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
