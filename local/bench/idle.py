"""``make bench``: how long ComfyUI stands idle between two queued jobs, and what four GPUs do beside one.

Both are read from the simulators' own logs. The idle time is that from the end of one prompt to the start of
the next, also when each upload to S3 takes a second. Renders are so quick here that the service is under far
more strain per job than with a real model.
"""

import http.client
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from itertools import pairwise
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from local import parts
from local.gpu import Gpu
from local.parts import ROOT
from local.serve import Stopped, stop_on_signals, stop_on_signals_no_more
from local.stack import STARTUP, Problem, Stack

FOLDER = ROOT / ".local" / "bench"
JOBS = 20
STEP = "0.1"  # seconds; 20 steps a job
UPLOAD_DELAY = 1.0
GPUS = 4
# To compare GPUs a job takes 13 s: the processor draws the test card, and all GPUs share it here.
LONG_STEP, JOBS_OF_A_GPU = "0.6", 4


def main() -> None:
    stop_on_signals()
    try:
        print(f"Idle time of ComfyUI between two of {JOBS} queued jobs, ms:")
        print("                     median    p95    max")
        for name, delay in (("S3 at once", 0.0), ("S3 put takes 1 s", UPLOAD_DELAY)):
            gaps = sorted(idle_times(delay))
            p95 = gaps[int(0.95 * (len(gaps) - 1))]
            print(f"  {name:18} {statistics.median(gaps):6.2f} {p95:6.2f} {gaps[-1]:6.2f}")
        one, four = throughput(1), throughput(GPUS)
        print(f"{GPUS} GPUs on one database do {four / one:.2f} times the work of one.")
    except Stopped:
        sys.exit("make bench: stopped.")
    except (Problem, OSError, requests.RequestException) as problem:
        sys.exit(f"make bench: {problem}")


def idle_times(delay: float) -> list[float]:
    """Milliseconds between each two prompts, while each upload takes ``delay`` seconds longer."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.environ["SIMULATOR_SECONDS_PER_STEP"] = STEP
    stack = Stack(FOLDER, {"PORT": str(parts.free_port())})
    try:
        if delay:
            stack.env["S3_ENDPOINT_URL"] = slow_s3(stack.env["S3_ENDPOINT_URL"], delay)
        stack.start()
        headers = {"X-API-Key": stack.env["API_KEY"]}
        for number in range(JOBS):
            body = {"prompt": f"Job {number}"}
            requests.post(f"{stack.url}/generate", json=body, headers=headers, timeout=30).raise_for_status()
        wait_for_all(stack.url, headers)
        log = requests.get(f"{stack.env['COMFYUI_URL']}/simulator/log", timeout=10).json()
    finally:
        stop_on_signals_no_more()
        stack.stop()
        stop_on_signals()
    runs = [entry for entry in log if entry["event"] in ("started", "finished")]
    return [
        1000 * (after["time"] - before["time"])
        for before, after in pairwise(runs)
        if before["event"] == "finished"
    ]


def throughput(gpus: int) -> float:
    """Jobs per second, from the start of the first to the end of the last."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.environ["SIMULATOR_SECONDS_PER_STEP"] = LONG_STEP
    stack = Stack(FOLDER, {"PORT": str(parts.free_port())})
    more = []
    try:
        stack.start()
        more = [Gpu(stack, f"gpu-{number}") for number in range(2, gpus + 1)]
        for gpu in more:
            gpu.start()
        headers = {"X-API-Key": stack.env["API_KEY"]}
        wait_for_engines(stack, gpus)
        for number in range(JOBS_OF_A_GPU * gpus):
            body = {"prompt": f"Job {number}"}
            requests.post(f"{stack.url}/generate", json=body, headers=headers, timeout=30).raise_for_status()
        wait_for_all(stack.url, headers, JOBS_OF_A_GPU * gpus)
        urls = [stack.env["COMFYUI_URL"], *[gpu.url for gpu in more]]
        logs = [requests.get(f"{url}/simulator/log", timeout=10).json() for url in urls]
    finally:
        stop_on_signals_no_more()
        for gpu in more:
            gpu.remove()
        stack.stop()
        stop_on_signals()
    times = {event: [entry["time"] for log in logs for entry in log if entry["event"] == event]
             for event in ("started", "finished")}  # fmt: skip
    return JOBS_OF_A_GPU * gpus / (max(times["finished"]) - min(times["started"]))


def wait_for_engines(stack: Stack, count: int) -> None:
    command = [sys.executable, "manage.py", "stats", "--json"]
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | stack.env, check=True, capture_output=True)
        if sum(engine["state"] == "ready" for engine in json.loads(done.stdout)["engines"]) == count:
            return
    raise Problem(f"not all of {count} engines were ready within {STARTUP} s; see {stack.logs}.")


def wait_for_all(url: str, headers: dict[str, str], count: int = JOBS) -> None:
    with tqdm(total=count, disable=None, leave=False, bar_format="  {bar:30} {n}/{total} jobs") as bar:
        while True:
            jobs = requests.get(f"{url}/jobs", headers=headers, timeout=30).json()
            if failed := [job["error"] for job in jobs if job["status"] == "failed"]:
                raise Problem(f"a job failed: {failed[0]}")
            done = sum(job["status"] == "completed" for job in jobs)
            bar.update(done - bar.n)
            if done == count:
                return
            time.sleep(0.5)


def slow_s3(url: str, delay: float) -> str:
    """A proxy before S3 that holds each upload up; lives as long as this process."""
    target = urlsplit(url).netloc

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.command == "PUT" and body:
                time.sleep(delay)
            connection = http.client.HTTPConnection(target)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
            except OSError:  # S3 is starting: the client tries again
                self.close_connection = True
                return
            answer = connection.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    main()
