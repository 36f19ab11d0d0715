"""The whole service as processes, for clients that know nothing of it."""

from collections.abc import Iterator

import pytest

from local.parts import free_port
from local.stack import Stack
from tests.stack import FOLDER


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    stack = Stack(FOLDER / "clients", {"PORT": str(free_port()), "WORKFLOW_PRESET": "fast"})
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
