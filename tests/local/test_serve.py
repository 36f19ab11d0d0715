"""``make serve`` in a checkout of its own: how it starts, what it says, and that it leaves nothing behind."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import requests

from local.parts import ROOT, free_port
from local.stack import Problem, Stack
from tests.factories import ipv6
from tests.stack import ENV, FOLDER, S3_URL, SHORT_LEASES

MARK = "WANAPI_TEST_MARK"
# Whoever asks it for 127.0.0.1 gets no answer.
PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
NOBODYS_PROXY = dict.fromkeys(PROXIES, "http://127.0.0.1:1") | {"no_proxy": "", "NO_PROXY": "a.example"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files that git knows, with the environments that are set up already."""
    folder = tmp_path_factory.mktemp("checkout")
    folder.chmod(0o755)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(
        listed, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in (".venv", ".venv-s3"):
        (folder / name).symlink_to(ROOT / name)
    kept = folder / ".local" / "serve" / "s3-port"  # other runs of these tests may be at 9000
    kept.parent.mkdir(parents=True)
    kept.write_text(str(free_port()))
    return folder


class Serve:
    """One ``make serve``, and every process that came of it, told by a mark in their environment."""

    def __init__(self, checkout, **env):
        self.checkout, self.mark, self.port = checkout, uuid.uuid4().hex, str(free_port())
        clean = {name: value for name, value in os.environ.items() if name not in ENV}
        self.process = subprocess.Popen(
            ["make", "serve"],
            cwd=checkout,
            env=clean | {"PORT": self.port, MARK: self.mark} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def wait_until_it_runs(self):
        for line in self.process.stdout:
            self.output += line
            if "Ctrl-C" in line:
                return self
        raise AssertionError(f"it ended: {self.output}")

    def processes(self):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def gone(self, within):
        deadline = time.monotonic() + within
        while left := self.processes():
            assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]
            time.sleep(0.05)

    def manage(self, *arguments, **env):
        clean = {name: value for name, value in os.environ.items() if name not in ENV} | env
        command = [".venv/bin/python", "manage.py", *arguments]
        return subprocess.run(command, cwd=self.checkout, env=clean, capture_output=True, text=True)

    def end(self):
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def serve(checkout):
    started = []

    def start(**env):
        started.append(Serve(checkout, **env))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_it_serves_until_sigterm_to_make_alone_and_leaves_no_process(serve):
    first = serve(API_KEY="k'\\", **NOBODYS_PROXY).wait_until_it_runs()
    url = f"http://127.0.0.1:{first.port}"
    assert url in first.output
    assert "SIMULATOR" in first.output
    answer = requests.post(
        f"{url}/generate", json={"prompt": "A cat"}, headers={"X-API-Key": "k'\\"}, timeout=10
    )
    assert answer.status_code == 200
    assert first.manage("requeue_jobs", "--status", "failed").stdout == "0 jobs requeued.\n"
    assert first.manage("purge_leftovers", "--dry-run").stdout == "0 leftovers found.\n"  # reaches S3
    show = "from django.conf import settings; print(settings.ENGINE_NAME, settings.COMFYUI_OUTPUT_DIR or '-')"
    assert first.manage("shell", "--no-imports", "-c", show).stdout.startswith("simulator /")
    another = first.manage("shell", "--no-imports", "-c", show, COMFYUI_URL="http://10.0.0.7:8188")
    assert another.stdout == "10.0.0.7:8188 -\n"  # one more GPU is not taken for the first

    second = serve(PORT=str(free_port()))
    assert "It runs already in this checkout" in second.process.communicate(timeout=20)[0]
    assert second.process.returncode

    first.process.send_signal(signal.SIGTERM)
    first.gone(within=10)

    without = first.manage("requeue_jobs", "--status", "failed")
    assert without.returncode
    assert without.stderr == "wanapi: API_KEY is not set: choose the key that clients send as X-API-Key.\n"


def test_after_kill_9_of_everything_it_works_again_with_its_data(serve):
    killed = serve(API_KEY="k", **SHORT_LEASES).wait_until_it_runs()
    headers = {"X-API-Key": "k"}
    job = requests.post(
        f"http://127.0.0.1:{killed.port}/generate", json={"prompt": "A cat"}, headers=headers, timeout=10
    ).json()
    status = f"http://127.0.0.1:{killed.port}/status/{job['job_id']}"
    while requests.get(status, headers=headers, timeout=10).json()["status"] != "processing":
        time.sleep(0.1)
    os.kill(killed.process.pid, signal.SIGKILL)
    for pid in killed.processes():
        os.kill(pid, signal.SIGKILL)
    killed.gone(within=5)

    again = serve(API_KEY="k", **SHORT_LEASES).wait_until_it_runs()

    deadline = time.monotonic() + 60
    url = f"http://127.0.0.1:{again.port}/jobs/{job['job_id']}"
    while (answer := requests.get(url, headers=headers, timeout=10).json())["status"] != "completed":
        assert time.monotonic() < deadline, answer
        assert answer["status"] in ("queued", "processing"), answer
        time.sleep(0.2)
    again.process.send_signal(signal.SIGTERM)
    again.gone(within=10)

    serve(API_KEY="k").wait_until_it_runs()

    assert requests.get(answer["video_url"], timeout=10).status_code == 200  # links survive a restart


def test_a_port_in_use_is_said_in_one_sentence(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = serve(PORT=str(taken.getsockname()[1]))
        output = refused.process.communicate(timeout=20)[0]

    assert refused.process.returncode
    assert "choose another with PORT=" in output
    assert "Traceback" not in output


def test_each_process_is_started_again_when_it_is_killed(serve):
    running = serve(API_KEY="k").wait_until_it_runs()

    def pids(part):
        found = set()
        for pid in running.processes():
            with contextlib.suppress(OSError):  # it ended a moment ago
                command = Path(f"/proc/{pid}/cmdline").read_text()
                if part in command and "local.child" not in command:
                    found.add(pid)
        return found

    for part in ("gunicorn", "worker\0render", "worker\0publish", "comfy.simulator", "postgres"):
        victims = pids(part)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        deadline = time.monotonic() + 20
        while not pids(part) - victims:
            assert time.monotonic() < deadline, part
            time.sleep(0.1)


@pytest.fixture
def outside():
    """The settings of a stack that starts no parts of its own."""
    urls = {"DATABASE_URL": "postgresql://h/n", "COMFYUI_URL": "http://h", "S3_BUCKET": "b"}
    return lambda **given: Stack(FOLDER / "outside", urls | given)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1"),
        ("0.0.0.0", "http://127.0.0.1"),
        ("localhost", "http://localhost"),
        *(pytest.param(host, "http://[::1]", marks=ipv6) for host in ("::", "[::]", "::1", "[::1]")),
    ],
)
def test_each_form_of_host_is_listened_on_and_called_rightly(outside, host, url):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((host.strip("[]"), 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        stack = outside(HOST=host, PORT=port)
        with pytest.raises(Problem, match="choose another with PORT="):
            stack._check_port()
    stack._check_port()
    assert stack.url == f"{url}:{port}"


@pytest.mark.parametrize("host", ["http://0.0.0.0", "0.0.0.0:80", "a b", "no.such.name.invalid", "192.0.2.1"])
def test_a_host_that_cannot_be_is_one_sentence(outside, host):
    with pytest.raises(Problem, match=r"HOST must be an address|cannot listen on"):
        outside(HOST=host)._check_port()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT_FILE", "/dev", "PORT_FILE must name a text file that can be read, not '/dev'."),
        ("HOST", "https://a.example", "HOST must be an address or a name of this machine"),
        ("PUBLIC_ADDRESS", "http://gpu", "PUBLIC_ADDRESS must be an address or a name of this machine"),
        ("S3_PORT", "many", "S3_PORT must be a number from 1 to 65535, not 'many'."),
        ("KEEPALIVE", "long", "wanapi: KEEPALIVE must be a number from 1 to 3600, not 'long'."),
    ],
)
def test_a_setting_that_cannot_work_ends_it_with_a_sentence(serve, name, value, sentence):
    refused = serve(**{name: value})
    output = refused.process.communicate(timeout=30)[0]

    assert refused.process.returncode
    assert f"make serve: {sentence}" in output
    assert "Traceback" not in output


def test_wrong_keys_of_s3_are_said_before_it_says_that_it_runs(serve):
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "wrong"}
    refused = serve(S3_ENDPOINT_URL=S3_URL, S3_BUCKET="wanapi", **keys)
    output = refused.process.communicate(timeout=60)[0]

    assert refused.process.returncode
    assert "make serve: S3" in output
    assert "running" not in output
    assert "Traceback" not in output
