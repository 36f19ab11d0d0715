"""Requests to URLs that clients name: to public addresses only, within a deadline. ``fetch`` gets an
``image_url``; jobs/media/receivers.py posts webhooks by the same rules.

Each connection looks the name up, checks the addresses that it finds, and connects to one of these very
addresses, so that nothing can change between the check and the use. TLS and the server still see the name.
"""

import contextlib
import errno
import ipaddress
import itertools
import logging
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests
from django.conf import settings
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError
from urllib3.util.connection import create_connection

from jobs.media.images import BadImage, Busy, CannotRead
from wanapi import limits

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 3
CHUNK = 1 << 16
PORTS = (None, 80, 443)
DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_ADDRESSES = 6  # addresses of one name that are tried
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # errors of this machine, not of a server
PATIENCE = 3  # seconds for an address while there are others to try
SENTENCES: dict[type[Exception], str] = {  # for the client: the first one whose class fits the error
    requests.TooManyRedirects: f"The image's server redirected more than {MAX_REDIRECTS} times.",
    requests.exceptions.InvalidSchema: "Images are fetched from http and https URLs only.",
    requests.exceptions.InvalidHeader: "The image's server broke off or sent a damaged answer.",
    ValueError: "This is not a valid http or https URL.",  # also requests' InvalidURL and MissingSchema
    requests.exceptions.SSLError: "The image's server offers no TLS connection that can be trusted.",
    requests.ConnectionError: "The image's server could not be reached, or broke off.",
    OSError: "The image's server broke off or sent a damaged answer.",  # also requests' other errors
}


_slots = threading.BoundedSemaphore(limits.IMAGE_FETCHES)
# Each fetch runs in a thread, which its caller need not wait for: looking up a name has no deadline.
_threads = ThreadPoolExecutor(limits.IMAGE_FETCHES, thread_name_prefix="fetch")


class NotAllowed(Exception):
    """No request may go there, for the reason that the sentence gives."""


@dataclass(frozen=True)
class Rules:
    """Where requests of one kind may go. ``servers`` (host:port) and ``networks`` are the operator's: they
    may be private. ``ports``: of public addresses, for each scheme; None stands for the scheme's own."""

    what: str  # "Images are fetched from"
    ports: dict[str, tuple[int | None, ...]]
    ports_told: str
    servers: list[str]
    networks: list[Any]

    @property
    def not_public(self) -> str:
        return f"The address is not public; {self.what[0].lower()}{self.what[1:]} public servers only."

    def may_use(self, scheme: str, port: int | None) -> bool:
        """Whether some address may be asked so; which ones are looked at when they are known."""
        theirs = [port for _, port in self.networks]
        return port in self.ports[scheme] or (port or DEFAULT_PORTS[scheme]) in theirs


def _image_rules() -> Rules:
    return Rules(
        what="Images are fetched from",
        ports={"http": PORTS, "https": PORTS},
        ports_told="ports 80 and 443",
        servers=settings.IMAGE_URL_ALLOW,
        networks=settings.IMAGE_URL_NETWORKS,
    )


def fetch(url: str) -> bytes:
    """The body behind ``url``: at most IMAGE_MAX_BYTES, within IMAGE_URL_TIMEOUT seconds in all.

    Raises BadImage with a sentence for the client; CannotRead; and Busy, at once, if IMAGE_FETCHES fetches
    run already.
    """
    if not _slots.acquire(blocking=False):
        raise Busy
    try:
        fetching = _threads.submit(_fetch, url)
    except RuntimeError as error:  # the machine starts no more threads
        _slots.release()
        raise _cannot_read(error) from None
    fetching.add_done_callback(lambda _: _slots.release())
    try:
        return fetching.result(settings.IMAGE_URL_TIMEOUT + 0.5)  # normally _fetch's own deadline comes first
    except TimeoutError:
        raise _late() from None


def _cannot_read(error: Exception) -> CannotRead:
    logger.error("no connection can be opened: %s", error)
    return CannotRead()


def _late() -> BadImage:
    return BadImage(f"The image's server took longer than {settings.IMAGE_URL_TIMEOUT} seconds.")


def _fetch(url: str) -> bytes:
    with Deadline(settings.IMAGE_URL_TIMEOUT) as deadline, Session(deadline, _image_rules()) as session:
        try:
            session.target = target_of(url)
            with session.get(url, stream=True) as response:
                body = _read(response)
        except NotAllowed as error:
            raise BadImage(str(error)) from None
        except tuple(SENTENCES) as error:
            sentence = next(text for kind, text in SENTENCES.items() if isinstance(error, kind))
            raise (_late() if deadline.passed else BadImage(sentence)) from None
        if deadline.passed:  # a body without a Content-Length looks whole even if it was cut off
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
    """Shuts every socket of a fetch down when its time is up. A timeout for each read would not do: a server
    that sends a byte now and then would never exceed it."""

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
        self._sockets.append(connection.dup())  # a duplicate, since TLS detaches the original
        if self.passed:  # the timer may have fired before this socket was in the list
            self._cut()
        return connection

    def _cut(self) -> None:
        for duplicate in self._sockets:
            with contextlib.suppress(OSError):  # the connection may have ended by itself
                duplicate.shutdown(socket.SHUT_RDWR)


class _WatchedAdapter(HTTPAdapter):
    """Connections that end at the deadline, and send each URL as it was written."""

    def __init__(self, session: "Session"):
        super().__init__()
        self.session, self.deadline, self.rules = session, session.deadline, session.rules

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        options["timeout"] = max(self.deadline.left(), 0.001)
        response = super().send(request, *args, **options)
        if response.is_redirect:
            response.close()  # requests would read its whole body into memory
        return response

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        adapter, plain = self, pool.ConnectionCls

        class Watched(plain):  # type: ignore[misc, valid-type]
            def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> None:
                super().putrequest(method, adapter.session.target, *args, **options)

            def _new_conn(self) -> socket.socket:
                return adapter.connect(self)

        pool.ConnectionCls = Watched
        return pool

    def connect(self, connection: Any) -> socket.socket:
        """A connection to the first address that can be reached: one may be down, or IPv6 not routed."""
        addresses = _addresses(connection._dns_host.strip("[]"))
        self.check(addresses, connection.port)
        waiting = _by_turns(addresses)
        while waiting:
            target = (waiting.pop(0), connection.port)
            left = max(self.deadline.left(), 0.001)
            patience = min(PATIENCE, left / (len(waiting) + 1)) if waiting else left
            try:
                reached = create_connection(target, patience, socket_options=connection.socket_options)
            except OSError as error:
                if error.errno in OURS:
                    raise _cannot_read(error) from None
                failed = error
            else:
                reached.settimeout(max(self.deadline.left(), 0.001))  # for the handshake of TLS
                return self.deadline.watch(reached)
        raise NewConnectionError(connection, str(failed))

    def check(self, addresses: list[str], port: int) -> None:
        """Raises NotAllowed if one of the addresses may not be asked. Here all may be: the server is one of
        the operator's."""


class _PublicAdapter(_WatchedAdapter):
    """Connections to public addresses and the usual ports alone; each redirect is checked anew."""

    def __init__(self, session: "Session", scheme: str):
        super().__init__(session)
        self.scheme = scheme

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        parts = urlsplit(request.url or "")
        if parts.username is not None:
            raise NotAllowed("The URL must not hold a user name or password.")
        if not self.rules.may_use(self.scheme, parts.port):
            raise NotAllowed(f"{self.rules.what} {self.rules.ports_told} only.")
        return super().send(request, *args, **options)

    def check(self, addresses: list[str], port: int) -> None:
        """All addresses must be in the operator's networks, or all must be public."""
        found = [ipaddress.ip_address(address) for address in addresses]
        networks = [network for network, theirs in self.rules.networks if theirs == port]
        if all(any(address in network for network in networks) for address in found):
            return
        ports = self.rules.ports[self.scheme]
        usual = port in ports or (port == DEFAULT_PORTS[self.scheme] and None in ports)
        if not usual or not all(_is_public(address) for address in found):
            raise NotAllowed(self.rules.not_public)


def _addresses(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise requests.ConnectionError(str(error)) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _by_turns(addresses: list[str]) -> list[str]:
    """IPv6 and IPv4 by turns, beginning with the kind that the name server put first: where one kind is not
    routed at all, an address of the other is tried soon."""
    kinds: dict[bool, list[str]] = {}
    for address in addresses:
        kinds.setdefault(":" in address, []).append(address)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*kinds.values()))
    return [address for address in turns if address][:MOST_ADDRESSES]


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


# The only IPv6 addresses that are given out for the public Internet. Addresses that contain an IPv4 address
# are outside of it, except for Teredo and 6to4, which NOT_FOR_ALL has.
PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # a gateway that leads to the IPv4 address in the last 32 bits
NOT_FOR_ALL = [  # networks that some versions of Python take for public
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # what an Azure machine's own host answers on
        "192.0.0.0/24",  # for protocols of the IETF
        "192.88.99.0/24",  # a relay for 6to4
        "2001::/23",  # Teredo, ORCHID and others
        "2002::/16",  # 6to4
        "3fff::/20",  # for documentation
    )
]


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address in NAT64:
            return _is_public(ipaddress.IPv4Address(address.packed[-4:]))
        if address not in PUBLIC_IPV6:
            return False
    public = address.is_global and not address.is_multicast and not address.is_reserved
    return public and not any(address in network for network in NOT_FOR_ALL)


class Session(requests.Session):
    """Goes only where the rules allow it, and no longer than to the deadline.

    It remembers each URL as it was written. requests and urllib3 would send ~ for %7E, and %2B for %2b. That
    is the same address by the standard, but a server that signs its links compares the text."""

    target: str

    def __init__(self, deadline: Deadline, rules: Rules):
        super().__init__()
        self.deadline, self.rules = deadline, rules
        self.headers["User-Agent"] = "wanapi"
        self.trust_env = False  # no proxy, which would resolve the name again, and no .netrc
        self.max_redirects = MAX_REDIRECTS
        for scheme, port in DEFAULT_PORTS.items():
            self.mount(f"{scheme}://", _PublicAdapter(self, scheme))
            for server in rules.servers:
                own = _WatchedAdapter(self)
                self.mount(f"{scheme}://{server}/", own)
                if server.endswith(f":{port}"):
                    self.mount(f"{scheme}://{server.rpartition(':')[0]}/", own)

    def get_redirect_target(self, response: requests.Response) -> str | None:
        location = super().get_redirect_target(response)
        if location:
            self.target = target_of(urljoin(response.url, location))
        return location


def target_of(url: str) -> str:
    """Path and query as they are sent. Characters that must not stand in a request, such as spaces and
    letters of other alphabets, are quoted."""
    target = re.sub(r"^[^:]*://[^/?#]*", "", url.strip().partition("#")[0])
    return quote(target if target.startswith("/") else f"/{target}", safe="!#$%&'()*+,/:;=?@[]~")
