"""Clients that stop in the middle: however many there are, others are served."""

import socket
import threading
import time
from contextlib import ExitStack, closing, suppress

import pytest
import requests

CLIENTS = 80  # the two web processes have 33 threads each
FILE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"  # 1.4 MB
GET = f"GET {FILE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = "POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
MESSAGES = {
    "say nothing": "",
    "send half a head": "GET /jobs HTTP/1.1\r\nHost: 127",
    "send half a body": POST + 'Content-Length: 100\r\n\r\n{{"prompt": "A',
    "never read": GET * 10,
}


def connect(stack, message):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", int(stack.env["PORT"])))
    connection.setblocking(False)
    connection.send(message.format(key=stack.env["API_KEY"]).encode())
    connection.settimeout(30)
    return connection


@pytest.mark.parametrize("what", MESSAGES)
def test_the_api_answers_while_clients(stack, figure, what):
    waits = []
    with ExitStack() as connections:
        for _ in range(CLIENTS):
            connections.enter_context(closing(connect(stack, MESSAGES[what])))
        end = time.monotonic() + 3
        while (began := time.monotonic()) < end:
            # gunicorn's own worker would let it wait for 5 s, or without end
            assert requests.get(stack.url + "/health/live", timeout=4).status_code == 200
            waits.append(time.monotonic() - began)
    figure(f"{CLIENTS} clients {what}", f"/health/live {max(waits):.2f} s at most")


TRICKLES = {
    "a head": "GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "a body": POST + "Content-Length: 100000\r\n\r\n",
    "after the answer": GET.replace("\r\n\r\n", "\r\nConnection: close\r\nContent-Length: 99999\r\n\r\n"),
}


@pytest.mark.parametrize("what", TRICKLES)
def test_the_api_answers_while_clients_trickle(stack, figure, what):
    """A byte every 0.1 s is never silent; no thread may wait for the next one all the same."""
    waits, ended = [], threading.Event()
    with ExitStack() as connections:
        clients = [connections.enter_context(closing(connect(stack, TRICKLES[what]))) for _ in range(CLIENTS)]

        def trickle():
            while not ended.wait(0.1):
                for client in clients:
                    with suppress(OSError):  # it was dropped
                        client.send(b"a")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            end = time.monotonic() + 5
            while (began := time.monotonic()) < end:
                assert requests.get(stack.url + "/health/live", timeout=4).status_code == 200
                waits.append(time.monotonic() - began)
        finally:
            ended.set()
            thread.join()
    figure(f"{CLIENTS} clients trickle {what}", f"/health/live {max(waits):.2f} s at most")


def test_a_body_that_never_comes_gets_an_answer(stack):
    with closing(connect(stack, MESSAGES["send half a body"])) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_an_honest_slow_client_is_served_beside_half_heads_or_told_to_come_back(stack):
    head = (POST + "Connection: close\r\nContent-Length: 19\r\n\r\n").format(key=stack.env["API_KEY"])
    with ExitStack() as connections:
        for _ in range(CLIENTS):
            connections.enter_context(closing(connect(stack, MESSAGES["send half a head"])))
        with closing(socket.create_connection(("127.0.0.1", int(stack.env["PORT"])), timeout=30)) as client:
            client.sendall(head.encode())
            time.sleep(0.5)  # the gap of a slow link
            client.sendall(b'{"prompt": "A cat"}')
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
