"""From a job's parameters to the graph."""

import pytest

from comfy import workflow


def build(**options):
    defaults = {"kind": "text-to-video", "preset": "quality", "prompt": "A cat", "seed": 7, "prefix": "p/1"}
    return workflow.build(**(defaults | options))


@pytest.mark.parametrize("kind", workflow.KINDS)
@pytest.mark.parametrize(
    ("preset", "steps", "cfg", "shift", "split"), [("quality", 20, 3.5, 8, 10), ("fast", 4, 1, 5, 2)]
)
def test_a_preset_sets_what_the_official_template_has(kind, preset, steps, cfg, shift, split):
    graph = build(kind=kind, preset=preset)

    high, low = (graph[name]["inputs"] for name in workflow.SAMPLERS)
    assert (high["steps"], high["cfg"], high["start_at_step"], high["end_at_step"]) == (steps, cfg, 0, split)
    assert (low["steps"], low["cfg"], low["start_at_step"]) == (steps, cfg, split)
    assert (
        graph["high_noise_shift"]["inputs"]["shift"] == graph["low_noise_shift"]["inputs"]["shift"] == shift
    )
    assert ("high_noise_lora" in graph) == (preset == "fast")
    size = graph["latent" if kind == "text-to-video" else "image_to_video"]["inputs"]
    assert (size["width"], size["height"], size["length"]) == (832, 480, 81)
    assert graph["video"]["inputs"]["fps"] == 16


@pytest.mark.parametrize("kind", workflow.KINDS)
@pytest.mark.parametrize("preset", workflow.PRESETS)
def test_every_link_leads_to_a_node(kind, preset):
    graph = build(kind=kind, preset=preset)

    links = [value for node in graph.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert links
    assert {name for name, _ in links} <= set(graph)


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


def test_brackets_are_text_and_no_weights():
    assert workflow.escape(r"a (red:1.5) cat \(x)") == r"a \(red:1.5\) cat \\(x\)"


def test_the_model_files_of_a_preset_are_those_of_both_kinds():
    files = workflow.model_files("fast")

    assert ("diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors") in files
    assert ("loras", "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors") in files
    assert len(files) == 10
    assert len(workflow.model_files("quality")) == 6


@pytest.mark.parametrize(
    ("high", "low", "percent"),
    [(None, None, 0), ((1, 2), None, 25), ((2, 2), (0, 2), 50), ((2, 2), (2, 2), 99)],
)
def test_progress_runs_over_both_samplers(high, low, percent):
    states = {"high_noise_sampler": high, "low_noise_sampler": low, "decode": (0, 1)}
    nodes = {name: {"value": state[0], "max": state[1]} for name, state in states.items() if state}

    assert workflow.progress("text-to-video", "fast", nodes) == percent
