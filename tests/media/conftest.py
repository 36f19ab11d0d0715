"""A fixture for the tests of addresses."""

import pytest

from tests.image_servers import Server


@pytest.fixture
def any_port(server, monkeypatch) -> Server:
    """A server on a port like port 80: only its address keeps us from it."""
    monkeypatch.setattr("jobs.media.public.PORTS", (None, 80, 443, server.server_port))
    return server
