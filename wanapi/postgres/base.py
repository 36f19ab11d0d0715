"""Django's Postgres backend, with an end to every wait.

A server whose process or disk hangs keeps its connections alive, and libpq would wait for its answer for
ever: with it the web's threads and the workers.
"""

from typing import Any

import psycopg
from django.conf import settings
from django.db.backends.postgresql import base
from psycopg.pq import TransactionStatus


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection:
        connection = super().get_new_connection(conn_params)
        wait = connection.wait

        def bounded(generator: Any, **options: Any) -> Any:
            try:
                return wait(generator, **{"timeout": settings.DATABASE_TIMEOUT} | options)
            except psycopg.OperationalError as error:
                if connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
                    raise
                connection.close()  # or a rollback would wait as long once more
                raise psycopg.OperationalError(
                    f"Postgres did not answer within {settings.DATABASE_TIMEOUT} s."
                ) from error

        connection.wait = bounded
        return connection
