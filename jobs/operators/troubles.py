"""What is wrong now and what to do about it, for the red banner. The words are those of the alert table in
docs/operations.md, and a test compares the two."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.models.engine import DISK_FULL, Engine
from jobs.operators.words import in_words

OLD = 3600  # seconds that a job may wait
FAILURES = 3  # in an hour, of one reason
DUE = 50  # webhooks that should have been sent
PUBLISHING = 5  # videos on their way to S3 at once

FAILED = {
    "refused": "ComfyUI refuses graphs or images: look at ComfyUI and its files.",
    "node": "A node of the graph fails: look at ComfyUI and its files.",
    "out_of_memory": "The GPU runs out of memory: look for other programs on it.",
    "lost": "ComfyUI dies or loses prompts: read its log.",
    "worker": "A job kills its worker: read the worker's log before you requeue it.",
}


@dataclass(frozen=True)
class Trouble:
    alert: str  # of docker/prometheus/alerts.yml
    what: str
    advice: str


def advice(engine: Engine) -> str:
    """What to do about an engine that is not ready; nothing if it is, warms up or is paused."""
    state = engine.state
    if state in ("ready", "paused", "warming up"):
        return ""
    if state == "no worker":
        return "Start its render worker and read its log; if the GPU is gone for good, remove the engine."
    if engine.must_restart:
        return "Restart ComfyUI. With COMFYUI_RESTART_COMMAND its worker does so by itself."
    if engine.trouble == DISK_FULL:
        return "Make room in ComfyUI's output folder; the jobs are rendered anew by themselves, uncounted."
    if engine.trouble:
        return "Look at what stands between the worker and ComfyUI; manage.py check_engine says more."
    if not engine.ready:
        return "Restart ComfyUI; manage.py check_engine says more."
    return "Run manage.py download_models, or update ComfyUI."


def of_engines(engines: Sequence[Engine]) -> Iterable[Trouble]:
    wrong = [engine for engine in engines if advice(engine)]
    if not engines:
        yield Trouble("WanapiNoEngine", "No render worker has ever started.", "Run manage.py worker render.")
    elif len(wrong) == len(engines):
        yield Trouble("WanapiNoEngine", "No GPU is ready; jobs wait.", "See below what each of them needs.")
    for engine in wrong:
        alert = "WanapiDiskFull" if engine.trouble == DISK_FULL else "WanapiEngineNotReady"
        yield Trouble(alert, f"Engine {engine.name}: {engine.state.rstrip('.')}.", advice(engine))


def of_queue(queue: dict[str, Any], impossible: Iterable[dict[str, Any]]) -> Iterable[Trouble]:
    for row in impossible:
        some = f"{row['jobs']} queued job{'s' if row['jobs'] > 1 else ''}"
        yield Trouble(
            "WanapiJobsImpossible",
            f"{some} ({row['preset'].partition('@')[0]}, {row['kind']}): no engine can render "
            f"{'them' if row['jobs'] > 1 else 'it'} now.",
            "The engines' page says which model files or nodes are missing (manage.py download_models) and "
            "which engines are paused.",
        )
    if queue["oldest_seconds"] > OLD:
        yield Trouble(
            "WanapiQueueOld",
            f"The oldest queued job waits for {in_words(queue['oldest_seconds'])}.",
            "Its page says why if it was set aside. Else: more GPUs, WORKFLOW_PRESET=fast, or lower limits "
            "per key.",
        )
    if queue["publishing"] > PUBLISHING:
        yield Trouble(
            "WanapiPublishingStuck",
            f"{queue['publishing']} finished videos do not get into S3.",
            "Run manage.py check_setup and read the publish worker's log. Nothing is lost; it is tried "
            "without end.",
        )


def of_webhooks(webhooks: dict[str, int]) -> Iterable[Trouble]:
    if failing := webhooks["failing"]:
        yield Trouble(
            "WanapiWebhooksFail",
            f"{failing} receiver{'s' if failing > 1 else ''} of webhooks took nothing for an hour.",
            "The page of deliveries says which, and what they answer: tell those whose servers they are.",
        )
    if (due := webhooks["due"]) > DUE:
        yield Trouble(
            "WanapiWebhooksLate",
            f"{due} webhooks should have been sent and were not.",
            "Read the publish worker's log, and look at the page of deliveries for receivers that hang.",
        )


def of_failures(by_reason: dict[str, int]) -> Iterable[Trouble]:
    for reason, count in sorted(by_reason.items()):
        if count > FAILURES:
            then = "Then: manage.py requeue_jobs --status failed --since 1h."
            yield Trouble(
                "WanapiJobsFail",
                f"{count} jobs failed within an hour: {reason or 'other'}.",
                f"{FAILED.get(reason, 'See the latest failures below.')} {then}",
            )
