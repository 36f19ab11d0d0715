"""Warm-up: two steps and five frames of each graph, so that the first job finds its models loaded."""

import io
import time
import uuid
from collections.abc import Iterator

from PIL import Image

from comfy import workflow
from comfy.client import Comfy, ComfyError, Failed

PATIENCE = 900.0  # seconds for one graph: models come from a disk that may be slow
FOLDER = "wanapi/warm-up"


class NotWarm(ComfyError):
    """A graph did not run."""


def warm_up(comfy: Comfy, preset: str) -> Iterator[tuple[str, float]]:
    """Yields each kind of job with the seconds that its warm-up took. Raises ComfyError.

    The prompts do not bear our mark, and wait their turn like anybody's.
    """
    png = io.BytesIO()
    Image.new("RGB", (workflow.WIDTH, workflow.HEIGHT), "grey").save(png, "PNG")
    png.seek(0)
    image = comfy.upload_image(FOLDER, "input.png", png)
    for kind in workflow.KINDS:
        began = time.monotonic()
        _run(comfy, workflow.warm_up(kind=kind, preset=preset, prefix=f"{FOLDER}/{kind}", image=image))
        yield kind, time.monotonic() - began


def _run(comfy: Comfy, graph: workflow.Graph) -> None:
    prompt_id = str(uuid.uuid4())
    comfy.submit(prompt_id, graph, mark=None)
    deadline = time.monotonic() + PATIENCE
    while prompt_id in comfy.queue():
        if time.monotonic() > deadline:
            comfy.cancel(prompt_id)
            raise NotWarm(f"ComfyUI did not finish a warm-up within {PATIENCE:.0f} s.")
        time.sleep(0.2)
    result = comfy.result(prompt_id, FOLDER)
    comfy.forget(prompt_id)
    if isinstance(result, Failed):
        raise NotWarm(result.message, result.detail)
