"""The first page: what is wrong, who does what, rates and charts; and that it stays quick."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.cache import cache
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from jobs.models import ApiKey, Engine, Event, Receiver
from jobs.models.clock import seconds
from jobs.models.engine import DISK_FULL
from jobs.operators import statistics, troubles
from jobs.operators.charts import round_above
from tests.factories import make_job
from tests.operators.pages import JOBS, page
from tests.operators.test_alerts import OPERATIONS, RULES

pytestmark = pytest.mark.django_db

# What only Prometheus can see: it watches from outside, or over time.
WORDS = Path(troubles.__file__).read_text()
FROM_OUTSIDE = {"WanapiDown", "WanapiDatabaseDown", "WanapiErrors"}
OVER_TIME = {"WanapiGpuStarved", "WanapiRendersLost", "WanapiWorkersDie"}


def queries(client, path):
    cache.clear()
    with CaptureQueriesContext(
        connection,
    ) as captured:
        page(client, path)
    return len(captured)


def banner(text):
    found = re.search(r'<section class="troubles".*?</section>', text, re.S)
    return re.sub(r"<[^>]*>", "", found[0]) if found else ""


class TestBanner:
    def test_nothing_is_wrong(self, admin, engine):
        make_job()

        assert banner(page(admin, "/admin/")) == ""

    @pytest.mark.parametrize(
        ("change", "what", "advice"),
        [
            ({"ready": False}, "Engine sim: ComfyUI does not answer.", "Restart ComfyUI"),
            ({"lease_until": None, "worker": ""}, "Engine sim: no worker.", "Start its render worker"),
            ({"lacks": ["vae/x"]}, "Engine sim: lacks vae/x.", "manage.py download_models"),
            (
                {"ready": False, "trouble": DISK_FULL},
                "disk is full.",
                "Make room in ComfyUI",
            ),
            (
                {"ready": False, "trouble": "It must be restarted."},
                "must be restarted.",
                "COMFYUI_RESTART_COMMAND",
            ),
        ],
    )
    def test_an_engine_that_is_not_ready(self, admin, engine, change, what, advice):
        Engine.objects.update(**change)

        told = banner(page(admin, "/admin/"))

        assert what in told
        assert advice in told
        assert "No GPU is ready" in told

    def test_a_pause_and_a_warm_up_are_no_trouble(self, admin, engine):
        for change in ({"paused": True}, {"ready": False, "warming": True}):
            Engine.objects.update(**change)

            assert banner(page(admin, "/admin/")) == ""

    def test_what_waits_too_long_what_fails_and_what_is_not_published(self, admin, engine):
        make_job(created_at=Now() - seconds(7200))
        for _ in range(6):
            make_job(status="processing", rendered_at=Now())
            make_job(status="failed")
        Event.objects.update(reason="out_of_memory")

        told = banner(page(admin, "/admin/"))

        assert "The oldest queued job waits for 2 h 0 min." in told
        assert "6 finished videos do not get into S3." in told
        assert "6 jobs failed within an hour: out_of_memory." in told

    def test_webhooks_that_do_not_arrive(self, admin, engine):
        Receiver.objects.create(host="example.com:443", failing_since=Now() - seconds(7200))

        assert "1 receiver of webhooks took nothing for an hour." in banner(page(admin, "/admin/"))

    def test_it_knows_every_alert_that_it_can_see(self):
        known = set(re.findall(r'"(Wanapi\w+)"', WORDS))

        assert known == {rule["alert"] for rule in RULES} - FROM_OUTSIDE - OVER_TIME

    def test_what_it_advises_stands_in_the_docs(self):
        for command in re.findall(r"manage\.py (\w+)", WORDS):
            assert f"manage.py {command}" in OPERATIONS


class TestOverview:
    def test_what_each_gpu_does_and_what_comes_next(self, admin, engine):
        make_job(status="completed", work=1000, started_at=Now() - seconds(100), prompt="A red fox")
        make_job(status="processing", engine=engine, work=1000, prompt="A blue fox", progress=40)
        make_job(work=1000, prompt="A green fox", key=ApiKey.objects.create(name="shop"))

        text = page(admin, "/admin/")

        gpus, _, rest = text.partition("Next in the queue")
        assert "A blue fox" in gpus
        assert re.search(r"40% · (1 min \d+ s|\d+ s) left", gpus)
        waiting, _, rest = rest.partition("Latest videos")
        assert "A green fox" in waiting
        assert re.search(r"shop · fast · done in \d min", waiting)
        assert "A red fox" in rest
        assert re.search(r'<img src="http[^"]+\.jpg', rest)

    def test_a_rate_is_that_of_the_time_since_the_start(self, engine):
        Engine.objects.update(created_at=Now() - seconds(7200))
        for _ in range(4):
            make_job(status="completed")

        found = statistics.finished(timedelta(days=1))

        assert found["per_hour"] == pytest.approx(2, rel=0.01)

    def test_many_rows_cost_no_more_queries_than_few(self, admin, engine):
        def fill(number):
            for _ in range(number):
                make_job(), make_job(status="failed"), make_job(status="completed", work=1000)
                other = Engine.objects.create(name=f"gpu-{Engine.objects.count()}", url="http://gpu")
                make_job(status="processing", engine=other, work=1000)

        fill(2)
        few = [queries(admin, path) for path in ("/admin/", JOBS)]
        fill(10)

        assert [queries(admin, path) for path in ("/admin/", JOBS)] == few

    def test_an_axis_ends_at_a_round_number(self):
        assert [round_above(value) for value in (0, 1, 3, 6, 12, 199, 201)] == [1, 1, 5, 10, 20, 200, 500]


def test_a_live_page_does_not_eat_the_messages_of_the_next_one(admin, engine):
    job = make_job()
    admin.post(f"{JOBS}{job.pk}/do/cancel/")

    quiet = admin.get("/admin/", headers={"X-Live": "1"}).content.decode()

    assert "1 job cancelled." not in quiet
    assert "1 job cancelled." in page(admin, "/admin/")


def test_the_bar_counts_and_shows_only_what_one_may_see(admin, client, engine, django_user_model):
    make_job(), make_job(status="failed")
    text = page(admin, "/admin/")
    assert re.search(r'>Jobs <span class="count" title="queued or processing">1</span>', text)
    assert ">1/1</span>" in text

    client.force_login(django_user_model.objects.create_user("guest", is_staff=True))

    assert "Keys" not in page(client, "/admin/")
