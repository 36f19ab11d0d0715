"""One service for all tests here, and the table that ``make test-faults`` prints."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import parts
from tests.faults.service import SHORT_LEASES, Service

FULL = os.environ.get("FAULTS") == "full"
figures: list[tuple[str, str]] = []


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """With short leases, so that a death is noticed in seconds."""
    yield from running("faults", **SHORT_LEASES)


@pytest.fixture(scope="session")
def default_service() -> Iterator[Service]:
    """With the leases that a user gets, and renders that take some seconds."""
    yield from running("defaults", SIMULATOR_SECONDS_PER_STEP="2")


def running(name: str, **settings: str) -> Iterator[Service]:
    service = Service(parts.FOLDER / name, **settings)
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture
def figure() -> Callable[[str, str], None]:
    """Puts a line into the table."""
    return lambda name, reached: figures.append((name, reached))


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Those that take many minutes run with ``make test-faults`` only."""
    long = [] if FULL else [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FULL and figures:
        terminalreporter.section("faults")
        for name, reached in figures:
            terminalreporter.write_line(f"| {name} | {reached} |")
