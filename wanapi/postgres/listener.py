"""Notifications of Postgres (LISTEN) for a thread that has other questions to Postgres as well."""

import psycopg
from django.db import connection


class Listener:
    """What other processes told on a channel, heard on this thread's own connection of Django.

    It is a hint that may be lost: while the connection was broken, and always behind a connection pooler
    such as PgBouncer, which may give the server's connection to somebody else after each transaction. There
    nothing is asked for, since it would reach whoever uses that connection next.
    """

    def __init__(self, channel: str):
        self.channel = channel
        self._on: psycopg.Connection | None = None  # the connection on which we listen
        self._direct = False

    def heard(self) -> list[str]:
        """The payloads that came since the last call; does not wait. Connects where that is necessary."""
        connection.ensure_connection()
        if self._on is not connection.connection:
            self._begin()
        if not self._direct:
            return []
        with connection.wrap_database_errors:
            return [told.payload for told in connection.connection.notifies(timeout=0)]

    def fileno(self) -> int | None:
        """Readable when something comes; None if nothing can come."""
        raw = connection.connection
        return raw.fileno() if self._direct and raw is self._on and raw is not None else None

    def _begin(self) -> None:
        raw = connection.connection
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [pid] = cursor.fetchone()
            self._direct = pid == raw.info.backend_pid  # a pooler tells a number of its own
            if self._direct:
                cursor.execute(f"LISTEN {self.channel}")
        self._on = raw
