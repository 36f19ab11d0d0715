"""Image servers that take for ever must not tie up the API."""

import threading
import time

import requests

from tests.factories import FULL

CLIENTS = 200 if FULL else 40
SECONDS = 20 if FULL else 3


def test_status_is_answered_while_they_are_waited_for(stack, silent, figure):
    headers = {"X-API-Key": stack.env["API_KEY"]}
    job = requests.post(stack.url + "/generate", json={"prompt": "A cat"}, headers=headers, timeout=30).json()
    ended, answers = threading.Event(), []

    def insist():
        """As a client does that heeds Retry-After."""
        body = {"prompt": "A cat", "image_url": f"http://{silent.name}/cat.png"}
        while not ended.is_set():
            answer = requests.post(stack.url + "/generate", json=body, headers=headers, timeout=60)
            answers.append(answer)
            ended.wait(int(answer.headers.get("Retry-After", "1")))

    clients = [threading.Thread(target=insist) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    waits, end = [], time.monotonic() + SECONDS
    with requests.Session() as session:
        while time.monotonic() < end:
            began = time.monotonic()
            status = session.get(f"{stack.url}/status/{job['job_id']}", headers=headers, timeout=30)
            waits.append(time.monotonic() - began)
            assert status.status_code == 200
            ended.wait(0.02)
    ended.set()
    for client in clients:
        client.join()

    waits.sort()
    codes = [answer.status_code for answer in answers]
    figure(
        f"{CLIENTS} slow image servers at once",
        f"/status median {1000 * waits[len(waits) // 2]:.0f} ms, "
        f"p99 {1000 * waits[len(waits) * 99 // 100]:.0f} ms; "
        f"{codes.count(400)} timed out, {codes.count(503)} were told to come back",
    )
    assert set(codes) == {400, 503}
    assert codes.count(503) >= CLIENTS - 8  # four at once in each of the two processes
