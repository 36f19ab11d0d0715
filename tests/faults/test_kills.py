"""SIGKILL at every step of a job's way."""

import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.conftest import FULL
from tests.faults.service import image, until
from tests.faults.worker import PUBLISH_POINTS, RENDER_POINTS

TIMES = 20 if FULL else 1


def strike(service, cluster, point, victim="worker"):
    """One job, one SIGKILL; returns the job when it is final."""
    service.order(cluster, point, victim)
    body = {"image_base64": image()} if point == "image uploaded" else {}
    job_id = service.submit(**body)
    until(lambda: service.struck(cluster), what=point)
    job = service.finished(job_id)
    return point, job["status"], service.prompts(job_id), job["status"] == "completed" and service.plays(job)


def test_the_worker_is_killed_at_every_point(service, figure):
    def strikes(cluster, points):
        return [strike(service, cluster, point) for point in points * TIMES]

    with ThreadPoolExecutor() as threads:
        clusters = threads.map(strikes, ("render", "publish"), (RENDER_POINTS, PUBLISH_POINTS))
        outcomes = list(itertools.chain(*clusters))

    figure(
        f"SIGKILL of the worker at {len(RENDER_POINTS + PUBLISH_POINTS)} failpoints x {TIMES}",
        f"{len(outcomes)} jobs, {sum(status != 'completed' for _, status, _, _ in outcomes)} lost, "
        f"{sum(not plays for *_, plays in outcomes)} wrong",
    )
    prompts = sum(prompts for _, _, prompts, _ in outcomes)
    figure("prompts per job over these kills", f"{prompts / len(outcomes):.2f}")
    assert [outcome for outcome in outcomes if outcome[1:] != ("completed", 1, True)] == []


