"""Fixtures that several files share."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from django.db import connection

from comfy import presets
from comfy.presets import Preset
from jobs.models import metric
from jobs.models.engine import Engine
from jobs.operators.metrics import COUNTERS, HISTOGRAMS
from jobs.queue import engines
from jobs.workers.hold import WORKER, stopping
from jobs.workers.render import Memory, render
from tests.factories import COMFYUI, FULL
from tests.image_servers import Server, serving
from tests.receivers import SECRET, Receiver, receiving
from tests.stack import COMFYUI_URL, KEY, S3_URL, SIMULATOR_URL

collect_ignore = [] if os.environ.get("BROWSER") else ["browser"]  # of `make test-browser`
collect_ignore += [] if os.environ.get("CLIENTS") else ["clients/test_others.py"]  # of `make test-clients`
figures: list[tuple[str, str]] = []


@pytest.fixture(scope="session", autouse=True)
def bucket() -> None:
    boto3.client("s3", endpoint_url=S3_URL).create_bucket(Bucket="wanapi")


@pytest.fixture(scope="session", autouse=True)
def counters_are_shown() -> Iterator[None]:
    """Whatever is counted in a test must be one of those that /metrics shows."""
    add, shown = metric.add, {*COUNTERS, *HISTOGRAMS}

    def checked(amounts: dict[tuple[str, str], float]) -> None:
        assert {name for name, _ in amounts} <= shown, f"jobs/operators/metrics.py does not show {amounts}"
        add(amounts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metric, "add", checked)
        yield


@pytest.fixture
def figure() -> Callable[[str, str], None]:
    """Puts a line into the table."""
    return lambda name, reached: figures.append((name, reached))


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Those that take many minutes run with ``make test-faults`` only."""
    long = [] if FULL else [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FULL and figures:
        terminalreporter.section("figures")
        for name, reached in figures:
            terminalreporter.write_line(f"| {name} | {reached} |")


@pytest.fixture
def api(client: Any) -> Any:
    """Django's test client with the API key."""
    client.defaults["HTTP_X_API_KEY"] = KEY
    client.raise_request_exception = False
    return client


@pytest.fixture
def submit(api: Any) -> Callable[..., str]:
    """POST /generate; returns the job's id."""

    def post(**body: Any) -> str:
        answer = api.post("/generate", {"prompt": "A cat"} | body, content_type="application/json")
        assert answer.status_code == 200, answer.content
        return str(answer.json()["job_id"])

    return post


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of images on a private address."""
    with serving(Server()) as server:
        yield server


@pytest.fixture
def own(server: Server, settings: Any) -> Server:
    """A server that the operator named in IMAGE_URL_ALLOW."""
    settings.IMAGE_URL_ALLOW = [server.own]
    return server


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """A receiver of webhooks that the operator named in WEBHOOK_URL_ALLOW; the environment's key signs."""
    settings.WEBHOOK_SECRET = [SECRET]
    settings.WEBHOOK_TIMEOUT = 2
    with receiving() as receiver:
        settings.WEBHOOK_URL_ALLOW = [receiver.own]
        yield receiver


@pytest.fixture
def engine(db: None) -> Engine:
    """The simulator's engine, or that of a real ComfyUI, held by this process and ready."""
    held = engines.hold(name="sim", url=COMFYUI_URL, worker=WORKER)
    assert held
    engines.report_well(held, version="test", runs=presets.runs([]), lacks=[])
    held.refresh_from_db()
    return held


@pytest.fixture
def own_preset(tmp_path: Path) -> Iterator[Callable[..., Preset]]:
    """Writes a preset of an operator, which is ``fast`` with a change, and takes it up as at a start. The
    change is a function that is given the content of its files by name."""

    def put(change: Callable[[dict[str, Any]], None] = lambda files: None) -> Preset:
        folder = tmp_path / "presets" / "mine"
        folder.mkdir(parents=True, exist_ok=True)
        files = {path.name: json.loads(path.read_text()) for path in (presets.BUILT_IN / "fast").iterdir()}
        change(files)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        presets.load(folder.parent)
        return presets.find("mine")

    yield put
    presets.load()


class Simulator:
    """The simulator's own routes: its log is the witness, its faults the trouble."""

    url = SIMULATOR_URL

    def log(self, event: str) -> list[str]:
        entries = requests.get(f"{self.url}/simulator/log", timeout=5).json()
        return [entry["prompt_id"] for entry in entries if entry["event"] == event]

    def fault(self, kind: str, **options: Any) -> None:
        requests.post(
            f"{self.url}/simulator/faults", json={"kind": kind, **options}, timeout=5
        ).raise_for_status()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    simulator.fault("none")
    simulator.fault("forget")
    yield simulator
    simulator.fault("none")
    simulator.fault("forget")


@pytest.fixture
def quick(simulator: Simulator, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker in this process: it polls often, and cleans up in the simulator's folders."""
    monkeypatch.setattr("jobs.workers.render.POLL", 0.05)
    monkeypatch.setattr("jobs.workers.render.memory", Memory())
    monkeypatch.setattr("jobs.workers.publish.STORAGE_PAUSE", 0)
    settings.COMFYUI_OUTPUT_DIR = str(COMFYUI / "output")
    settings.COMFYUI_INPUT_DIR = str(COMFYUI / "input")


class SameThread:
    """wanapi.within.Threads without threads: another thread would not see what a test's transaction wrote."""

    def within(self, seconds: float, work: Callable[[], Any]) -> Any:
        return work()


@pytest.fixture
def same_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.operators.metrics._threads", SameThread())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renders of some minutes, which an interrupt ends at once."""
    fast = presets.find("fast")
    for name, end in zip(fast.samplers, (5000, 10000), strict=True):
        inputs = fast.kinds["text-to-video"].graph[name]["inputs"]
        monkeypatch.setitem(inputs, "steps", 10000)
        monkeypatch.setitem(inputs, "end_at_step", end)


@pytest.fixture
def background() -> Iterator[Callable[[], threading.Thread]]:
    """Renders in a thread as the cluster's worker would, and hands over at the end."""
    threads = []

    def run() -> None:
        with closing(connection):
            render()

    def start() -> threading.Thread:
        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    stopping.set()
    for thread in threads:
        thread.join(10)
    stopping.clear()
