"""An answer within so many seconds, whatever Postgres or S3 do."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connection

Answer = TypeVar("Answer")


class Threads(ThreadPoolExecutor):
    """A few threads for questions that may hang. Such a question keeps its thread until it ends, however long
    that takes, and those that come after it wait for a free one; whoever asked is told in time."""

    def within(self, seconds: float, work: Callable[[], Answer]) -> Answer:
        """What ``work`` returns or raises; TimeoutError if it is not ready after ``seconds``."""
        return self.begin(seconds, work)()

    def begin(self, seconds: float, work: Callable[[], Answer]) -> Callable[[], Answer]:
        """Starts ``work``, so that several can run at once; the result is a function that waits for it as
        ``within`` does. The seconds count from now."""
        end = time.monotonic() + seconds
        working = self.submit(_closing, work)

        def result() -> Answer:
            try:
                return working.result(end - time.monotonic())
            except TimeoutError:
                working.cancel()  # it may not have begun
                raise

        return result


def _closing(work: Callable[[], Answer]) -> Answer:
    """Each thread has a connection to Postgres of its own, and Django closes only those of requests."""
    try:
        return work()
    finally:
        connection.close_if_unusable_or_obsolete()
