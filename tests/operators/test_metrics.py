"""/metrics, the counters behind it, and the logs."""

import json
import logging
import logging.config
import threading

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from jobs.models import Job, metric
from jobs.models.clock import seconds
from jobs.models.key import ApiKey
from jobs.queue import causes, engines
from jobs.queue.claim import claim_render
from jobs.queue.returns import cancel
from jobs.queue.submit import requeue
from jobs.workers.publish import publish
from jobs.workers.render import render
from jobs.workers.watch import EngineWatch
from tests.factories import make_job, runs
from tests.stack import KEY, SIMULATOR_URL
from wanapi import logs
from wanapi.within import Threads

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("same_thread")]


@pytest.fixture
def scrape(api):
    """Every sample: (name, labels) -> value."""

    def get():
        answer = api.get("/metrics")
        assert answer.status_code == 200
        families = text_string_to_metric_families(answer.content.decode())
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }

    return get


def test_a_job_is_counted_on_its_whole_way(scrape, submit, quick, engine):
    submit()
    assert scrape()[("wanapi_jobs", "queued")] == 1
    assert scrape()[("wanapi_oldest_queued_seconds",)] > 0
    render()
    assert scrape()[("wanapi_jobs", "publishing")] == 1
    publish()

    found = scrape()
    for event in ("claimed", "posted", "started", "rendered", "publishing", "completed"):
        assert found[("wanapi_job_events_total", event)] == 1
    for part in ("wait", "render", "publish"):
        assert found[(f"wanapi_job_{part}_seconds_count",)] == 1
        assert found[(f"wanapi_job_{part}_seconds_bucket", "86400")] == 1
    assert found[("wanapi_job_render_seconds_sum",)] > 0
    assert found[("wanapi_engine_ready", "sim")] == 1


def test_a_counter_that_would_not_be_shown_is_noticed():
    with pytest.raises(AssertionError, match="does not show"):
        metric.add({("unheard_of", ""): 1.0})


def test_failures_are_counted_by_reason(scrape, engine):
    make_job()
    claim_render(engine).end(causes.NODE_FAILED, "in /opt\0\ud800", error="It failed.")

    assert scrape()[("wanapi_jobs_failed_total", "node")] == 1


def test_counters_count_also_what_several_processes_do_at_once_and_survive_the_jobs(scrape):
    make_job(status="failed"), make_job(status="failed")
    requeue(Job.objects.all())
    cancel(Job.objects.all())
    Job.objects.all().delete()

    found = scrape()
    assert found[("wanapi_job_events_total", "requeued")] == 2
    assert found[("wanapi_job_events_total", "cancelled")] == 2


def test_nothing_is_counted_of_what_was_rolled_back(scrape, engine, monkeypatch):
    make_job()
    claim = claim_render(engine)
    monkeypatch.setattr("jobs.queue.claim.wake", lambda cluster: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        claim.end(causes.LOST)

    assert scrape()[("wanapi_job_events_total", "lost")] == 0


def test_the_gpus_time_is_told_by_what_it_did(scrape, settings, engine):
    settings.ENGINE_NAME = "gpu"
    watch = EngineWatch()
    watch.engine = engines.hold(name="gpu", url=SIMULATOR_URL, worker="another")
    watch.engine.runs = runs("fast/text-to-video")

    watch._count(watch.engine)
    job = make_job()
    watch._count(watch.engine)
    Job.objects.filter(pk=job.pk).update(status="processing", started_at=Now(), engine=watch.engine)
    watch._count(watch.engine)

    found = scrape()
    for doing in ("busy", "starved", "idle"):
        assert found[(f"wanapi_gpu_{doing}_seconds_total", "gpu")] > 0


def test_a_gpu_does_not_starve_for_jobs_that_it_cannot_run(scrape, engine):
    watch = EngineWatch()
    engine.runs = runs("fast/image-to-video")
    make_job()

    watch._count(engine)

    assert ("wanapi_gpu_starved_seconds_total", engine.name) not in scrape()


def test_jobs_that_no_engine_can_render_are_told(scrape, api, engine):
    make_job()
    assert scrape()[("wanapi_jobs_impossible",)] == 0

    engines.report_well(engine, version="test", runs=runs("fast/image-to-video"), lacks=["vae/x"])

    assert scrape()[("wanapi_jobs_impossible",)] == 1


def test_http_is_counted_by_route_and_not_by_address(api, scrape):
    job = make_job()
    for path in (f"/status/{job.pk}", "/jobs/", "/nothing", "/admin/login/"):
        api.get(path)

    found = {key[2] for key in scrape() if key[0] == "wanapi_http_request_duration_seconds_count"}

    assert {"/status/{job_id}", "/jobs", "other", "/admin"} <= found
    assert not [route for route in found if str(job.pk) in route]


def test_it_needs_a_key_that_sees_all_jobs(client):
    _, one = ApiKey.objects.make(name="one")
    _, all_jobs = ApiKey.objects.make(name="all", all_jobs=True)

    codes = [Client(headers={"X-API-Key": key}).get("/metrics").status_code for key in ("", one, all_jobs)]

    assert codes == [401, 403, 200]


def test_on_a_port_of_its_own_it_needs_none(client, settings):
    settings.METRICS_PORT = 9100

    assert client.get("/metrics", SERVER_PORT="9100").status_code == 200
    assert client.get("/metrics", SERVER_PORT="8000").status_code == 401
    assert client.get("/jobs", SERVER_PORT="9100").status_code == 401


def test_without_postgres_the_rest_is_told(scrape, monkeypatch):
    from django.db import OperationalError

    def away(*_):
        raise OperationalError("gone")

    monkeypatch.setattr("jobs.operators.metrics._now", away)

    assert scrape()[("wanapi_database_up",)] == 0


def test_a_postgres_that_hangs_is_told_in_time(scrape, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("jobs.operators.metrics.PATIENCE", 0.1)
    monkeypatch.setattr("jobs.operators.metrics._threads", threads := Threads(1))
    monkeypatch.setattr("jobs.operators.metrics._shared", ended.wait)

    assert scrape()[("wanapi_database_up",)] == 0

    ended.set()
    threads.shutdown()


def test_old_rows_do_not_slow_it_down(django_assert_max_num_queries, scrape):
    make_job(created_at=Now() - seconds(60))
    with django_assert_max_num_queries(12):
        scrape()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        plan = Job.objects.queued().explain()
    assert "Seq Scan" not in plan


class TestLogs:
    @pytest.fixture
    def lines(self, capsys):
        """What a process with these settings writes."""

        def configured(level, format):
            before = logging.root.handlers[:], logging.root.level
            logging.config.dictConfig(logs.config(level, format))
            handlers.append(before)
            return lambda: capsys.readouterr().err.splitlines()

        handlers = []
        yield configured
        for old, level in handlers:
            logging.root.handlers[:], logging.root.level = old, level

    def test_a_request_is_one_line_with_its_id_and_nothing_secret(self, lines, api):
        read = lines("INFO", "json")

        answer = api.post(
            "/generate?key=abc",
            {"prompt": "a private wish"},
            "application/json",
            headers={"X-Request-ID": "abc-1"},
        )

        [line] = [json.loads(text) for text in read() if "wanapi.access" in text]
        assert answer["X-Request-ID"] == line["request_id"] == "abc-1"
        assert line["message"].startswith("POST /generate 200 in ")
        assert KEY not in str(line)
        assert "private" not in str(line)

    def test_what_a_job_goes_through_names_it_and_not_its_prompt(
        self, lines, submit, simulator, quick, engine
    ):
        read = lines("INFO", "json")
        simulator.fault("node_error")
        job_id = submit(prompt="a private wish")
        render()

        text = "\n".join(read())
        about = [json.loads(line) for line in text.splitlines() if job_id in line]
        assert {"job_id", "attempt", "prompt_id"} <= about[-1].keys()
        assert "a private wish" not in text

    def test_an_id_that_could_forge_a_line_is_not_taken(self, api):
        assert api.get("/jobs", headers={"X-Request-ID": "a b"})["X-Request-ID"] != "a b"

    def test_a_path_cannot_forge_a_line(self, lines, api):
        read = lines("INFO", "line")

        api.get("/x%0AERROR forged")

        assert not [line for line in read() if line.startswith("ERROR")]
