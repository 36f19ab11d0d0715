"""Postgres, S3 and ComfyUI away, slow, hanging or cut off, while jobs are under way."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.factories import FULL, encoded_picture, eventually


@pytest.fixture(autouse=True)
def healed(service):
    yield
    for proxy in (service.postgres, service.s3, service.comfyui):
        proxy.heal()


def running_job(service, seconds):
    service.slow(seconds)
    job_id = service.submit()
    eventually(lambda: service.status(job_id) == "processing")
    return job_id


def result(service, job_id):
    job = service.finished(job_id)
    return job["status"], service.prompts(job_id), job["status"] == "completed" and service.plays(job)


def test_postgres_restarts_again_and_again_within_one_job(service, figure):
    times = 10 if FULL else 1
    job_id = running_job(service, 3 + 3 * times)

    for _ in range(times):
        [old, *_] = service.pids("pginstall")
        service.kill("pginstall", signal.SIGINT)
        eventually(lambda old=old: (pids := service.pids("pginstall")) and pids[0] != old)
        eventually(lambda: service.job(job_id))

    assert service.job(job_id)["status"] == "processing"
    outcome = result(service, job_id)
    figure(f"Postgres restarted {times} times within one job", f"{outcome[0]}, {outcome[1]} prompt")
    assert outcome == ("completed", 1, True)


@pytest.mark.parametrize("trouble", [pytest.param("refuse", marks=pytest.mark.full), "hang"])
def test_postgres_is_away_for_8_seconds_when_the_render_ends(service, figure, trouble):
    job_id = running_job(service, 3)

    getattr(service.postgres, trouble)()
    time.sleep(8)
    ended = not service.queue()
    service.postgres.heal()

    outcome = result(service, job_id)
    figure(f"Postgres away (it {trouble}s) for 8 s over a job's end", f"{outcome[0]}, {outcome[1]} prompt")
    assert ended
    assert outcome == ("completed", 1, True)


def test_the_line_to_postgres_is_cut(service):
    job_id = running_job(service, 3)

    service.postgres.cut()

    assert result(service, job_id) == ("completed", 1, True)


@pytest.mark.parametrize("trouble", ["refuse", "hang", "cut"])
def test_the_line_to_comfyui(service, trouble):
    """Its socket included; the prompt goes on meanwhile."""
    seconds = 15 if FULL else 2  # a read is given up after 10
    job_id = running_job(service, seconds - 1)

    getattr(service.comfyui, trouble)()
    time.sleep(seconds)
    service.comfyui.heal()

    assert result(service, job_id) == ("completed", 1, True)


def test_s3_is_away_while_videos_wait(service):
    """503, 403, refusing and hanging: rendering goes on, publishing waits."""
    jobs = []
    for trouble in (
        lambda: service.s3.fail(503),
        lambda: service.s3.fail(403),
        service.s3.refuse,
        service.s3.hang,
    ):
        trouble()
        jobs.append(service.submit())
        eventually(lambda: service.job(jobs[-1])["progress"] == 99)
        service.s3.heal()

    assert [result(service, job) for job in jobs] == [("completed", 1, True)] * 4


@pytest.mark.full  # a pause of ten seconds
def test_an_image_that_s3_does_not_give_is_waited_for(service):
    job_id = service.submit(image_base64=encoded_picture())
    service.s3.fail(503)
    text = service.submit()
    eventually(lambda: service.job(text)["progress"] == 99)  # rendered before its elder

    service.s3.heal()

    assert result(service, job_id) == ("completed", 1, True)


def test_an_image_is_refused_while_s3_is_away_and_nothing_is_left_of_it(service):
    jobs, objects = len(service.rows()), service.objects()
    service.s3.fail(503)

    answer = service.post(image_base64=encoded_picture())
    service.s3.heal()

    assert answer.status_code == 503
    assert "detail" in answer.json()
    assert len(service.rows()) == jobs
    assert service.objects() <= objects


def test_equal_requests_at_once_make_one_job(service, figure):
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda _: service.post(key="one key"), range(100)))

    rows = service.rows("idempotency_key = 'one key'")
    figure("100 equal POSTs at once with one Idempotency-Key", f"{len(rows)} row")
    assert len(rows) == 1
    assert {answer.text for answer in answers} == {answers[0].text}
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.full
def test_s3_answers_503_for_five_minutes_then_403_for_one(default_service, figure):
    service, jobs, began = default_service, [], time.time()
    for status, seconds in ((503, 300), (403, 60)):
        service.s3.fail(status)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if len(service.queue()) < 2 and len(service.rows("status = 'queued'")) < 4:
                jobs += [service.submit(), service.submit()]
            time.sleep(0.5)
    healed = time.time()
    service.s3.heal()
    waiting = [str(row["id"]) for row in service.rows("rendered_at IS NOT NULL AND status = 'processing'")]
    done = [service.finished(job, within=300) for job in waiting]
    published = time.time() - healed

    done = [service.finished(job, within=300) for job in jobs]
    prompts = sum(service.prompts(job) for job in jobs) / len(jobs)
    idle = service.longest_idle(began, healed)
    figure(
        "S3 answering 503 for 5 minutes, then 403 for 1",
        f"{len(jobs)} jobs, {prompts:.2f} prompts per job, the {len(waiting)} that waited uploaded within "
        f"{published:.0f} s, GPU idle for {1000 * idle:.0f} ms at most",
    )
    assert {job["status"] for job in done} == {"completed"}
    assert prompts == 1
    assert published < 60
    assert idle < 1
