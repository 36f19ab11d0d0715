"""From a preset and a job's parameters to the graph."""

import hashlib
import json
from dataclasses import replace

import pytest

from comfy import presets, workflow


def build(preset="quality", **options):
    defaults = {"kind": "text-to-video", "prompt": "A cat", "seed": 7, "prefix": "p/1"}
    values = defaults | options
    return workflow.build(presets.find(preset), values.pop("kind"), values)


@pytest.mark.parametrize(
    ("pair", "sha256"),
    [
        ("quality/text-to-video", "42ed5f43a2796f74624d2fecf68915ff0846d2b23bb39efb72076d04330e8101"),
        ("quality/image-to-video", "a01bdd9e858894b7883a7b1f6dde6bf63cd85ef526fb9ede99e2600354517c9c"),
        ("fast/text-to-video", "e71579de8af71636bc6f4ac51c3055c119170656d31266b0aa5513770a8370a0"),
        ("fast/image-to-video", "0d9cd47bc39af94d226d0b683fc3349fc93729cb0510267d7b67e095c8dd85ea"),
    ],
)
def test_the_same_request_is_the_same_graph_in_every_version_of_the_service(pair, sha256):
    """To the byte, so that the pixels are the same. Who means to change a preset changes its hash here."""
    preset, kind = pair.split("/")
    prompt, prefix, image = r"A (red:1.5) cat \(x\) é", "wanapi/x/1", "wanapi/x/input.png"

    graph = build(preset, kind=kind, prompt=prompt, prefix=prefix, image=image)

    assert hashlib.sha256(json.dumps(graph).encode()).hexdigest() == sha256


def test_the_parameters_of_a_job_are_in_its_graph():
    graph = build(
        kind="image-to-video", prompt="A dog", seed=5, prefix="wanapi/x/2", image="wanapi/x/input.png"
    )

    assert graph["prompt"]["inputs"]["text"] == "A dog"
    assert graph["high_noise_sampler"]["inputs"]["noise_seed"] == 5
    assert graph["save"]["inputs"]["filename_prefix"] == "wanapi/x/2"
    assert graph["image"]["inputs"]["image"] == "wanapi/x/input.png"


def test_one_job_does_not_change_the_next_ones_graph():
    build(prompt="A dog")

    assert build()["prompt"]["inputs"]["text"] == "A cat"


@pytest.mark.parametrize("preset", presets.names())
@pytest.mark.parametrize("kind", presets.KINDS)
def test_brackets_of_a_prompt_are_text_and_no_weights_in_the_graph(preset, kind):
    graph = build(preset, kind=kind, prompt=r"a (red:1.5) cat \(x)")

    assert graph["prompt"]["inputs"]["text"] == r"a \(red:1.5\) cat \\(x\)"


def test_a_warm_up_is_two_steps_and_five_frames():
    preset = presets.find("quality")

    graph = workflow.warm_up(preset, "image-to-video", seed=5, prefix="p/1", image="i.png")

    assert workflow.steps(preset, graph) == [("high_noise_sampler", 1), ("low_noise_sampler", 1)]
    assert graph["image_to_video"]["inputs"]["length"] == 5


def test_a_preset_that_says_nothing_of_its_warm_up_renders_five_frames_for_it():
    preset = replace(presets.find("quality"), warm_up={})

    graph = workflow.warm_up(preset, "text-to-video", seed=5, prefix="p/1", image="")

    assert graph["latent"]["inputs"]["length"] == 5


@pytest.mark.parametrize(
    ("high", "low", "percent"),
    [(None, None, 0), ((1, 2), None, 25), ((2, 2), (0, 2), 50), ((2, 2), (2, 2), 99)],
)
def test_progress_runs_over_both_samplers(high, low, percent):
    states = {"high_noise_sampler": high, "low_noise_sampler": low, "decode": (0, 1)}
    nodes = {name: {"value": state[0], "max": state[1]} for name, state in states.items() if state}

    fast = presets.find("fast")
    steps = workflow.steps(fast, fast.kinds["text-to-video"].graph)

    assert workflow.progress(steps, nodes) == percent
