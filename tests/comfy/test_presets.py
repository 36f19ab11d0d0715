"""The presets that are built in, and what a ComfyUI needs for them."""

import pytest

from comfy import presets


@pytest.mark.parametrize("kind", presets.KINDS)
@pytest.mark.parametrize(
    ("name", "steps", "cfg", "shift", "split"), [("quality", 20, 3.5, 8, 10), ("fast", 4, 1, 5, 2)]
)
def test_a_preset_has_the_steps_of_the_official_template(kind, name, steps, cfg, shift, split):
    preset = presets.find(name)
    graph = preset.kinds[kind].graph

    high, low = (graph[sampler]["inputs"] for sampler in preset.samplers)
    assert (high["steps"], high["cfg"], high["start_at_step"], high["end_at_step"]) == (steps, cfg, 0, split)
    assert (low["steps"], low["cfg"], low["start_at_step"]) == (steps, cfg, split)
    shifts = [graph[node]["inputs"]["shift"] for node in ("high_noise_shift", "low_noise_shift")]
    assert shifts == [shift, shift]
    assert ("high_noise_lora" in graph) == (name == "fast")


@pytest.mark.parametrize("kind", presets.KINDS)
@pytest.mark.parametrize("name", presets.names())
def test_a_preset_makes_what_the_reference_says_when_nothing_is_asked(kind, name):
    preset = presets.find(name)
    described = preset.kinds[kind]

    assert described.size == (832, 480)
    assert described.default("num_frames") == 81
    assert described.default("fps") == 16


@pytest.mark.parametrize("kind", presets.KINDS)
@pytest.mark.parametrize("name", presets.names())
def test_every_link_leads_to_a_node(kind, name):
    graph = presets.find(name).kinds[kind].graph

    links = [value for node in graph.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert links
    assert {node for node, _ in links} <= set(graph)


def test_the_default_preset_is_named_first():
    assert presets.names() == ("quality", "fast")


def test_the_model_files_of_a_preset_are_those_of_both_kinds():
    files = presets.find("fast").files

    assert ("diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors") in files
    assert ("loras", "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors") in files
    assert len(files) == 10
    assert len(presets.find("quality").files) == 6


@pytest.mark.parametrize(
    ("missing", "cannot", "lacks"),
    [
        ([], (), []),
        (["vae/other.safetensors", "node Other"], (), []),
        (["vae/wan_2.1_vae.safetensors"], ("",), ["vae/wan_2.1_vae.safetensors"]),
        (["node WanImageToVideo"], ("image-to-video",), ["node WanImageToVideo"]),
        (["loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors"], ("fast/text-to-video",), []),
    ],
    ids=["nothing", "what no graph has", "a file of all", "a node of one kind", "a file of the other preset"],
)
def test_what_is_missing_tells_which_pairs_run_and_what_the_preset_lacks(missing, cannot, lacks):
    found = [pair.split("/") for pair in presets.runs(missing)]

    everything = [f"{preset.name}/{kind}" for preset in presets.every() for kind in preset.kinds]
    able = {pair for pair in everything if not any(pair.endswith(end) for end in cannot)}
    assert {f"{presets.find(name).name}/{kind}" for name, kind in found} == able
    assert presets.lacks(missing, "quality") == lacks
