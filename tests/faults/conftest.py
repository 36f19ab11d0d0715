"""One service for all tests here."""

from collections.abc import Iterator

import pytest

from local.parts import free_port
from tests.faults.service import Service
from tests.receivers import SECRET
from tests.stack import FOLDER, SHORT_LEASES

RECEIVER_PORT = free_port()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """With short leases, so that a death is noticed in seconds."""
    yield from running("faults", **SHORT_LEASES, WEBHOOK_TIMEOUT="2")


@pytest.fixture(scope="session")
def default_service() -> Iterator[Service]:
    """With the leases that a user gets, and renders that take some seconds."""
    yield from running("defaults", SIMULATOR_SECONDS_PER_STEP="2")


@pytest.fixture(scope="session")
def receiver_port() -> int:
    """Where a receiver may listen that webhooks are sent to."""
    return RECEIVER_PORT


def running(name: str, **settings: str) -> Iterator[Service]:
    webhooks = {"WEBHOOK_SECRET": SECRET, "WEBHOOK_URL_ALLOW": f"127.0.0.1:{RECEIVER_PORT}"}
    service = Service(FOLDER / name, **settings, **webhooks)
    try:
        service.start()
        yield service
    finally:
        service.stop()
