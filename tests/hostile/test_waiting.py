"""More clients that wait than there are places: all are answered, and others are served meanwhile."""

import selectors
import socket
import time
from contextlib import ExitStack, closing

import pytest
import requests

from tests.factories import eventually

CLIENTS = 1000
PLACES = 2 * 200  # of one key, in both web processes
HEAD = "GET /jobs/{job}?wait=50 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n\r\n"


@pytest.fixture
def job(stack):
    """One that is not finished: it waits behind another one of many frames."""
    headers = {"X-API-Key": stack.env["API_KEY"]}
    body = {"prompt": "A cat", "preset": "quality", "steps": 50}
    for _ in range(20):
        answer = requests.post(f"{stack.url}/generate", json=body, headers=headers, timeout=10)
    yield answer.json()["job_id"]
    for made in requests.get(f"{stack.url}/jobs?status=queued", headers=headers, timeout=10).json():
        requests.post(f"{stack.url}/jobs/{made['job_id']}/cancel", headers=headers, timeout=10)


def test_the_api_answers_while_a_thousand_wait(stack, figure, job):
    head = HEAD.format(job=job, key=stack.env["API_KEY"]).encode()
    waits, told = [], 0
    with ExitStack() as connections, selectors.DefaultSelector() as selector:
        for _ in range(CLIENTS):
            address = ("127.0.0.1", int(stack.env["PORT"]))
            client = connections.enter_context(closing(socket.create_connection(address, timeout=30)))
            client.sendall(head)
            selector.register(client, selectors.EVENT_READ)

        def beyond_are_told():
            nonlocal told
            began = time.monotonic()
            assert requests.get(stack.url + "/health/live", timeout=4).status_code == 200
            waits.append(time.monotonic() - began)
            for key, _ in selector.select(0):
                selector.unregister(key.fileobj)
                assert b"Retry-After: 5" in key.fileobj.recv(65536)
                told += 1
            return told >= CLIENTS - PLACES

        eventually(beyond_are_told, within=40)
    figure(f"{CLIENTS} clients wait", f"{told} told to come back; /health/live {max(waits):.2f} s at most")
