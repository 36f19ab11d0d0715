"""Requests that wait without a thread.

A thread of gunicorn's costs memory and, with Django, a connection to Postgres. So a view that has nothing to
tell yet raises Parked, and its thread is free again. The connection rests, as an idle one does. When the wait
is over, the view is called with the same request once more, and has to answer then.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.workers import gthread

from wanapi import limits

PARKED = object()  # what became of a request, beside what gunicorn knows: it goes on, or is closed


class Parked(BaseException):
    """Raised by a view. It is no Exception, so that Django and gunicorn do not take it for an error on its
    way to the Worker. The same object says in the second call what the first one waited for (``earlier``)."""

    request: Any  # gunicorn's

    def begin(self, client: Any, resume: Callable[[], None]) -> None:
        """Begins to wait. ``resume``, from any thread, ends it. ``client`` is the socket."""
        raise NotImplementedError


def possible(environ: dict[str, Any]) -> bool:
    """Whether this request may be parked: the server is ours, and it has not been parked before."""
    return getattr(environ.get("gunicorn.socket"), "parked", PARKED) is None


def earlier(environ: dict[str, Any]) -> Parked | None:
    """What this request waited for; None in its first call."""
    return getattr(environ.get("gunicorn.socket"), "parked", None)


class Parser:
    """gunicorn's parser, which gives the parked request once more."""

    def __init__(self, parser: Any):
        self._parser = parser
        self.again: Any = None

    def __next__(self) -> Any:
        if self.again is None:
            return next(self._parser)
        request, self.again = self.again, None
        return request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class Worker(gthread.ThreadWorker):
    """``conn.sock`` needs an attribute ``parked``, and ``conn.parser`` must be a Parser."""

    method_queue: Any

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._parked: set[Any] = set()
        # Of the main thread: whose wait is over, and who of them is being answered.
        self._over: deque[Any] = deque()
        self._answered: set[Any] = set()

    def handle(self, conn: Any) -> Any:
        try:
            result = super().handle(conn)
        except Parked as parked:
            parked.__traceback__ = None  # it would keep all that the view knew
            conn.parser.again, conn.sock.parked = parked.request, parked
            self._parked.add(conn)
            resume = partial(self._resume, conn)
            if self.alive:
                parked.begin(conn.sock, resume)
            if not self.alive:  # also if it ended just now
                resume()
            return PARKED
        conn.sock.parked = None
        return result

    def handle_request(self, req: Any, conn: Any) -> Any:
        try:
            return super().handle_request(req, conn)
        except Parked as parked:
            parked.request = req
            raise

    def _resume(self, conn: Any) -> None:
        """In any thread, and perhaps more than once."""
        self.method_queue.defer(self._answer, conn)

    def _answer(self, conn: Any) -> None:
        if conn in self._parked:
            self._parked.remove(conn)
            self._over.append(conn)
            self._answer_next()

    def _answer_next(self) -> None:
        """Many waits can be over at the same moment. Only a few threads answer them, so that others'
        requests do not queue up behind all of them. A server that stops has no others."""
        while self._over and (not self.alive or len(self._answered) < limits.READERS_ANSWERED):
            conn = self._over.popleft()
            self._answered.add(conn)
            self.enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        if not fs.cancelled() and not fs.exception() and fs.result() is PARKED:
            return
        if conn in self._answered:
            self._answered.remove(conn)
            self._answer_next()
        super().finish_request(conn, fs)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self.method_queue.defer(self._answer_all)  # a signal comes in the middle of anything: not now

    def _answer_all(self) -> None:
        for conn in list(self._parked):
            self._answer(conn)
        self._answer_next()
