"""SIGKILL and SIGTERM at every step of a job's way."""

import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.models.job import folder
from tests.factories import FULL, encoded_picture, eventually
from tests.faults.worker import PUBLISH_POINTS, RENDER_POINTS

TIMES = 20 if FULL else 1
VICTIMS = (("sentinel", "prompt sent"), ("pusher", "first step"), ("main", "history written"))
THREE_POINTS = ("prompt answered", "first step", "history written")


def strike(service, cluster, point, victim="worker"):
    """One job, one SIGKILL. Returns the point, the job's status and prompts, and whether its video plays."""
    service.order(cluster, point, victim)
    job_id = service.submit(**{"image_base64": encoded_picture()} if point == "image uploaded" else {})
    eventually(lambda: service.struck(cluster), what=point)
    job = service.finished(job_id)
    return point, job["status"], service.prompts(job_id), job["status"] == "completed" and service.plays(job)


def summary(outcomes):
    lost = sum(status != "completed" for _, status, _, _ in outcomes)
    wrong = sum(status == "completed" and not plays for _, status, _, plays in outcomes)
    prompts = sum(prompts for _, _, prompts, _ in outcomes) / len(outcomes)
    return f"{len(outcomes)} jobs, {lost} lost, {wrong} wrong, {prompts:.2f} prompts per job"


def test_the_worker_at_every_point(service, figure):
    def strikes(cluster, points):
        return [strike(service, cluster, point) for point in points * TIMES]

    render_points = RENDER_POINTS if FULL else RENDER_POINTS[1::2]
    with ThreadPoolExecutor() as threads:
        clusters = threads.map(strikes, ("render", "publish"), (render_points, PUBLISH_POINTS))
        outcomes = list(itertools.chain(*clusters))

    points = len(render_points + PUBLISH_POINTS)
    figure(f"SIGKILL of the worker at {points} points x {TIMES}", summary(outcomes))
    assert [outcome for outcome in outcomes if outcome[1:] != ("completed", 1, True)] == []


@pytest.mark.parametrize("victim", ["sentinel", "pusher", "main"])
def test_the_cluster_around_it(service, figure, victim):
    points = THREE_POINTS * 5 if FULL else [dict(VICTIMS)[victim]]

    outcomes = [strike(service, "render", point, victim) for point in points]

    figure(f"SIGKILL of the {victim}, {len(points)} times", summary(outcomes))
    assert [outcome for outcome in outcomes if outcome[1:] != ("completed", 1, True)] == []


def test_comfyui(service, figure):
    """Its memory is gone; the running prompt is rendered anew, unless its file was whole."""
    points = THREE_POINTS * 5 if FULL else ["first step"]

    outcomes = []
    for point in points:
        [pid] = service.pids("comfy.simulator")
        outcomes.append(strike(service, "render", point, pid))
        eventually(lambda: service.pids("comfy.simulator"))

    figure(f"SIGKILL of ComfyUI, {len(points)} times", summary(outcomes))
    assert all(status == "completed" and prompts <= 2 and plays for _, status, prompts, plays in outcomes)


def test_comfyui_while_it_writes_the_file(service):
    """What is left of it is not taken for a video."""
    job_id = service.submit()
    output = service.stack.folder / "comfyui" / "output" / folder(job_id)
    eventually(lambda: output.exists() and any(file.stat().st_size for file in output.iterdir()))

    service.kill("comfy.simulator")

    job = service.finished(job_id)
    assert (job["status"], service.plays(job)) == ("completed", True)
    assert service.prompts(job_id) <= 2


def test_comfyui_with_five_queued(service, figure):
    jobs = [service.submit() for _ in range(6)]
    eventually(lambda: service.status(jobs[0]) == "processing")

    service.kill("comfy.simulator")

    done = [service.finished(job) for job in jobs]
    prompts = sum(service.prompts(job) for job in jobs)
    completed = sum(job["status"] == "completed" and service.plays(job) for job in done)
    figure("ComfyUI killed in mid-job with 5 queued", f"{completed} of 6 completed, {prompts} prompts")
    assert completed == 6
    assert prompts <= 8


@pytest.fixture
def long_job(service):
    """A job in the middle of a render that takes some seconds more."""
    service.slow(5)
    job_id = service.submit()
    eventually(lambda: service.status(job_id) == "processing")
    return job_id


@pytest.mark.parametrize("target", ["main", "group"])
def test_sigterm_in_mid_render_hands_over_and_counts_nothing(service, long_job, figure, target):
    cluster = service.pids("worker\0render")
    began = time.monotonic()

    (os.kill if target == "main" else os.killpg)(cluster[0], signal.SIGTERM)

    eventually(lambda: not set(cluster) & set(service.pids("worker\0render")), within=10)
    left = time.monotonic() - began
    job = service.finished(long_job)
    figure(
        f"SIGTERM to the {target} in mid-render",
        f"gone in {left:.1f} s, attempt {job['attempt']}, {service.prompts(long_job)} prompt",
    )
    assert (job["status"], job["attempt"], service.prompts(long_job)) == ("completed", 1, 1)


def poisoned(service, point):
    """A job that kills each worker that gets to the point, and the next one. Returns the first, the claims
    that it had and the seconds from its end to the start of the next."""
    service.slow(120)
    poison = service.submit()
    service.order("render", point, job=poison, again=True)
    after = service.submit()
    job = service.finished(poison, within=400)
    failed = time.monotonic()
    eventually(lambda: service.job(after).get("started_at"), within=120, what="the next job")
    waited = time.monotonic() - failed
    service.slow(0)
    assert service.finished(after)["status"] == "completed"
    [row] = service.rows("id = %s", poison)
    return job, row, waited


def test_a_job_that_always_kills_its_worker(service):
    job, row, _ = poisoned(service, "running")

    assert (job["status"], row["lapses"], service.prompts(job["job_id"])) == ("failed", 5, 1)
    assert job["error"] == "The worker went away 5 times in a row while it had this job; given up."


@pytest.mark.full
def test_a_job_that_always_kills_its_worker_with_default_settings(default_service, figure):
    for point in ("claimed", "running"):
        job, row, waited = poisoned(default_service, point)

        figure(
            f"a job that always kills its worker when it is {point}",
            f"{job['status']} after {row['lapses']} claims, the next one started {waited:.0f} s later",
        )
        assert (job["status"], row["lapses"]) == ("failed", 5)
        assert waited < 60


def taken_up_again(service, position):
    """Kills one process of a busy cluster; returns the seconds until its job has a holder again."""
    service.slow(300)
    job_id = service.submit()
    eventually(lambda: service.status(job_id) == "processing")
    [row] = service.rows("id = %s", job_id)
    began = time.monotonic()
    os.kill(service.pids("worker\0render")[position], signal.SIGKILL)
    held_anew = "id = %s AND fence > %s AND lease_until > now()"
    eventually(lambda: service.rows(held_anew, job_id, row["fence"]), within=120)
    waited = time.monotonic() - began
    service.cancel(job_id)
    eventually(lambda: not service.queue())
    return waited


@pytest.mark.full
def test_how_long_until_a_job_is_taken_up_again(default_service, figure):
    """With the default leases, whichever process of the cluster was killed."""
    waits = sorted(taken_up_again(default_service, turn % 5) for turn in range(40))
    figure(
        f"SIGKILL of a busy cluster's process, default settings, {len(waits)} times: taken up again",
        f"median {waits[len(waits) // 2]:.0f} s, p99 and longest {waits[-1]:.0f} s",
    )
    assert waits[-1] < 60
