"""The service as an attacker meets it: gunicorn and all behind it, with image servers that never end."""

import socket
import threading
from collections.abc import Iterator

import pytest

from local.parts import free_port
from local.stack import Stack
from tests.factories import FULL
from tests.processes import Memory
from tests.stack import FOLDER

IMAGE_TIMEOUT = 20 if FULL else 4  # seconds; 20 is the default


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
