"""What Postgres' silence does to us."""

import time

import pytest
from django.db import OperationalError, connection, transaction

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_postgres_that_gives_no_answer_counts_as_away(settings):
    settings.DATABASE_TIMEOUT = 1
    began = time.monotonic()

    with pytest.raises(OperationalError, match=r"did not answer within 1 s"), transaction.atomic():
        connection.cursor().execute("SELECT pg_sleep(60)")

    assert time.monotonic() - began < 20  # the rollback does not wait again
    connection.close()
    with connection.cursor() as cursor:  # works again; and what still sleeps there must not outlast the test
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
        )
