"""gunicorn's thread worker, made so that slow clients never hold all of its threads.

gunicorn itself waits without end, in a thread, for the rest of a request and for room to send an answer; and
in its main thread, for two seconds, until a client closes. A few dozen idle clients would stop the service.
Here a thread waits only while few others do, and not for long.
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

from wanapi import limits

PROMPT = 0.2  # seconds for which any client may let a thread wait
RATE = 65536  # bytes a second by which a client that sends or reads gets these seconds back
SILENCE = 10.0  # seconds without a byte after which a slow client is given up
WHOLE = 60.0  # seconds of waiting in one request, all together
LINGER = 2.0  # seconds for the client to close
UNREAD = 65536  # bytes that it may still send meanwhile

# Places for slow clients. Whoever sends half a head has not shown a key, and must not take the places of
# those who send a body.
_heads = threading.BoundedSemaphore(limits.SLOW_HEADS)
_others = threading.BoundedSemaphore(limits.SLOW_CLIENTS)


class Worker(gthread.ThreadWorker):
    poller: Any

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.max_keepalived = self.worker_connections  # murder_pending() makes room

    def murder_pending(self) -> None:
        """At the limit of connections, closes those that have been idle longest, first those that never sent
        anything. So nobody is turned away for idle connections, which are kept for KEEPALIVE seconds."""
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
            conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
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

    A client may let its thread wait for PROMPT seconds without more ado, and gets them back with each byte
    that it sends or takes. One that needs longer is a slow client: it needs a place of ``slots``, of which
    there are few, and loses it after SILENCE seconds without a byte, or WHOLE seconds in all.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._ended = False
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

    send = sendall  # what gunicorn sends with it is a "100 Continue", which has to go out whole as well

    def linger(self) -> None:
        """Closes our side, and waits until the client closes: one that is cut off while it sends could lose
        the answer. After this gunicorn's own graceful close takes no time."""
        self.slots, self._patience, self._prompt, unread = _heads, LINGER, PROMPT, UNREAD
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while unread > 0 and (data := self.recv(UNREAD)):
                unread -= len(data)
        self._ended = True

    def _earn(self, count: int) -> None:
        self._prompt = min(self._prompt + count / RATE, PROMPT)

    def _wait(self, event: int) -> None:
        """Waits until the client has sent something (POLLIN), or takes something (POLLOUT); or OSError."""
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
        """The error for a client that is given up. While a view reads the body it can answer, by ``number``
        (jobs/api/errors.py). Everywhere else gunicorn drops the connection, and ECONNRESET is the only number
        for which it logs no traceback."""
        answerable = self.in_body and event == select.POLLIN
        return OSError(number if answerable else errno.ECONNRESET, message)
