"""A pytest plugin: starts the tests' own Postgres, S3 and simulator, and points the settings at them.

Loaded by ``-p`` before pytest-django reads the settings. Nothing of the machine's own is used, and nothing
is left: the processes die with pytest.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import requests

from local import parts
from local.parts import ROOT

FOLDER = ROOT / ".local" / "test"
RUNNING = os.environ.get("TESTS_STACK", "").split()  # the ports of parts that serve several runs of pytest
POSTGRES, S3, SIMULATOR, NEWER = map(int, RUNNING) if RUNNING else (parts.free_port() for _ in range(4))
S3_URL, SIMULATOR_URL = f"http://127.0.0.1:{S3}", f"http://127.0.0.1:{SIMULATOR}"
NEWER_URL = f"http://127.0.0.1:{NEWER}"  # the simulator, like a newer ComfyUI
KEY = "test-key"
SHORT_LEASES = {"JOB_LEASE": "3", "ENGINE_LEASE": "6", "STUCK_TIMEOUT": "5"}  # a death is noticed in seconds

ENV = {
    "API_KEY": KEY,
    "SECRET_KEY": "for-tests-only",
    "DATABASE_URL": parts.database_url(POSTGRES, "test"),
    "S3_ENDPOINT_URL": S3_URL,
    "S3_BUCKET": "wanapi",
    "COMFYUI_URL": SIMULATOR_URL,
    "WORKFLOW_PRESET": "fast",
    "WARM_UP": "false",
    "SIMULATOR_SECONDS_PER_STEP": "0.02",
    **parts.S3_KEYS,
}
REAL_COMFYUI = os.environ.get("DRIVE", "").rstrip("/")  # of `make test-comfyui`
COMFYUI_URL = REAL_COMFYUI or SIMULATOR_URL
if REAL_COMFYUI:  # on a CPU a render takes longer than the lease, which in a test nobody renews
    ENV["ENGINE_LEASE"] = "3600"
for name in list(os.environ):
    if name.endswith("_FILE") or name.startswith("AWS_"):
        del os.environ[name]
os.environ.update(ENV)
# A folder of our own for temporary files, where purge_leftovers looks for those that a worker left.
tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="wanapi-tests-")
os.chmod(tempfile.tempdir, 0o711)

LOG = os.open(os.devnull, os.O_WRONLY)
processes: list[tuple[parts.Part, subprocess.Popen[bytes]]] = []


def start(part: parts.Part) -> None:
    user = ["--user", part.user] if part.user else []
    process = subprocess.Popen(
        [sys.executable, "-m", "local.child", *user, "--", *part.command],
        env=os.environ | dict(part.env),
        cwd=ROOT,
        stdout=LOG,
        stderr=subprocess.STDOUT,
    )
    processes.append((part, process))


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            requests.head(url, timeout=2)  # any answer will do
            return
        time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within 60 s; see {FOLDER}/parts.log")


def pytest_configure() -> None:
    if not RUNNING:
        start_all()


def start_all() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for part in (
        parts.postgres(FOLDER, port=POSTGRES, password="test", durable=False),
        parts.s3(FOLDER, port=S3),
        parts.simulator(FOLDER, port=SIMULATOR),
        parts.simulator(FOLDER / "newer", port=NEWER, like="newer"),
    ):
        start(part)
    wait_for(S3_URL)
    wait_for(SIMULATOR_URL)
    wait_for(NEWER_URL)


def pytest_unconfigure() -> None:
    for part, process in processes:
        process.send_signal(signal.Signals[f"SIG{part.stop_signal}"])
    for _, process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
