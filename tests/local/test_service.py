"""The service as a client meets it: gunicorn, both clusters, Postgres, S3 and the simulator as processes.

The examples of docs/api-reference.md run as printed there, but for the address, the key, the image,
and the ten seconds between two polls.
"""

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest
import requests

from local.parts import ROOT, free_port
from local.stack import Stack
from tests.factories import REFERENCE, eventually, picture
from tests.stack import FOLDER
from wanapi import VERSION

TSX = "4.23.15"


@pytest.fixture(scope="module")
def image_server():
    """An image store of one's own, on a private address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = picture(format="JPEG")
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def stack(image_server):
    folder = FOLDER / "stack"
    os.environ["IMAGE_URL_ALLOW"] = image_server
    stack = Stack(folder, {"PORT": str(free_port()), "WORKFLOW_PRESET": "fast"})
    try:
        stack.start()
        yield stack
    finally:
        del os.environ["IMAGE_URL_ALLOW"]
        stack.stop()


@pytest.fixture(scope="module")
def get(stack):
    def get(path):
        return requests.get(stack.url + path, headers={"X-API-Key": stack.env["API_KEY"]}, timeout=10)

    return get


def example(stack, code):
    ours = {
        "http://<your-server-ip>:8000": stack.url,
        "<your-api-key>": stack.env["API_KEY"],
        "time.sleep(10)": "time.sleep(0.5)",
        "10_000": "500",
    }
    for printed, here in ours.items():
        code = code.replace(printed, here)
    return code


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", REFERENCE, re.DOTALL)


@pytest.fixture(scope="module")
def tsx():
    if not shutil.which("npm"):
        pytest.skip("Node.js is not installed: the TypeScript client was not tried")
    folder = ROOT / ".local" / f"tsx-{TSX}"
    program = folder / "node_modules" / ".bin" / "tsx"
    if not program.exists():
        subprocess.run(
            ["npm", "install", "--silent", "--prefix", folder, f"tsx@{TSX}"], check=True, timeout=120
        )
    return program


def test_a_request_that_cannot_be_read_leaves_nothing_of_it_in_the_log(stack):
    message = b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key MYSECRET\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(stack.env["PORT"])), timeout=10) as connection:
        connection.sendall(message)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/json" in answer
    log = eventually(lambda: "Invalid request" in (text := (stack.logs / "web.log").read_text()) and text)
    assert "MYSECRET" not in log


@pytest.mark.parametrize("program", ["web", "render", "publish"])
def test_the_first_line_of_a_log_names_the_version(stack, program):
    first = eventually(lambda: (stack.logs / f"{program}.log").read_text().splitlines()[:1])[0]
    assert first.endswith(f"WANAPI {VERSION}: {program}")


class TestClients:
    def test_the_python_example(self, stack, tmp_path):
        [code] = blocks("python")
        (tmp_path / "client.py").write_text(example(stack, code))

        done = subprocess.run(
            [sys.executable, "client.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

        assert done.stdout.startswith("Video ready: http"), done.stderr

    def test_the_typescript_example(self, stack, tmp_path, tsx):
        [code] = blocks("typescript")
        (tmp_path / "client.mts").write_text(example(stack, code))

        done = subprocess.run([tsx, "client.mts"], cwd=tmp_path, capture_output=True, text=True, timeout=60)

        assert done.stdout.startswith("Video ready: http"), done.stderr

    @pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: re.sub(r"\W+", " ", block)[10:60])
    def test_the_curl_examples(self, stack, get, image_server, tmp_path, block):
        if "/status/" in block:
            job_id = requests.post(
                stack.url + "/generate",
                json={"prompt": "A cat"},
                headers={"X-API-Key": stack.env["API_KEY"]},
                timeout=10,
            ).json()["job_id"]
            block = re.sub(r"(?<=/status/)[0-9a-f-]+", job_id, block)
        block = example(stack, block).replace("https://example.com", f"http://{image_server}")
        # Small enough for one line of GNU base64, which wraps longer ones; the README has the Linux form.
        (tmp_path / "image.jpg").write_bytes(picture(16, 16, "WEBP", lossless=True))

        done = subprocess.run(["bash", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=30)

        answer = json.loads(done.stdout)
        assert "detail" not in answer, answer
        assert isinstance(answer, list) or answer["job_id"]


def test_health_tells_that_the_model_is_loaded(stack, get):
    deadline = time.monotonic() + 15
    while not (answer := get("/health").json())["model_loaded"]:
        assert time.monotonic() < deadline, answer


def test_requests_are_counted_over_all_web_processes(get):
    def counted():
        found = re.findall(
            r'requests?_duration_seconds_count{.*route="/jobs",.*} (\S+)', get("/metrics").text
        )
        return sum(map(float, found))

    before = counted()
    for _ in range(20):  # more than one process answers
        get("/jobs")

    assert counted() == before + 20


def test_the_admins_files_are_served(get):
    assert get("/static/admin/css/base.css").status_code == 200
    assert get("/admin/login/").status_code == 200


def test_a_body_that_lies_about_its_length_is_a_400(stack):
    """Through the real server: Django's test client cannot send it."""
    import socket

    host, port = stack.url.removeprefix("http://").split(":")
    head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {stack.env['API_KEY']}\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{}}".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536) or pytest.fail(f"no JSON: {answer!r}")

    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"detail":' in answer


def test_a_chunked_body_is_a_411_and_not_taken_for_empty(stack):
    headers = {"X-API-Key": stack.env["API_KEY"], "Content-Type": "application/json"}

    answer = requests.post(
        f"{stack.url}/generate", data=iter([b'{"prompt": "A cat"}']), headers=headers, timeout=5
    )

    assert answer.status_code == 411
    assert "Content-Length" in answer.json()["detail"]


def test_every_job_of_these_tests_was_completed(get):
    deadline = time.monotonic() + 60
    while unfinished := [job for job in get("/jobs").json() if job["status"] != "completed"]:
        assert time.monotonic() < deadline, unfinished
        time.sleep(0.2)
