"""The service as an attacker meets it: gunicorn and all behind it, with image servers that never end."""

import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from local.parts import free_port
from local.stack import Stack
from tests.factories import FULL
from tests.processes import Memory
from tests.stack import FOLDER

IMAGE_TIMEOUT = 20 if FULL else 4  # seconds; 20 is the default

OUR_THREADS = ("fetch", "deliver")  # those that ask servers of a client's choice
_connections: list[object] | None = None


def _witness(event: str, arguments: tuple[object, ...]) -> None:
    ours = threading.current_thread().name.startswith(OUR_THREADS)
    if event == "socket.connect" and _connections is not None and ours:
        _connections.append(arguments[1])


sys.addaudithook(_witness)  # of the interpreter itself: sees what no patch of ours would


@pytest.fixture
def connections() -> Iterator[list[object]]:
    """Every address that requests to servers of a client's choice connect to."""
    global _connections
    _connections = []
    yield _connections
    _connections = None


class SilentServer:
    """Takes every connection, and never says a word."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.name = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                self.connections.append(self.listener.accept()[0])
        except OSError:
            return

    def close(self) -> None:
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture(scope="session")
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def stack(silent: SilentServer) -> Iterator[Stack]:
    settings = {
        "PORT": str(free_port()),
        "WORKFLOW_PRESET": "fast",
        "MAX_WAITING": "1000000",
        "IMAGE_URL_ALLOW": silent.name,
        "IMAGE_URL_TIMEOUT": str(IMAGE_TIMEOUT),
    }
    stack = Stack(FOLDER / "hostile", settings)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def memory(stack: Stack) -> Memory:
    return Memory(stack)
