"""?wait=: a client is told of its job as soon as there is something to tell, by a real gunicorn."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from django.db import connection

from jobs.models import Job
from jobs.queue.returns import cancel
from tests.factories import make_job
from tests.stack import KEY, POSTGRES
from tests.wanapi.test_gunicorn import gunicorn

pytestmark = pytest.mark.django_db(transaction=True)
HEADERS = {"X-API-Key": KEY}


@pytest.fixture(scope="module")
def web(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        name = connection.settings_dict["NAME"]
    with gunicorn(DATABASE_URL=f"postgresql://postgres:test@127.0.0.1:{POSTGRES}/{name}") as (port, _):
        yield f"http://127.0.0.1:{port}"


def get(web, path, **headers):
    return requests.get(f"{web}{path}", headers=HEADERS | headers, timeout=70)


@pytest.fixture
def later():
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


def test_it_answers_when_the_job_is_final(web, later):
    job = make_job()
    answer = later(get, web, f"/jobs/{job.pk}?wait=50")
    time.sleep(1)
    t = time.monotonic()
    cancel(Job.objects.filter(pk=job.pk))
    assert answer.result(20).json()["status"] == "cancelled"
    print("took", time.monotonic() - t)
