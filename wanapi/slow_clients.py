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

PROMPT = 0.2  # seconds that any client may let a thread wait
RATE = 65536  # bytes a second by which it earns them anew
SILENCE = 10.0  # seconds without a byte after which a slow one is given up
WHOLE = 60.0  # seconds for all waiting in one request
LINGER = 2.0  # seconds for the client to close
UNREAD = 65536  # bytes that it may still send meanwhile

# Threads of one process that wait for slow clients. Who sends half a head has shown no key, and must not take
# the places of those who send a body.
_heads, _others = threading.BoundedSemaphore(2), threading.BoundedSemaphore(5)


class Worker(gthread.ThreadWorker):
    poller: Any

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.max_keepalived = self.worker_connections  # murder_pending() makes room

    def murder_pending(self) -> None:
        """At the limit of connections whoever has rested longest makes room, first those who never said
        anything: so idle connections, which are kept for KEEPALIVE seconds, cost nobody a place."""
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
                return gthread._DEFER  # to the poller: whoever has sent nothing yet needs no thread
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
    """A client's socket, as gunicorn uses it."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._ended = False
        self.begin()

    def begin(self) -> None:
        """A new request."""
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
        """Ends our side and waits for the client's end: if it were cut off while it sends, it could lose the
        answer. What is left for gunicorn's own graceful close takes no time."""
        self.slots, self._patience, self._prompt, unread = _heads, LINGER, PROMPT, UNREAD
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while unread > 0 and (data := self.recv(UNREAD)):
                unread -= len(data)
        self._ended = True

    def _earn(self, count: int) -> None:
        self._prompt = min(self._prompt + count / RATE, PROMPT)

    def _wait(self, event: int) -> None:
        """Until the client has sent something, or has room: first on its own account, then as a slow one."""
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
        """A view that reads a body can answer (jobs/api/errors.py). At any other place gunicorn drops the
        connection, and for this number alone it does so without a traceback."""
        answerable = self.in_body and event == select.POLLIN
        return OSError(number if answerable else errno.ECONNRESET, message)
