"""manage.py check_presets: what an operator asks before he takes a preset into use."""

import io
import json
import shutil

import pytest
from django.core.management import CommandError, call_command

from comfy import presets
from tests.stack import COMFYUI_URL


@pytest.fixture
def folder(tmp_path):
    """A folder with a preset in it: ``fast``, for texts and images, with a parameter."""
    shutil.copytree(presets.BUILT_IN / "fast", tmp_path / "mine")
    with changed(tmp_path, "preset.json") as described:
        del described["kinds"]["first-last-frame"]
        described["parameters"]["flow_shift"] = {"choices": [3, 5.0]}
    return tmp_path


class changed:
    """Within it the content of a file of the preset may be changed."""

    def __init__(self, folder, name):
        self.path = folder / "mine" / name

    def __enter__(self):
        self.content = json.loads(self.path.read_text())
        return self.content

    def __exit__(self, *_):
        self.path.write_text(json.dumps(self.content))


def check(*arguments):
    """What it says, line by line, and whether all is well."""
    output = io.StringIO()
    try:
        call_command("check_presets", *map(str, arguments), stdout=output)
    except CommandError as error:
        return [*output.getvalue().splitlines(), str(error)], False
    return output.getvalue().splitlines(), True


def test_a_line_for_each_preset_of_the_service(folder, settings):
    settings.PRESETS_DIR = str(folder)

    lines, well = check()

    assert well
    assert [line.partition("@")[0] for line in lines] == ["fast", "quality", "mine"]
    assert lines[1].startswith(presets.find("quality").reference)
    assert lines[1].endswith(
        ": text-to-video, image-to-video, first-last-frame; steps from 4 to 50, guidance_scale from 1 to 20, "
        "guidance_scale_2 from 1 to 20, flow_shift from 1 to 20"
    )


@pytest.mark.parametrize("where", ["", "mine"])
def test_a_folder_that_is_not_in_use_yet(folder, where):
    lines, well = check(folder / where)

    assert well
    [line] = lines
    assert line.startswith("mine@")
    assert line.endswith(": text-to-video, image-to-video; flow_shift 3 or 5.0")


def test_each_broken_preset_has_its_sentence_and_the_others_their_lines(folder):
    shutil.copytree(folder / "mine", folder / "another")
    with changed(folder, "text-to-video.json") as graph:
        graph["decode"]["inputs"]["samples"] = ["sampler", 0]

    lines, well = check(folder)

    assert not well
    assert lines[0].startswith("another@")
    assert lines[1:] == [
        f"{folder}/mine/text-to-video.json: input 'samples' of node 'decode' is a link to node 'sampler', "
        "which is not there.",
        "1 preset cannot be used like this.",
    ]


def test_a_folder_without_presets(tmp_path):
    said = f"{tmp_path}: there is no preset in it. A preset is a folder with a preset.json."

    assert check(tmp_path) == ([said], False)


def test_a_parameter_that_no_request_has(folder):
    with changed(folder, "preset.json") as described:
        described["parameters"]["strength"] = {"minimum": 0, "maximum": 1}
        for kind in described["kinds"].values():
            kind["bindings"]["strength"] = "high_noise_lora.strength_model"

    lines, well = check(folder)

    assert not well
    sentence = "no request can set it; leave its value in the graph."
    assert lines[0] == f"{folder}/mine/preset.json at parameters.strength: {sentence}"


class TestComfyUI:
    def test_one_that_can_run_it(self, folder):
        lines, well = check(folder, "--url", COMFYUI_URL)

        assert well
        assert lines[0].startswith("ComfyUI ")
        assert [line.partition("@")[0] for line in lines[1:]] == ["mine"]

    def test_the_built_in_presets_have_nothing_that_it_would_ignore(self):
        lines, well = check("--url", COMFYUI_URL)

        assert (len(lines), well) == (3, True)

    @pytest.mark.parametrize(
        ("node", "inputs", "said"),
        [
            ("vae", {"vae_name": "no.safetensors"}, "ComfyUI lacks models/vae/no.safetensors"),
            ("low_noise_sampler", {"scheduler": "best"}, "is 'best', which is none of its choices"),
            ("high_noise_lora", {"strength_model": 101}, "is 101, and it must be at most 100.0"),
            ("latent", {"batch_size": "1"}, "is '1', and it must be a number"),
            (
                "latent",
                {"batch_size": ...},
                "node 'latent' (EmptyHunyuanLatentVideo) needs an input 'batch_size'",
            ),
        ],
    )
    def test_what_it_would_refuse(self, folder, node, inputs, said):
        with changed(folder, "text-to-video.json") as graph:
            values = graph[node]["inputs"] | inputs
            graph[node]["inputs"] = {name: value for name, value in values.items() if value is not ...}

        lines, well = check(folder, "--url", COMFYUI_URL)

        assert not well
        [wrong] = lines[1:-1]
        assert wrong.startswith(f"{folder}/mine/text-to-video.json: ")
        assert wrong.endswith(f"{said}.")

    def test_a_node_that_it_does_not_know(self, folder):
        with changed(folder, "text-to-video.json") as graph:
            graph["decode"]["class_type"] = "Decode / all? (best)"

        lines, well = check(folder, "--url", COMFYUI_URL)

        assert not well
        assert "node 'decode' (Decode / all? (best)) is of a class that ComfyUI does not know" in lines[1]

    def test_a_second_output_in_the_middle(self, folder):
        """Its files would stay in ComfyUI's folder."""
        with changed(folder, "text-to-video.json") as graph:
            graph["seen"] = graph["save"] | {"inputs": graph["save"]["inputs"] | {"filename_prefix": "x"}}
            graph["video"]["inputs"]["audio"] = ["seen", 0]
            graph["seen"]["inputs"]["video"] = ["decode", 0]

        lines, _ = check(folder, "--url", COMFYUI_URL)

        assert (
            f"{folder}/mine/text-to-video.json: node 'seen' (SaveVideo) is an output beside 'save'." in lines
        )

    def test_a_last_node_that_saves_nothing(self, folder):
        with changed(folder, "text-to-video.json") as graph:
            graph["save"]["class_type"] = "CreateVideo"
            graph["save"]["inputs"] |= {"images": ["decode", 0], "fps": 16}

        lines, _ = check(folder, "--url", COMFYUI_URL)

        assert f"{folder}/mine/text-to-video.json: node 'save' (CreateVideo) saves nothing." in lines

    def test_an_input_that_it_ignores_is_wrong_where_a_parameter_goes_there(self, folder):
        with changed(folder, "text-to-video.json") as graph:
            graph["low_noise_shift"]["inputs"]["shifts"] = 5.0
        told = "node 'low_noise_shift' (ModelSamplingSD3) "
        lines, well = check(folder, "--url", COMFYUI_URL)
        assert (lines[-1], well) == (f"  {told}may ignore its input 'shifts'.", True)

        with changed(folder, "preset.json") as described:
            places = ["high_noise_shift.shift", "low_noise_shift.shifts"]
            described["kinds"]["text-to-video"]["bindings"]["flow_shift"] = places
        lines, well = check(folder, "--url", COMFYUI_URL)
        assert not well
        sentence = "does not know the input 'shifts', so the parameter would do nothing."
        assert lines[1] == f"{folder}/mine/text-to-video.json: {told}{sentence}"

    def test_a_node_that_cannot_be_without_the_image(self, folder):
        """A first image is taken out of the graph where there is none."""
        with changed(folder, "image-to-video.json") as graph:
            graph["image_to_video"]["inputs"]["vae"] = ["image", 0]
        with changed(folder, "preset.json") as described:
            kind = described["kinds"]["text-to-video"] = described["kinds"].pop("image-to-video")
            kind["graph"] = "image-to-video.json"

        lines, _ = check(folder, "--url", COMFYUI_URL)

        assert lines[1].endswith("node 'image_to_video' (WanImageToVideo) needs an input 'vae'.")

    def test_none_that_answers(self, folder):
        lines, _ = check(folder, "--url", "http://127.0.0.1:1")

        assert lines[0].startswith("http://127.0.0.1:1: The GPU server does not answer.")
