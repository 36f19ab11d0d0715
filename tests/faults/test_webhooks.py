"""Webhooks while workers are killed and receivers are away."""

import time
from collections import defaultdict

from tests.factories import FULL, eventually
from tests.faults.worker import DELIVERY_POINTS
from tests.receivers import SECRET, receiving

TIMES = 20 if FULL else 1
AWAY = 600 if FULL else 5  # seconds


def cancelled(service, port):
    """A job whose end is to be told."""
    job_id = service.submit(webhook_url=f"http://127.0.0.1:{port}/hook")
    service.cancel(job_id)
    return job_id


def arrived(receiver):
    """The ids of the events that came, by job; each time it came."""
    found = defaultdict(list)
    for got in list(receiver.got):
        found[got.event["data"]["job_id"]].append(got.headers["webhook-id"])
    return found


def delivered(service, jobs):
    """The rows of these jobs' events, once all of them are noted as delivered; else nothing."""
    rows = service.webhooks("job_id = ANY(%s::uuid[])", jobs)
    return [row for row in rows if row["state"] == "delivered"] == rows and rows


def test_sigkill_of_the_worker_at_every_point_of_a_delivery(service, figure, receiver_port):
    points, jobs = DELIVERY_POINTS * TIMES, []
    with receiving(port=receiver_port, secret=SECRET) as receiver:
        for point in points:
            service.order("publish", point)
            jobs.append(cancelled(service, receiver_port))
            eventually(lambda: service.struck("publish"), what=point)

        eventually(lambda: set(jobs) <= arrived(receiver).keys(), within=180, what="the last event")
        eventually(lambda: delivered(service, jobs), within=180, what="the last answer")
        found = arrived(receiver)

    doubled = sum(len(ids) - 1 for ids in found.values())
    figure(
        f"SIGKILL of the worker at {len(DELIVERY_POINTS)} points of a webhook x {TIMES}",
        f"{len(jobs)} events, {len(set(jobs) - found.keys())} lost, {doubled} came again, "
        f"{sum(len(set(ids)) > 1 for ids in found.values())} with another id",
    )
    assert all(len(set(ids)) == 1 for ids in found.values())


def test_a_receiver_that_is_away_gets_all(service, figure, receiver_port):
    jobs = [cancelled(service, receiver_port) for _ in range(20)]
    eventually(lambda: not service.webhooks("tries = 0"), what="a first try of each")
    time.sleep(AWAY)

    with receiving(port=receiver_port, secret=SECRET) as receiver:
        eventually(lambda: set(jobs) <= arrived(receiver).keys(), within=180, what="that all are there")
        rows = eventually(lambda: delivered(service, jobs))

    tries = [row["tries"] for row in rows]

    figure(
        f"a receiver that is away for {AWAY} s (short pauses)",
        f"{len(jobs)} of {len(jobs)} events arrive, after {min(tries)} to {max(tries)} tries",
    )
