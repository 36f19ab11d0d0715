"""What Postgres' silence does to us, and Postgres as others set it up."""

import csv
import os
import subprocess
import sys
import time

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from jobs.models import Job
from jobs.models.clock import seconds
from jobs.operators import export
from jobs.queue.returns import purge
from jobs.workers import retention
from local.parts import ROOT, database_url
from tests.factories import make_job
from tests.stack import POSTGRES

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


class TestEncoding:
    @pytest.fixture(params=["LATIN1", "SQL_ASCII"])
    def foreign(self, request):
        """The address of a database that stores text in another encoding."""
        name = f"test_{request.param.lower()}"
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            locale = "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            cursor.execute(f"CREATE DATABASE {name} ENCODING '{request.param}' {locale}")
        yield request.param, database_url(POSTGRES, "test").rpartition("/")[0] + f"/{name}"
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @pytest.mark.parametrize(
        "program",
        [
            ("manage.py", "migrate"),
            ("manage.py", "worker", "publish"),
            ("-m", "gunicorn", "-c", "wanapi/gunicorn.py", "wanapi.wsgi"),
        ],
        ids=["migrate", "worker", "web"],
    )
    def test_one_that_cannot_hold_every_prompt_stops_the_start(self, foreign, program):
        encoding, url = foreign
        env = os.environ | {"DATABASE_URL": url, "PORT": "0"}

        done = subprocess.run(
            [sys.executable, *program], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
        )

        assert done.returncode != 0
        sentence = done.stderr.strip().splitlines()[-1]
        assert sentence.startswith(f"wanapi: the database of DATABASE_URL stores text as {encoding}")

    def test_check_setup_says_so(self, foreign):
        command = [sys.executable, "manage.py", "check_setup"]
        env = os.environ | {"DATABASE_URL": foreign[1]}

        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)

        assert done.stdout.startswith("Postgres: the database of DATABASE_URL stores text as")


def test_a_standby_that_only_reads_counts_as_away(api):
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        answer = api.post("/generate", {"prompt": "A cat"}, content_type="application/json")
    finally:
        connection.close()

    assert answer.status_code == 503
    assert answer.json() == {"detail": "The database is not available; please try again later."}


class TestBehindAPooler:
    """In transaction mode it gives each statement the connection that is free: a cursor would be lost."""

    @pytest.fixture
    def old(self):
        """Some of them finished at the same moment."""
        now = Now() - seconds(3 * 86400)
        return {make_job(status="failed", finished_at=now, created_at=now).pk for _ in range(5)} | {
            make_job(status="completed", finished_at=Now() - seconds(days * 86400)).pk for days in range(4, 9)
        }

    @pytest.fixture
    def no_cursors(self):
        with CaptureQueriesContext(connection) as queries:
            yield
        assert not [query["sql"] for query in queries if "DECLARE" in query["sql"]]

    def test_old_jobs_are_purged_in_pages(self, old, no_cursors, monkeypatch):
        young = make_job(status="failed")
        monkeypatch.setattr("jobs.models.job.JobQuerySet.in_pages.__defaults__", (2,))

        call_command("purge_jobs", "--older-than", "1d")

        assert set(Job.objects.values_list("pk", flat=True)) == {young.pk}

    def test_a_job_that_cannot_be_removed_does_not_end_the_others_turn(self, old, monkeypatch):
        stuck = sorted(old)[:3]
        monkeypatch.setattr("jobs.models.job.JobQuerySet.in_pages.__defaults__", (2,))
        seen = [job.pk for job in Job.objects.in_pages("finished_at") if job.pk in stuck or purge(job)]

        assert (sorted(seen), len(seen)) == (sorted(old), len(old))
        assert set(Job.objects.values_list("pk", flat=True)) == set(stuck)

    def test_retention_removes_in_pages(self, old, no_cursors, settings, monkeypatch):
        settings.RETENTION_DAYS = 1
        monkeypatch.setattr("jobs.models.job.JobQuerySet.in_pages.__defaults__", (2,))

        retention.purge_old()

        assert not Job.objects.exists()

    def test_the_csv_is_whole_and_newest_first(self, old, no_cursors, monkeypatch):
        monkeypatch.setattr("jobs.models.job.JobQuerySet.in_pages.__defaults__", (2,))

        rows = list(csv.DictReader("".join(export.lines(Job.objects.all())).splitlines()))

        assert {row["id"] for row in rows} == {str(pk) for pk in old}
        assert [row["created_at"] for row in rows] == sorted(
            (row["created_at"] for row in rows), reverse=True
        )
        assert len(rows) == len(old)
