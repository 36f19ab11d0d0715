"""?wait= and If-None-Match: a client is told of its job as soon as there is something to tell.

By a real gunicorn, since what waits there holds no thread.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg
import pytest
import requests
from django.db import connection
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from jobs.api import waiting
from jobs.models import ApiKey, Event, Job
from jobs.queue.change import change
from jobs.queue.returns import cancel
from jobs.queue.wake import CHANGED
from local.parts import database_url, free_port
from tests.factories import eventually, make_job
from tests.stack import KEY, LOG, POSTGRES
from tests.wanapi.test_gunicorn import gunicorn
from wanapi import limits

pytestmark = pytest.mark.django_db(transaction=True)


class Web:
    """A web process, and requests that begin now and whose answers come later."""

    def __init__(self, ports):
        (self.port, self.metrics), self.threads = ports, ThreadPoolExecutor(8)

    def get(self, path, key=KEY, method="GET", body=None, **headers):
        """``body``: arguments of requests, such as ``json`` and ``files``."""
        options = (body or {}) | {"headers": {"X-API-Key": key} | headers, "timeout": 70}
        url = f"http://127.0.0.1:{self.port}{path}"
        return self.threads.submit(requests.request, method, url, **options)

    def wait(self, job, path="jobs", seconds=50, **options):
        """The answer of a request that waits by now."""
        before = self.waiting()
        answer = self.get(f"/{path}/{job.pk}?wait={seconds}", **options)
        eventually(lambda: self.waiting() > before or answer.done())
        assert not answer.done()
        return answer

    def waiting(self):
        text = requests.get(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10).text
        [count] = re.findall(r"^wanapi_waiting_clients (\S+)", text, re.MULTILINE) or [0]
        return float(count)


def database():
    """The tests' own."""
    server, _, _ = database_url(POSTGRES, "test").rpartition("/")
    return f"{server}/{connection.settings_dict['NAME']}"


@pytest.fixture(scope="module")
def started(django_db_setup):
    with gunicorn(DATABASE_URL=database()) as ports:
        yield Web(ports)


@pytest.fixture
def web(started):
    eventually(lambda: started.waiting() == 0)
    yield started
    Job.objects.all().delete()  # so that nobody goes on waiting


def advance(job, progress):
    change(Job.objects.filter(pk=job.pk), Event.Kind.STARTED, progress=progress)


class TestWaiting:
    @pytest.mark.parametrize(
        ("path", "status"), [("jobs", "cancelled"), ("status", "failed"), ("v1/videos", "failed")]
    )
    def test_the_answer_comes_when_the_job_is_final(self, web, path, status):
        job = make_job(status="processing")
        answer = web.wait(job, path)

        advance(job, 10)  # this alone is not what it waits for
        cancel(Job.objects.filter(pk=job.pk))

        assert answer.result(20).json()["status"] == status

    def test_head_waits_as_well(self, web):
        job = make_job()
        answer = web.wait(job, method="HEAD")

        cancel(Job.objects.filter(pk=job.pk))

        assert answer.result(20).status_code == 200

    def test_the_answer_comes_when_the_time_is_up(self, web):
        answer = web.wait(make_job(), seconds=1).result(20)

        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        assert "Retry-After" not in answer.headers

    def test_a_change_of_which_nobody_was_told_is_found(self, web):
        job = make_job()
        answer = web.wait(job)

        Job.objects.filter(pk=job.pk).update(
            status="cancelled", error="Cancelled.", finished_at=job.created_at
        )

        assert answer.result(20).json()["status"] == "cancelled"

    def test_a_job_that_is_gone_is_a_404(self, web):
        job = make_job()
        answer = web.wait(job)

        job.delete()

        assert answer.result(20).status_code == 404

    def test_a_key_that_was_revoked_meanwhile_is_told_nothing(self, web):
        key, text = ApiKey.objects.make(name="client")
        job = make_job(key=key)
        answer = web.wait(job, key=text)

        ApiKey.objects.revoke()
        cancel(Job.objects.filter(pk=job.pk))

        assert answer.result(20).status_code == 401

    def test_a_lost_connection_to_postgres_loses_no_answer(self, web):
        job = make_job()
        answer = web.wait(job)

        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )
        cancel(Job.objects.filter(pk=job.pk))

        assert answer.result(20).json()["status"] == "cancelled"


class TestWhatIsKnown:
    """The ETag of an answer, in If-None-Match."""

    @pytest.fixture
    def job(self):
        return make_job(status="processing", progress=41)

    @pytest.fixture
    def tag(self, web, job):
        return web.get(f"/jobs/{job.pk}").result().headers["ETag"]

    def test_each_percent_is_told_to_who_waits(self, web, job, tag):
        answer = web.wait(job, **{"If-None-Match": tag})

        advance(job, 42)

        assert answer.result(20).json()["progress"] == 42

    def test_while_nothing_changes_the_answer_is_a_304(self, web, job, tag):
        for answer in (
            web.get(f"/jobs/{job.pk}", **{"If-None-Match": tag}),
            web.get(f"/status/{job.pk}", **{"If-None-Match": f'"other", {tag}'}),
            web.wait(job, seconds=1, **{"If-None-Match": tag}),
        ):
            answer = answer.result(20)
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)

    def test_what_changed_is_told_at_once(self, web, job, tag):
        advance(job, 42)

        answer = web.get(f"/jobs/{job.pk}?wait=50", **{"If-None-Match": tag}).result(20)

        assert answer.json()["progress"] == 42
        assert answer.headers["ETag"] != tag

    def test_links_that_are_signed_anew_are_no_change(self, api):
        job = make_job(status="completed")
        tag = api.get(f"/jobs/{job.pk}")["ETag"]

        assert api.get(f"/jobs/{job.pk}", headers={"If-None-Match": tag}).status_code == 304

    def test_there_is_nothing_to_wait_for_at_a_final_job(self, web):
        job = make_job(status="completed")
        tag = web.get(f"/jobs/{job.pk}?wait=50").result(20).headers["ETag"]

        assert web.get(f"/jobs/{job.pk}?wait=50", **{"If-None-Match": tag}).result(20).status_code == 304


@pytest.mark.parametrize("query", ["abc", "", "-1", "51", "1e3", "1.5", "٣", "9" * 5000, "5&wait=5"])
@pytest.mark.parametrize("path", ["jobs", "status"])
def test_another_wait_is_refused_in_a_sentence(api, path, query):
    answer = api.get(f"/{path}/{make_job().pk}?wait={query}")

    assert answer.status_code == 400
    assert answer.json()["detail"] == (
        "wait: This must be a whole number of seconds from 0 to 50, given once."
    )


class TestACrowd:
    """More clients than may wait: raw connections, which cost no threads here either."""

    @pytest.fixture
    def crowd(self, web):
        """Opens connections that wait for a job."""
        with ExitStack() as connections:

            def enter(count, job, server=web):
                head = f"GET /jobs/{job.pk}?wait=50 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n\r\n"
                made = []
                for _ in range(count):
                    client = closing(socket.create_connection(("127.0.0.1", server.port), timeout=30))
                    made.append(connections.enter_context(client))
                    made[-1].sendall(head.encode())
                return made

            yield enter

    @pytest.fixture
    def full(self, web, crowd):
        """All places of the environment's key are taken."""
        job = make_job()
        clients = crowd(limits.READERS_OF_KEY, job)
        eventually(lambda: web.waiting() == limits.READERS_OF_KEY)
        return job, clients

    def test_whoever_waits_holds_neither_a_thread_nor_a_connection_to_postgres(self, web, full):
        assert web.get("/jobs").result(20).status_code == 200
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            assert cursor.fetchone()[0] < limits.THREADS + 10

    def test_all_are_answered(self, web, full):
        job, clients = full

        cancel(Job.objects.filter(pk=job.pk))

        assert all(client.recv(65536).startswith(b"HTTP/1.1 200") for client in clients)

    def test_one_more_is_told_to_come_back_but_another_key_waits(self, web, full):
        job, _ = full
        _, text = ApiKey.objects.make(name="client", all_jobs=True)

        refused = web.get(f"/jobs/{job.pk}?wait=50").result(20)
        other = web.wait(job, key=text)

        assert (refused.status_code, refused.headers["Retry-After"]) == (200, "5")
        cancel(Job.objects.filter(pk=job.pk))
        assert other.result(20).json()["status"] == "cancelled"

    def test_a_client_that_goes_away_leaves_its_place(self, web, full):
        _, clients = full

        for client in clients:
            client.close()

        eventually(lambda: web.waiting() == 0, within=20)

    def test_a_server_that_stops_answers_them_first(self, crowd):
        job = make_job()
        with gunicorn(DATABASE_URL=database()) as ports:
            stopped = Web(ports)
            clients = crowd(100, job, stopped)
            eventually(lambda: stopped.waiting() == len(clients))

        assert all(client.recv(65536).startswith(b"HTTP/1.1 200") for client in clients)


def test_a_connection_goes_on_after_it_waited(web):
    job = make_job()
    request = f"GET /jobs/{job.pk}?wait=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n\r\n".encode()
    with closing(socket.create_connection(("127.0.0.1", web.port), timeout=30)) as client:
        client.sendall(request)
        client.sendall(request)  # behind it, while it waits

        for _ in range(2):
            with http.client.HTTPResponse(client) as answer:
                answer.begin()
                assert answer.status == 200
                assert json.loads(answer.read())["status"] == "queued"


@pytest.fixture
def pgbouncer(tmp_path):
    """In transaction mode, in front of the tests' Postgres."""
    program = shutil.which("pgbouncer") or pytest.skip("pgbouncer is not installed")
    port, config = free_port(), tmp_path / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={POSTGRES} user=postgres password=test\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\n"
    )
    as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with config.open() as file:  # another user may not open it
        command = [program, *as_user, f"/dev/fd/{file.fileno()}"]
        process = subprocess.Popen(command, pass_fds=[file.fileno()], stdout=LOG, stderr=LOG)
    yield database().replace(f":{POSTGRES}/", f":{port}/")
    process.terminate()
    process.wait(10)


def test_behind_pgbouncer_it_waits_as_well_and_listens_to_nothing(pgbouncer):
    """A LISTEN would stay on one of its connections, and what is told there would reach anybody."""
    job = make_job()
    with gunicorn(DATABASE_URL=pgbouncer) as ports:
        answer = Web(ports).wait(job)
        cancel(Job.objects.filter(pk=job.pk))

        assert answer.result(20).json()["status"] == "cancelled"
        with psycopg.connect(pgbouncer, autocommit=True) as somebody:
            somebody.execute(f"NOTIFY {CHANGED}")
            assert list(somebody.notifies(timeout=0.2)) == []


class TestAViewThatMakesAJob:
    """POST with ``Prefer: wait=``."""

    @pytest.mark.parametrize(
        ("wish", "seconds"),
        [
            ("wait=10", 10),
            ("respond-async, WAIT = 7", 7),
            ("wait=600", 50),
            ("wait=x", 0),
            ("nowait=5", 0),
            ("", 0),
        ],
    )
    def test_it_waits_as_long_as_is_preferred(self, wish, seconds):
        request = Request(APIRequestFactory().post("/", headers={"Prefer": wish}))

        assert waiting.preferred(request) == seconds

    @pytest.mark.parametrize("form", ["json", "files"])
    def test_the_answer_to_the_post_comes_when_the_job_is_final_and_there_is_one_job(self, web, form):
        body = {form: {"prompt": "A cat"} if form == "json" else {"prompt": (None, "A cat")}}

        answer = web.get("/v1/videos", method="POST", body=body, Prefer="wait=50")
        eventually(lambda: web.waiting() or answer.done())
        assert not answer.done()
        cancel(Job.objects.all())

        answer = answer.result(20)
        assert (answer.status_code, answer.json()["status"]) == (200, "failed")
        assert answer.json()["id"] == str(Job.objects.get().pk)
