"""Image servers for the tests of jobs.media.public."""

from collections.abc import Iterator

import pytest

from tests.media.servers import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


@pytest.fixture
def own(server, settings) -> Server:
    """A server that the operator named in IMAGE_URL_ALLOW."""
    settings.IMAGE_URL_ALLOW = [server.own]
    return server


@pytest.fixture
def any_port(server, monkeypatch) -> Server:
    """A server on a port like port 80: only its address keeps us from it."""
    monkeypatch.setattr("jobs.media.public.PORTS", (None, 80, 443, server.server_port))
    return server
