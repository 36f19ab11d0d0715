"""gunicorn with our configuration, as proxies and balancers meet it: connections that rest, odd requests."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import gunicorn as package
import pytest

from local.parts import ROOT, free_port
from tests.factories import eventually, ipv6
from tests.stack import LOG

LIVE = b"GET /health/live HTTP/1.1\r\nHost: 10.0.3.17:8000\r\n\r\n"


@contextmanager
def gunicorn(host="127.0.0.1", address="127.0.0.1", **env):
    """One web process; its port, and that for metrics."""
    ports = free_port(), free_port()
    variables = {"HOST": host, "PORT": str(ports[0]), "METRICS_PORT": str(ports[1]), "WEB_WORKERS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "wanapi/gunicorn.py", "wanapi.wsgi"],
        cwd=ROOT,
        env=os.environ | variables | env,
        stderr=LOG,
    )
    try:
        eventually(lambda: process.poll() is not None or answers(ports[0], address))
        yield ports
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def answers(port, address):
    try:
        with connect(port, address) as connection:
            return ask(connection, LIVE) == 200
    except OSError:
        return False


def connect(port, host="127.0.0.1"):
    return socket.create_connection((host, port), timeout=5)


def ask(connection, request):
    connection.sendall(request)
    with http.client.HTTPResponse(connection, method=request.split()[0].decode()) as answer:
        answer.begin()
        answer.read()
        return answer.status


def is_open(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@pytest.fixture(scope="module")
def ports():
    with gunicorn(KEEPALIVE="3", GUNICORN_CMD_ARGS="--worker-connections 40") as ports:
        yield ports


def test_an_idle_connection_is_kept_as_long_as_is_set_and_no_longer(ports):
    with connect(ports[0]) as connection:
        for _ in range(2):
            assert ask(connection, LIVE) == 200
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 2.5 < time.monotonic() - began < 4.5


@pytest.mark.parametrize("said", [b"", LIVE])
def test_idle_connections_take_nobodys_place(ports, said):
    """There is room for 40; of 100 the oldest go, and each new one is answered at once."""
    began = time.monotonic()
    with ExitStack() as connections:
        resting = []
        for _ in range(100):
            resting.append(connections.enter_context(connect(ports[0])))
            if said:
                assert ask(resting[-1], said) == 200
        with connect(ports[0]) as connection:
            assert ask(connection, LIVE) == 200
        assert time.monotonic() - began < 2.5  # before the first one's time was up
        assert sum(map(is_open, resting)) < 40
        assert is_open(resting[-1])


@pytest.mark.parametrize(
    "head",
    [
        "GET /health/live HTTP/1.0\r\n",
        "HEAD /health/live HTTP/1.0\r\n",
        "GET /health/live HTTP/1.1\r\nConnection: close\r\n",
        "GET /health HTTP/1.1\r\nHost: 10.0.3.17:8000\r\n",
        "GET /health/ready HTTP/1.1\r\nHost: [fe80::1]:8000\r\n",
        "GET /health/live HTTP/1.1\r\nHost: a_pod.example.\r\n",
        "GET /health/live HTTP/1.1\r\nHost:\r\n",
        "GET http://10.0.3.17:8000/health/live HTTP/1.1\r\nHost: 10.0.3.17:8000\r\n",
        "GET /health/live?from=balancer HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: http\r\n",
    ],
)
def test_health_whatever_the_head(ports, head):
    with connect(ports[0]) as connection:
        assert ask(connection, head.encode() + b"\r\n") in ((200, 503) if "ready" in head else (200,))


def status(port, path, host):
    with connect(port) as connection:
        return ask(connection, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def test_the_port_for_metrics_answers_by_any_name_and_the_other_one_does_not(ports):
    port, metrics = ports

    assert status(metrics, "/metrics", "10.0.3.17:9000") == 200
    assert status(metrics, "/jobs", "10.0.3.17:9000") == 400
    assert status(port, "/metrics", "10.0.3.17:8000") == 400


def test_the_worker_was_written_for_this_gunicorn():
    """wanapi/slow_clients.py builds on gunicorn's inner parts: compare them before this number changes."""
    assert package.__version__ == "27.0.1"


def test_no_client_moves_the_addresses_below_a_path(ports):
    """gunicorn takes SCRIPT_NAME from a proxy on the same machine: nobody would count the size of a form."""
    head = b"POST /x/admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nSCRIPT_NAME: /x\r\nContent-Length: 9\r\n\r\n"
    with connect(ports[0]) as connection:
        assert ask(connection, head + b"name=chef") == 404


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "127.0.0.1"),
        pytest.param("::", "127.0.0.1", marks=ipv6),
        pytest.param("::1", "::1", marks=ipv6),
        pytest.param("[::1]", "::1", marks=ipv6),
    ],
)
def test_it_listens_on_each_form_of_address(host, address):
    with gunicorn(host, address) as (port, _):
        assert answers(port, address)


def test_the_images_health_check_asks_no_proxy(ports):
    [check] = re.findall(
        r'CMD (\["python", "-c", .*/health/live.*\])', (ROOT / "docker/Dockerfile").read_text()
    )
    _, *arguments = json.loads(check)
    proxy = {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}

    done = subprocess.run([sys.executable, *arguments], env=os.environ | proxy | {"PORT": str(ports[0])})

    assert done.returncode == 0
