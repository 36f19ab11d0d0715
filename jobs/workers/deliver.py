"""The deliver task: claims deliveries, signs and sends them, and writes how it went.

One such task runs in a publish cluster at a time. It alone talks to Postgres; each request to a receiver has
a thread, which waits for nothing but that receiver. So a slow receiver holds back no video and nobody else.
"""

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connection
from standardwebhooks import Webhook

from jobs.media import receivers
from jobs.media.receivers import Answer
from jobs.media.storage import StorageError
from jobs.models import Delivery, Job
from jobs.queue.deliveries import Try, claim
from jobs.workers.hold import Places, stopping
from wanapi.postgres import AWAY
from wanapi.sealed import Unreadable, unseal

logger = logging.getLogger(__name__)

THREADS = 32  # requests at once: room for 16 receivers that hang, with two each, until they count as failing
FAILING = 16  # of these, to receivers that took nothing the last time: so there is always room for the others
POLL = 0.2  # seconds between two looks for new deliveries while requests are under way
SLACK = 0.5  # seconds after WEBHOOK_TIMEOUT: looking up a name has no deadline
LEAVE = 4.0  # seconds that requests under way have when the worker must go

places = Places(1)
Tell = Callable[[Job], dict[str, Any]]  # a job as GET /jobs/{id} tells it


class Unsendable(Exception):
    """It cannot be sent, for the reason in the sentence, which is ours and not the receiver's."""


def deliver(tell: Tell) -> None:
    """Sends until nothing is due. If the cluster does so already, there is nothing to do here."""
    with places.one() as free:
        if free:
            Sender(tell).run()


@dataclass
class Request:
    """One that is under way. ``told``: its end is written already, since it took too long."""

    attempt: Try
    began: float
    told: bool = False


class Sender:
    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="deliver")
        self.flying: dict[Future[Answer], Request] = {}

    def run(self) -> None:
        try:
            while not stopping.is_set():
                self._collect()
                if self._begin():
                    continue
                if all(request.told for request in self.flying.values()):
                    return
                wait(self.flying, POLL, FIRST_COMPLETED)
            wait(self.flying, LEAVE)
            self._collect()
        except AWAY as error:
            logger.warning("deliveries: left until their leases end: %s", error)
            connection.close()
        finally:
            self.threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> int:
        """Claims and sends as many as there are threads for; returns how many."""
        free = THREADS - len(self.flying)
        failing = FAILING - sum(request.attempt.fails for request in self.flying.values())
        claimed = claim(free, failing) if free else []
        for attempt in claimed:
            try:
                message = message_of(attempt, self.tell)
            except Unsendable as error:
                self._finish(attempt, Answer(None, str(error)), 0.0)
            else:
                sending = self.threads.submit(receivers.post, *message)
                self.flying[sending] = Request(attempt, time.monotonic())
        return len(claimed)

    def _collect(self) -> None:
        """Writes how requests ended."""
        for sending, request in list(self.flying.items()):
            took = time.monotonic() - request.began
            if sending.done():
                del self.flying[sending]
                if not request.told:
                    self._finish(request.attempt, answer_of(sending), took)
            elif took > settings.WEBHOOK_TIMEOUT + SLACK and not request.told:
                request.told = True
                self._finish(request.attempt, Answer(None, receivers.late()), took)

    def _finish(self, attempt: Try, answer: Answer, took: float) -> None:
        row = attempt.delivery
        attempt.finish(answer, round(took, 3))
        end = f"taken in {took:.2f} s" if answer.taken else answer.trouble
        text = "job %s: %s to %s, try %s: %s"
        level = logging.INFO if answer.taken else logging.WARNING
        logger.log(level, text, row.job_id, row.event, row.host, attempt.number, end, extra=row.log_fields)


def answer_of(sending: Future[Answer]) -> Answer:
    try:
        return sending.result()
    except Exception as error:  # its text may hold the URL
        logger.error("deliveries: %s in a request", type(error).__name__)
        return Answer(None, "The request could not be made.")


def message_of(attempt: Try, tell: Tell) -> tuple[str, bytes, dict[str, str]]:
    """The URL, the body and the headers. Raises Unsendable."""
    row = attempt.delivery
    try:
        url, secrets = unseal(row.url), secrets_of(row)
        body = json.dumps(body_of(attempt, tell))
    except (Unreadable, StorageError) as error:
        raise Unsendable(f"It cannot be sent: {error}"[:255]) from None
    except AWAY:
        raise
    except Exception:  # one that cannot be told must not stop the others
        logger.exception("job %s: %s cannot be made", row.job_id, row.event)
        raise Unsendable("It could not be made; the log of the publish worker says why.") from None
    if not secrets:
        raise Unsendable("The API key has no webhook secret.")
    now = datetime.now(UTC)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": row.name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(row.name, now, body) for secret in secrets),
    }
    return url, body.encode(), headers


def secrets_of(delivery: Delivery) -> list[str]:
    return delivery.key.webhook_secrets if delivery.key else settings.WEBHOOK_SECRET


def body_of(attempt: Try, tell: Tell) -> dict[str, Any]:
    """As Standard Webhooks wants it, with the fields of OpenAI's events beside. When the job is gone, so is
    its video, and there are no links."""
    row = attempt.delivery
    data = tell(row.job_then)
    if not attempt.job_is_there:
        data |= {"video_url": None, "poster_url": None}
    return {
        "id": row.name,
        "object": "event",
        "type": row.event,
        "timestamp": row.at.isoformat().replace("+00:00", "Z"),
        "created_at": int(row.at.timestamp()),
        "data": data,
    }
