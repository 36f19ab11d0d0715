"""gunicorn's thread worker, made so that slow clients never hold all of its threads.

gunicorn itself lets a thread wait without end for the rest of a request, and for a client to read its answer;
and its main thread waits for two seconds until a client closes. A few dozen idle clients would stop the
service. Here only a few threads may wait for slow clients at the same time, and none for long.
"""

import contextlib
import errno
import select
import socket
import threading
import time
from typing import Any

from gunicorn import http
from gunicorn.workers import gthread

from wanapi import limits, parking

PROMPT = 0.2  # seconds for which any client may let a thread wait
RATE = 65536  # bytes that a client sends or reads for each second that it gets back, up to PROMPT
SILENCE = 10.0  # seconds without a byte after which a slow client is given up
WHOLE = 60.0  # seconds of waiting in one request, all together, after which a slow client is given up
LINGER = 2.0  # seconds that a client has to close the connection after we closed our side
UNREAD = 65536  # bytes that a client may still send in these seconds

# Places for slow clients. A client that has sent half a head has not shown an API key yet, and must not take
# the places of clients that send a body.
_heads = threading.BoundedSemaphore(limits.SLOW_HEADS)
_others = threading.BoundedSemaphore(limits.SLOW_CLIENTS)


class Worker(parking.Worker):
    poller: Any

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.max_keepalived = self.worker_connections  # no limit of its own: murder_pending() makes room

    def murder_pending(self) -> None:
        """At the limit of connections, closes idle ones: first those on which nothing ever came, and of each
        kind the oldest first. So no new client is turned away because of idle connections, which are kept
        open for KEEPALIVE seconds."""
        super().murder_pending()
        while self.nr_conns >= self.worker_connections and (
            resting := self.pending_conns or self.keepalived_conns
        ):
            oldest = resting.popleft()
            self.poller.unregister(oldest.sock)
            self.nr_conns -= 1
            oldest.close()

    def handle(self, conn: Any) -> Any:
        if conn.parser is None:
            if not conn.wait_for_data(0):
                return gthread._DEFER  # back to the poller: a client that has sent nothing needs no thread
            conn.sock = Client(conn.sock)
            conn.parser = parking.Parser(http.get_parser(self.cfg, conn.sock, conn.client))
        conn.sock.begin()
        goes_on = super().handle(conn)
        if not goes_on:
            conn.sock.linger()
        return goes_on

    def handle_request(self, req: Any, conn: Any) -> Any:
        conn.sock.slots, conn.sock.in_body = _others, True
        try:
            return super().handle_request(req, conn)
        finally:
            conn.sock.in_body = False


class Client:
    """A client's socket, as gunicorn uses it.

    Any client may let its thread wait for PROMPT seconds, and gets this time back as it sends or reads bytes
    (RATE). A client that needs longer is a slow client. It then needs one of the few places in ``slots``. It
    is given up if none is free, after SILENCE seconds without a byte, or after WHOLE seconds in all.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._ended = False
        self.parked: parking.Parked | None = None
        self.begin()

    def begin(self) -> None:
        """Starts a new request."""
        self.slots, self.in_body = _heads, False
        self._patience, self._prompt = WHOLE, PROMPT

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv(self, size: int) -> bytes:
        if self._ended:
            return b""
        self._wait(select.POLLIN)
        data = self._connection.recv(size)
        self._earn(len(data))
        return data

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(select.POLLOUT)
            sent = self._connection.send(rest, socket.MSG_DONTWAIT)
            self._earn(sent)
            rest = rest[sent:]

    send = sendall  # gunicorn sends "100 Continue" with it, which has to go out whole as well

    def linger(self) -> None:
        """Closes our side, and waits until the client closes its own: a client that is cut off while it sends
        could lose the answer. After this, gunicorn's own graceful close does not have to wait."""
        self.slots, self._patience, self._prompt, unread = _heads, LINGER, PROMPT, UNREAD
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while unread > 0 and (data := self.recv(UNREAD)):
                unread -= len(data)
        self._ended = True

    def _earn(self, count: int) -> None:
        self._prompt = min(self._prompt + count / RATE, PROMPT)

    def _wait(self, event: int) -> None:
        """Waits until the client has sent something (POLLIN) or there is room to send (POLLOUT). Raises
        OSError if the client is given up."""
        poll = select.poll()
        poll.register(self._connection, event)
        began = time.monotonic()
        ready = poll.poll(1000 * self._prompt)
        self._prompt = max(self._prompt - (time.monotonic() - began), 0)
        if ready:
            return
        if not self.slots.acquire(blocking=False):
            raise self._late(event, errno.EBUSY, "too many slow clients")
        began = time.monotonic()
        try:
            if not poll.poll(1000 * max(min(self._patience, SILENCE), 0)):
                raise self._late(event, errno.ETIMEDOUT, "a client that is too slow")
        finally:
            self.slots.release()
            self._patience -= time.monotonic() - began

    def _late(self, event: int, number: int, message: str) -> OSError:
        """The error for a client that is given up. While a view reads the body, the API can still answer, and
        ``number`` says with what (jobs/api/errors.py). Everywhere else gunicorn drops the connection, and
        ECONNRESET is the only number for which it logs no traceback."""
        answerable = self.in_body and event == select.POLLIN
        return OSError(number if answerable else errno.ECONNRESET, message)
