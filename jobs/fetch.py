"""Fetches a client's ``image_url``: from public addresses only, within a deadline and a size limit.

requests-hardened resolves the name once, refuses what is not public, and connects to the address it
checked. Here are the limits on time, size, ports and redirects.
"""

import contextlib
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import requests
from django.conf import settings
from requests.adapters import HTTPAdapter
from requests_hardened import Config, HTTPSession
from requests_hardened.ip_filter import InvalidIPAddress
from requests_hardened.ip_filter_adapter import IPFilterAdapter

from jobs.images import BadImage

MAX_REDIRECTS = 3
CHUNK = 1 << 16
PORTS = (None, 80, 443)
SESSION = Config(
    ip_filter_enable=True,
    ip_filter_allow_loopback_ips=False,
    never_redirect=False,
    default_timeout=(5, 10),
    user_agent_override="wanapi",
)


def fetch(url: str) -> bytes:
    """The body behind ``url``: at most IMAGE_MAX_BYTES, within IMAGE_URL_TIMEOUT seconds in all.

    Raises BadImage with a sentence that helps the client.
    """
    with Deadline(settings.IMAGE_URL_TIMEOUT) as deadline, _session(deadline) as session:
        try:
            with session.get(url, stream=True) as response:
                if not response.ok:
                    raise BadImage(f"The image's server answered with status {response.status_code}.")
                body = _read(response)
        except InvalidIPAddress:
            raise BadImage(
                "The address is not public; images are fetched from public servers only."
            ) from None
        except requests.TooManyRedirects:
            raise BadImage(f"The image's server redirected more than {MAX_REDIRECTS} times.") from None
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
        ):
            raise BadImage("This is not an http or https URL.") from None
        except (requests.RequestException, OSError, ValueError):  # ValueError: what urllib cannot parse
            body = None
        if deadline.passed:
            raise BadImage(f"The image's server took longer than {settings.IMAGE_URL_TIMEOUT} seconds.")
        if body is None:
            raise BadImage("The image's server could not be reached.")
        return body


def _read(response: requests.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_content(CHUNK):
        body += chunk
        if len(body) > settings.IMAGE_MAX_BYTES:
            raise BadImage(f"The image is larger than {settings.IMAGE_MAX_BYTES:,} bytes.")
    return bytes(body)


class Deadline:
    """Cuts every socket of a fetch when its time is up: timeouts per read let a slow drip go on for ever."""

    def __init__(self, seconds: float):
        self.passed = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)

    def __enter__(self) -> "Deadline":
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for duplicate in self._sockets:
            duplicate.close()

    def watch(self, connection: socket.socket) -> socket.socket:
        if self.passed:
            connection.close()
            raise TimeoutError
        self._sockets.append(connection.dup())  # TLS takes the original away
        return connection

    def _cut(self) -> None:
        self.passed = True
        for duplicate in self._sockets:
            with contextlib.suppress(OSError):  # it ended by itself
                duplicate.shutdown(socket.SHUT_RDWR)


class _WatchedAdapter(HTTPAdapter):
    """Registers each new connection with the deadline."""

    deadline: Deadline

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        deadline, plain = self.deadline, pool.ConnectionCls

        class Watched(plain):  # type: ignore[misc, valid-type]
            def _new_conn(self) -> socket.socket:
                return deadline.watch(super()._new_conn())

        pool.ConnectionCls = Watched
        return pool


class _PublicAdapter(_WatchedAdapter, IPFilterAdapter):
    """Public addresses and the usual ports only, on each redirect anew."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        parts = urlsplit(request.url or "")
        if parts.port not in PORTS:
            raise BadImage("Images are fetched from ports 80 and 443 only.")
        if parts.username is not None:
            raise BadImage("The URL must not hold a user name or password.")
        return super().send(request, **kwargs)


def _session(deadline: Deadline) -> HTTPSession:
    session = HTTPSession(SESSION)
    session.trust_env = False  # a proxy would resolve the name again, and .netrc is nobody's business
    session.max_redirects = MAX_REDIRECTS
    for scheme in ("http", "https"):
        adapter = _PublicAdapter(is_https_proto=scheme == "https")
        adapter.deadline = deadline
        session.mount(f"{scheme}://", adapter)
        for host in settings.IMAGE_URL_ALLOW:
            own = _WatchedAdapter()
            own.deadline = deadline
            session.mount(f"{scheme}://{host}/", own)
            if host.endswith(":80" if scheme == "http" else ":443"):
                session.mount(f"{scheme}://{host.rpartition(':')[0]}/", own)
    return session
