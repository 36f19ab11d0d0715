"""What tests make and wait for."""

import base64
import io
import itertools
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from django.db.models.functions import Now
from PIL import Image

from comfy import presets
from jobs.models import Event, Job
from jobs.models.job import FINAL, folder
from local.parts import ROOT
from tests.stack import FOLDER

T = TypeVar("T")
REFERENCE = (ROOT / "docs" / "api-reference.md").read_text()
FULL = bool(os.environ.get("FULL"))  # of `make test-faults` and `make fuzz`
turns = itertools.count(1)
COMFYUI = FOLDER / "comfyui"  # the simulator's folders


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def eventually(condition: Callable[[], T], within: float = 60, what: str = "it") -> T:
    """Waits until the condition holds, and gives what it gave."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within} s"
        time.sleep(0.02)
    return found


def folders(job: Job) -> list[Path]:
    """What is left of a job in the simulator's folders."""
    places = [COMFYUI / kind / folder(job.pk) for kind in ("input", "output")]
    return [place for place in places if place.exists()]


def make_job(**fields: Any) -> Job:
    """A row as the service would have left it."""
    status = fields.get("status", "queued")
    if status == "processing":
        fields = {"started_at": Now()} | fields
    if status in FINAL:
        fields = {"started_at": Now(), "finished_at": Now()} | fields
    if status == "completed":
        video = {"rendered_at": Now(), "video_size": 1, "video_frames": 81, "video_sha256": "0" * 64}
        fields = {"progress": 100, "attempt": 1} | video | fields
    if status in ("failed", "cancelled"):
        fields = {"error": "It failed."} | fields
    defaults = {
        "id": uuid.uuid4(),
        "turn": next(turns),
        "kind": "text-to-video",
        "prompt": "A cat",
        "preset": "fast",
        "seed": 1,
    }
    job = Job.objects.create(**(defaults | fields))
    if status == "failed":
        Event.objects.create(job=job, kind="failed", attempt=1, render=1, at=fields["finished_at"])
    job.refresh_from_db()
    return job


def runs(*pairs: str) -> list[str]:
    """What an engine tells that can run these pairs, such as ``fast/text-to-video``, as they are now."""
    named = (pair.split("/") for pair in pairs)
    return [f"{held}/{kind}" for name, kind in named for held in (presets.find(name).reference, name)]


def picture(
    width: int = 64, height: int = 48, format: str = "PNG", mode: str = "RGB", **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), "red" if mode in ("RGB", "RGBA") else 0).save(buffer, format, **options)
    return buffer.getvalue()


def encoded_picture() -> str:
    """As a client sends it in ``image_base64``."""
    return base64.b64encode(picture()).decode()
