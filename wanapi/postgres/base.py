"""Django's Postgres backend, with an end to every wait.

A server whose process or disk hangs keeps its connections alive, and libpq would wait for its answer for
ever. The web's threads and the workers would wait with it.
"""

import weakref
from typing import Any

import psycopg
from django.conf import settings
from django.db import NotSupportedError
from django.db.backends.postgresql import base
from psycopg.pq import TransactionStatus


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection:
        made = super().get_new_connection(conn_params)
        check_encoding(made)
        # A weak reference: ``made`` holds this function, and would otherwise never be freed.
        wait, alive = type(made).wait, weakref.ref(made)

        def bounded(generator: Any, **options: Any) -> Any:
            connection: Any = alive()
            try:
                return wait(connection, generator, **{"timeout": settings.DATABASE_TIMEOUT} | options)
            except psycopg.OperationalError as error:
                if connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
                    raise
                connection.close()  # otherwise a rollback would wait for as long again
                raise psycopg.OperationalError(
                    f"Postgres did not answer within {settings.DATABASE_TIMEOUT} s."
                ) from error

        made.wait = bounded
        return made


def check_encoding(made: psycopg.Connection) -> None:
    """Raises NotSupportedError unless the database stores UTF-8, since prompts may be in any script. Django
    raises the same for a server that is too old: no process starts with such a database."""
    encoding = made.info.parameter_status("server_encoding")
    if encoding is None:  # a connection pooler may not pass it on
        [(encoding,)] = made.execute("SHOW server_encoding").fetchall()
        made.rollback()
    if encoding != "UTF8":
        made.close()
        raise NotSupportedError(
            f"the database of DATABASE_URL stores text as {encoding}, which cannot hold every prompt: "
            "make one with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0."
        )
