"""Fixtures that several files share."""

import io
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import requests
from django.db.models.functions import Now
from PIL import Image

from jobs.models import Engine, Job
from jobs.worker import WORKER
from tests import parts


@pytest.fixture(scope="session", autouse=True)
def bucket() -> None:
    boto3.client("s3", endpoint_url=parts.S3_URL).create_bucket(Bucket="wanapi")


@pytest.fixture
def api(client: Any) -> Any:
    """Django's test client with the API key."""
    client.defaults["HTTP_X_API_KEY"] = parts.KEY
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
def engine(db: None) -> Engine:
    """The simulator's engine, held by this process and ready."""
    held = Engine.objects.hold(name="sim", url=parts.SIMULATOR_URL, worker=WORKER)
    assert held
    held.report(version="test", lacks=[])
    held.refresh_from_db()
    return held


class Simulator:
    """The simulator's own routes: its log is the witness, its faults the trouble."""

    url = parts.SIMULATOR_URL

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


def make_job(**fields: Any) -> Job:
    """A row as the service would have left it."""
    status = fields.get("status", "queued")
    if status == "processing":
        fields = {"started_at": Now()} | fields
    if status in ("completed", "failed"):
        fields = {"started_at": Now(), "finished_at": Now()} | fields
    if status == "completed":
        video = {"rendered_at": Now(), "video_size": 1, "video_frames": 81, "video_sha256": "0" * 64}
        fields = {"progress": 100, "attempt": 1} | video | fields
    if status == "failed":
        fields = {"error": "It failed."} | fields
    defaults = {"id": uuid.uuid4(), "kind": "text-to-video", "prompt": "A cat", "preset": "fast", "seed": 1}
    job = Job.objects.create(**(defaults | fields))
    job.refresh_from_db()
    return job


def picture(
    width: int = 64, height: int = 48, format: str = "PNG", mode: str = "RGB", **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), "red" if mode in ("RGB", "RGBA") else 0).save(buffer, format, **options)
    return buffer.getvalue()
