"""Warm-up: two steps and five frames of a graph, so that the first job finds its models loaded.

ComfyUI does not tell when it started. So a warm-up leaves its entry in ComfyUI's history, which lives in
memory: as long as the entry is there, ComfyUI has not restarted, and is warm. ``chill`` takes the entries
out when the models were unloaded.
"""

import io
import secrets
import time
import uuid
from collections.abc import Iterator

from PIL import Image

from comfy import presets, workflow
from comfy.answers import ComfyError, Failed, Rendered
from comfy.client import Comfy
from comfy.presets import Graph, Preset

PATIENCE = 900.0  # seconds for one graph: models come from a disk that may be slow
FOLDER = "wanapi/warm-up"
NAMESPACE = uuid.UUID("6f9d3c1e-52a7-4b60-9a0e-1d6a6c3f7b11")  # of the prompt ids of warm-ups
# Bytes of GPU memory that hold all experts and the text encoder at once. With less, what was warmed up last
# is all that is loaded, and a second warm-up would push the first one out.
HOLDS_ALL = 64 * 1024**3


class NotWarm(ComfyError):
    """The graph of a warm-up did not run to its end."""


def is_warm(comfy: Comfy, preset: Preset) -> bool:
    """Whether this ComfyUI ran a warm-up of the preset since it started and since the last ``chill``."""
    ids = [prompt_id(f"{preset.name}/{kind}") for kind in preset.kinds]
    return any(isinstance(comfy.result(each, FOLDER), Rendered) for each in ids)


def chill(comfy: Comfy) -> None:
    """After the models were unloaded."""
    for preset in presets.every():
        for kind in preset.kinds:
            comfy.forget(prompt_id(f"{preset.name}/{kind}"))


def prompt_id(pair: str) -> str:
    """The prompt id of the warm-up of a preset and kind, such as ``fast/text-to-video``."""
    return str(uuid.uuid5(NAMESPACE, pair))


def kinds(comfy: Comfy, preset: Preset, first: str) -> list[str]:
    """What to warm up: the kind that is asked for first comes last, so that it is the one that is loaded. A
    card that cannot hold all models is warmed up for this kind alone. Of two kinds with the same files one is
    enough."""
    by_files = {tuple(preset.files_of(kind)): kind for kind in reversed(preset.kinds)}
    by_files.pop(tuple(preset.files_of(first)))
    return [*by_files.values(), first] if comfy.system().memory >= HOLDS_ALL else [first]


def warm_up(comfy: Comfy, preset: Preset, kinds: list[str]) -> Iterator[tuple[str, float]]:
    """Yields each kind of job with the seconds that its warm-up took. Raises ComfyError.

    The prompts do not bear our mark, and wait their turn like other people's.
    """
    for kind in kinds:
        png = io.BytesIO()
        Image.new("RGB", preset.kinds[kind].size, "grey").save(png, "PNG")
        png.seek(0)
        image = comfy.upload_image(FOLDER, "input.png", png)
        began = time.monotonic()
        seed, prefix = secrets.randbelow(2**48), f"{FOLDER}/{kind}"
        graph = workflow.warm_up(preset, kind, seed=seed, prefix=prefix, image=image)
        _run(comfy, prompt_id(f"{preset.name}/{kind}"), graph)
        yield kind, time.monotonic() - began


def _run(comfy: Comfy, prompt_id: str, graph: Graph) -> None:
    if prompt_id not in comfy.queue():  # a predecessor's warm-up may still run
        comfy.forget(prompt_id)
        comfy.submit(prompt_id, graph, mark=None)
    deadline = time.monotonic() + PATIENCE
    while prompt_id in comfy.queue():
        if time.monotonic() > deadline:
            comfy.cancel(prompt_id)
            raise NotWarm(f"ComfyUI did not finish a warm-up within {PATIENCE:.0f} s.")
        time.sleep(0.2)
    result = comfy.result(prompt_id, FOLDER)
    if result is None:
        raise NotWarm("ComfyUI lost the warm-up.")
    if isinstance(result, Failed):
        comfy.forget(prompt_id)
        raise NotWarm(result.message, result.detail)
