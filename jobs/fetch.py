"""Fetches a client's ``image_url``: from public addresses only, within a deadline and a size limit.

requests-hardened resolves the name once, refuses what is not public, and connects to the address it
checked. Here are a stricter idea of what is public, and the limits on time, size, ports and redirects.
"""

import contextlib
import ipaddress
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import requests
from django.conf import settings
from requests.adapters import HTTPAdapter
from requests_hardened import Config, HTTPSession
from requests_hardened.ip_filter import InvalidIPAddress
from requests_hardened.ip_filter_adapter import IPFilterAdapter

from jobs.images import BadImage, Busy

MAX_REDIRECTS = 3
AT_ONCE = 4  # fetches of one web process: each holds a thread
CHUNK = 1 << 16
PORTS = (None, 80, 443)
SESSION = Config(
    ip_filter_enable=True,
    ip_filter_allow_loopback_ips=False,
    never_redirect=False,
    default_timeout=(5, 10),  # not used: each send() gets what is left until the deadline
    user_agent_override="wanapi",
)
SENTENCES: dict[type[Exception], str] = {  # for the client; the first whose error fits
    InvalidIPAddress: "The address is not public; images are fetched from public servers only.",
    requests.TooManyRedirects: f"The image's server redirected more than {MAX_REDIRECTS} times.",
    requests.exceptions.InvalidSchema: "Images are fetched from http and https URLs only.",
    requests.exceptions.InvalidHeader: "The image's server broke off or sent a damaged answer.",
    ValueError: "This is not a valid http or https URL.",  # requests' InvalidURL and MissingSchema are such
    requests.exceptions.SSLError: "The image's server offers no TLS connection that can be trusted.",
    requests.ConnectionError: "The image's server could not be reached, or broke off.",
    OSError: "The image's server broke off or sent a damaged answer.",  # requests' other errors are such
}


_slots = threading.BoundedSemaphore(AT_ONCE)
_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")  # the resolver knows no deadline


def fetch(url: str) -> bytes:
    """The body behind ``url``: at most IMAGE_MAX_BYTES, within IMAGE_URL_TIMEOUT seconds in all.

    Raises BadImage with a sentence that helps the client; Busy at once rather than to wait for a slot.
    """
    if not _slots.acquire(blocking=False):
        raise Busy
    fetching = _threads.submit(_fetch, url)
    fetching.add_done_callback(lambda _: _slots.release())
    try:
        return fetching.result(settings.IMAGE_URL_TIMEOUT + 0.5)  # its own deadline comes first
    except TimeoutError:
        raise _late() from None


def _late() -> BadImage:
    return BadImage(f"The image's server took longer than {settings.IMAGE_URL_TIMEOUT} seconds.")


def _fetch(url: str) -> bytes:
    with Deadline(settings.IMAGE_URL_TIMEOUT) as deadline, _session(deadline) as session:
        try:
            with session.get(url, stream=True) as response:
                body = _read(response)
        except tuple(SENTENCES) as error:
            sentence = next(text for kind, text in SENTENCES.items() if isinstance(error, kind))
            raise (_late() if deadline.passed else BadImage(sentence)) from None
        if deadline.passed:  # a body without a length that was cut looks whole
            raise _late()
        return body


def _read(response: requests.Response) -> bytes:
    if not response.ok:
        raise BadImage(f"The image's server answered with status {response.status_code}.")
    body = bytearray()
    for chunk in response.iter_content(CHUNK):
        body += chunk
        if len(body) > settings.IMAGE_MAX_BYTES:
            raise BadImage(f"The image is larger than {settings.IMAGE_MAX_BYTES:,} bytes.")
    return bytes(body)


class Deadline:
    """Cuts every socket of a fetch when its time is up: a timeout per read lets a drip go on for ever."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
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

    @property
    def passed(self) -> bool:
        return self.left() <= 0

    def left(self) -> float:
        return self._end - time.monotonic()

    def watch(self, connection: socket.socket) -> socket.socket:
        self._sockets.append(connection.dup())  # TLS takes the original away
        if self.passed:  # the timer may have missed it
            self._cut()
        return connection

    def _cut(self) -> None:
        for duplicate in self._sockets:
            with contextlib.suppress(OSError):  # it ended by itself
                duplicate.shutdown(socket.SHUT_RDWR)


class _WatchedAdapter(HTTPAdapter):
    """Holds each connection to the deadline."""

    deadline: Deadline

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        options["timeout"] = max(self.deadline.left(), 0.001)
        response = super().send(request, *args, **options)
        if response.is_redirect:
            response.close()  # requests would read its whole body into memory
        return response

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        deadline, plain = self.deadline, pool.ConnectionCls

        class Watched(plain):  # type: ignore[misc, valid-type]
            def _new_conn(self) -> socket.socket:
                return deadline.watch(super()._new_conn())

        pool.ConnectionCls = Watched
        return pool


class _PublicAdapter(_WatchedAdapter, IPFilterAdapter):
    """Public addresses and the usual ports only, on each redirect anew."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        parts = urlsplit(request.url or "")
        if parts.username is not None:
            raise BadImage("The URL must not hold a user name or password.")
        if parts.port not in (*PORTS, *(port for _, port in settings.IMAGE_URL_NETWORKS)):
            raise BadImage("Images are fetched from ports 80 and 443 only.")
        return super().send(request, *args, **options)

    def build_connection_pool_key_attributes(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Here requests-hardened looks at the name's first address, and puts it in the place of the name."""
        parts = urlsplit(request.url)
        addresses = _addresses(parts.hostname)
        if all(_is_private_store(address, parts) for address in addresses):
            return self._pinned(addresses[0], parts, request, *args, **kwargs)
        if parts.port not in PORTS:
            raise InvalidIPAddress(parts.hostname)
        for address in addresses:
            _check(address)
        host, pool = super().build_connection_pool_key_attributes(request, *args, **kwargs)
        _check(host["host"].strip("[]"))  # it was resolved anew
        return host, pool

    def _pinned(self, address: str, parts: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        """The same for an address in one of the operator's networks, which requests-hardened would refuse."""
        host: Any
        pool: Any
        host, pool = HTTPAdapter.build_connection_pool_key_attributes(self, request, *args, **kwargs)
        request.headers["Host"] = parts.netloc
        if parts.scheme == "https":
            pool |= {"assert_hostname": parts.hostname, "server_hostname": parts.hostname}
        host["host"] = f"[{address}]" if ":" in address else address
        return host, pool


def _is_private_store(address: str, parts: Any) -> bool:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return any(
        ipaddress.ip_address(address) in network and port == theirs
        for network, theirs in settings.IMAGE_URL_NETWORKS
    )


def _addresses(name: str | None) -> list[str]:
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        raise requests.ConnectionError(str(error)) from None


# The only IPv6 addresses that are given out for the public net. Those that hold an IPv4 address inside lie
# beyond it, but for Teredo, which is not global, and 6to4, which requests-hardened refuses.
PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
AZURE_HOST = ipaddress.IPv4Address("168.63.129.16")  # what an Azure machine's own host answers on


def _check(text: str) -> None:
    address = ipaddress.ip_address(text)
    public = address.is_global and not address.is_multicast and not address.is_reserved
    if isinstance(address, ipaddress.IPv6Address):
        public &= address in PUBLIC_IPV6
    if not public or address == AZURE_HOST:
        raise InvalidIPAddress(address)


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
