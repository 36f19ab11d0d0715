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

PROMPT = 0.2  # seconds within which an ordinary client goes on
SILENCE = 10.0  # seconds without a byte after which a slow one is given up
WHOLE = 60.0  # seconds for all waiting in one request
LINGER = 2.0  # seconds for the client to close
UNREAD = 65536  # bytes that it may still send meanwhile
SLOW_AT_ONCE = 6  # threads of one process that wait for slow clients

_slow = threading.BoundedSemaphore(SLOW_AT_ONCE)


class TooSlow(ConnectionResetError):
    """gunicorn drops the connection without a word; within a view it is Django's UnreadablePostError."""


class Worker(gthread.ThreadWorker):
    def handle(self, conn: Any) -> Any:
        if conn.parser is None:
            if not conn.wait_for_data(0):
                return gthread._DEFER  # to the poller: whoever has sent nothing yet needs no thread
            conn.sock = Client(conn.sock)
            conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
        conn.sock.patience = WHOLE
        goes_on = super().handle(conn)
        if not goes_on:
            conn.sock.linger()
        return goes_on


class Client:
    """A client's socket, as gunicorn uses it."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self.patience = WHOLE
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv(self, size: int) -> bytes:
        if self._ended:
            return b""
        self._wait(select.POLLIN)
        return self._connection.recv(size)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(select.POLLOUT)
            rest = rest[self._connection.send(rest, socket.MSG_DONTWAIT) :]

    def linger(self) -> None:
        """Ends our side and waits for the client's end: if it were cut off while it sends, it could lose the
        answer. What is left for gunicorn's own graceful close takes no time."""
        self.patience, unread = LINGER, UNREAD
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while unread > 0 and (data := self.recv(UNREAD)):
                unread -= len(data)
        self._ended = True

    def _wait(self, event: int) -> None:
        """Until the client has sent something, or has room."""
        poll = select.poll()
        poll.register(self._connection, event)
        if poll.poll(1000 * PROMPT):
            return
        if not _slow.acquire(blocking=False):
            raise TooSlow(errno.ECONNRESET, "too many slow clients")
        began = time.monotonic()
        try:
            if not poll.poll(1000 * max(min(self.patience, SILENCE), 0)):
                raise TooSlow(errno.ECONNRESET, "a client that is too slow")
        finally:
            _slow.release()
            self.patience -= time.monotonic() - began
