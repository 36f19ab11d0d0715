"""One service for all tests here."""

from collections.abc import Iterator

import pytest

from tests.faults.service import Service
from tests.stack import FOLDER, SHORT_LEASES


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """With short leases, so that a death is noticed in seconds."""
    yield from running("faults", **SHORT_LEASES)


@pytest.fixture(scope="session")
def default_service() -> Iterator[Service]:
    """With the leases that a user gets, and renders that take some seconds."""
    yield from running("defaults", SIMULATOR_SECONDS_PER_STEP="2")


def running(name: str, **settings: str) -> Iterator[Service]:
    service = Service(FOLDER / name, **settings)
    try:
        service.start()
        yield service
    finally:
        service.stop()
