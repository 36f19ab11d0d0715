"""Images made to cost memory or time, or to be something else: through the whole API."""

import base64
import time

import pytest
import requests

from tests.factories import FULL
from tests.pictures import IMAGES
from tests.processes import Memory

QUICK = [  # to make, and one of each defence
    "PNG as large as allowed, with alpha",
    "PNG with compressed texts",
    "JPEG of 10,000 scans",
    "JPEG with an EXIF that loops",
    "PNG with a page behind it",
    "SVG that reads a file",
]


@pytest.fixture(scope="module")
def outcomes(stack):
    """Name: status, sentence, seconds, MiB above the idle size."""
    memory, found = Memory(stack), {}
    for name in IMAGES if FULL else QUICK:
        body = {"prompt": "A cat", "image_base64": base64.b64encode(IMAGES[name][0]()).decode()}
        idle = memory.now()
        memory.forget()
        began = time.monotonic()
        answer = requests.post(
            stack.url + "/generate", json=body, headers={"X-API-Key": stack.env["API_KEY"]}, timeout=60
        )
        seconds = time.monotonic() - began
        found[name] = (answer.status_code, answer.json().get("detail", ""), seconds, memory.peak() - idle)
    return found


def test_each_is_made_into_a_picture_or_refused_with_a_sentence(outcomes):
    for name, (status, sentence, _, _) in outcomes.items():
        assert status == (200 if IMAGES[name][1] else 400), (name, sentence)
        assert sentence.startswith("image_base64: ") or status == 200


def test_none_takes_much_memory_of_a_web_process(outcomes, figure):
    seconds = max(outcome[2] for outcome in outcomes.values())
    most = max(outcome[3] for outcome in outcomes.values())
    figure(
        f"{len(outcomes)} hostile images",
        f"at most {seconds:.1f} s each, a web process at most {most} MiB above its idle size",
    )
    assert most < 300


def test_a_decoder_that_takes_too_much_is_ended(outcomes):
    assert "takes too much time or memory" in outcomes["JPEG of 10,000 scans"][1]
