"""A preset's folder may hold anything. What cannot work is refused with one sentence, and soon."""

import copy
import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from comfy import preset_folders, presets, workflow
from comfy.presets import BadPreset
from tests.comfy.hostile_folders import CASES, GRAPH, VALID


def write(folder, change):
    files = copy.deepcopy(VALID)
    change(files)
    folder.mkdir(parents=True)
    for name, content in files.items():
        if callable(content):
            content(folder / name)
        else:
            given = isinstance(content, bytes)
            (folder / name).write_bytes(content if given else json.dumps(content).encode())
    return folder


def refusal(folder):
    with pytest.raises(BadPreset) as error:
        preset_folders.read(folder)
    return str(error.value)


def test_the_folder_that_the_hostile_ones_are_made_of_is_a_preset(tmp_path):
    preset = preset_folders.read(write(tmp_path / "quality", lambda files: None))

    assert tuple(preset.kinds) == presets.KINDS


@pytest.mark.parametrize(("file", "change"), CASES)
def test_a_hostile_folder_is_refused_in_words(tmp_path, file, change):
    said = refusal(write(tmp_path / "quality", change))

    assert said.startswith(str(tmp_path / "quality" / file))
    assert said.isprintable()
    assert len(said) < 1001
    assert said.endswith(".")


@pytest.mark.parametrize("thing", ["/dev/zero", "/dev/tty", "/proc/self", os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_even_opened(tmp_path, thing):
    """Some devices do something when they are opened."""

    def change(files):
        files[GRAPH] = thing if callable(thing) else lambda path: path.symlink_to(thing)

    said = refusal(write(tmp_path / "mine", change))

    assert said == f"{tmp_path}/mine/{GRAPH}: this is no file."


def test_all_of_them_are_refused_soon(tmp_path, figure):
    took = {}
    for number, case in enumerate(CASES):
        folder = write(tmp_path / f"n{number}", case.values[1])
        began = time.perf_counter()
        refusal(folder)
        took[case.id] = time.perf_counter() - began

    slowest = max(took, key=took.get)
    figure("hostile preset folders", f"{len(took)}; slowest {took[slowest]:.2f} s ({slowest})")
    assert len(took) >= 200
    assert sum(took.values()) < len(took) * 0.1
    assert took[slowest] < 5  # of a machine with much else to do; alone 0.2 s


class TestFolders:
    """What stands beside the presets, or in the place of one."""

    def refusal(self, folder):
        with pytest.raises(BadPreset) as error:
            preset_folders.read_all(folder)
        return str(error.value)

    def test_what_is_no_preset_is_left_alone(self, tmp_path):
        write(tmp_path / "mine", lambda files: None)
        write(tmp_path / ".git", lambda files: None)
        (tmp_path / "lost+found").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "README").write_text("mine is the best one")

        assert list(preset_folders.read_all(tmp_path)) == ["mine"]

    @pytest.mark.parametrize("name", ["My preset", "..a", "ä", "a" * 41, "A", "-a", "a@b", "a.b", "a\nb"])
    def test_a_name_that_no_request_could_say(self, tmp_path, name):
        write(tmp_path / "folder" / name, lambda files: None)

        if name.startswith("."):
            assert preset_folders.read_all(tmp_path / "folder") == {}
        else:
            assert "a preset's name has small letters" in self.refusal(tmp_path / "folder")

    def test_a_folder_with_graphs_alone(self, tmp_path):
        write(tmp_path / "mine", lambda files: files.pop("preset.json"))

        assert self.refusal(tmp_path) == f"{tmp_path}/mine: preset.json is missing."

    def test_the_folder_of_one_preset_in_place_of_the_one_that_it_lies_in(self, tmp_path):
        write(tmp_path / "mine", lambda files: None)

        said = self.refusal(tmp_path / "mine")

        assert said == f"{tmp_path}/mine: this is the folder of one preset. Name the folder that it lies in."

    def test_a_folder_that_is_not_there(self, tmp_path):
        assert self.refusal(tmp_path / "none") == f"{tmp_path}/none: No such file or directory."

    @pytest.mark.parametrize("closed", [".", "mine", "mine/preset.json", "mine/text-to-video.json"])
    def test_what_may_not_be_read(self, closed):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            write(folder / "mine", lambda files: None)
            (folder / closed).chmod(0)
            with as_nobody():
                said = self.refusal(folder)
            (folder / closed).chmod(0o700)

        assert said.startswith(str(folder / closed).removesuffix("/."))
        assert said.endswith(": Permission denied.")


@contextmanager
def as_nobody():
    """Root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


class TestLoaded:
    @pytest.fixture
    def load(self):
        yield presets.load
        presets.load()

    def test_one_of_the_same_name_takes_the_place_of_the_built_in_one(self, tmp_path, load):
        def change(files):
            files["preset.json"]["title"] = "Mine"
            files[GRAPH]["negative_prompt"]["inputs"]["text"] = "rain"

        built_in = presets.find("quality").reference
        write(tmp_path / "quality", change)
        write(tmp_path / "another", lambda files: None)

        load(tmp_path)

        assert presets.names() == ("quality", "another", "fast")
        assert presets.find("quality").title == "Mine"
        with pytest.raises(KeyError):
            presets.find(built_in)

    def test_a_broken_one_leaves_those_that_there_are(self, tmp_path, load):
        write(tmp_path / "mine", lambda files: files.pop(GRAPH))

        with pytest.raises(BadPreset):
            load(tmp_path)

        assert presets.names() == ("quality", "fast")

    @pytest.mark.parametrize(
        ("place", "value", "changes"),
        [
            (("preset.json", "title"), "Another", False),
            (("preset.json", "parameters"), {"steps": {"minimum": 10, "maximum": 30}}, False),
            (("preset.json", "warm_up"), {"num_frames": 9}, False),
            (("preset.json", "kinds", "text-to-video", "boundary"), 0.9, True),
            (("preset.json", "samplers"), ["low_noise_sampler", "high_noise_sampler"], True),
            (("preset.json", "output"), {"size": 2}, True),
            ((GRAPH, "negative_prompt", "inputs", "text"), "rain", True),
        ],
    )
    def test_the_reference_changes_with_what_a_video_is_made_by(self, tmp_path, place, value, changes):
        """Jobs that wait hold it: a new title must not strand them."""

        def change(files):
            *way, last = place
            for name in way:
                files = files[name]
            files[last] = value

        before = preset_folders.read(write(tmp_path / "1" / "mine", lambda files: None)).reference
        after = preset_folders.read(write(tmp_path / "2" / "mine", change)).reference

        assert (before != after) == changes
        assert after.startswith("mine@")


class TestGraphsOfOthers:
    """What an honest graph may have, and the built-in ones have not."""

    def read(self, tmp_path, change):
        return preset_folders.read(write(tmp_path / "mine", change))

    def test_a_sampler_whose_steps_come_from_another_node(self, tmp_path):
        def change(files):
            graph = files[GRAPH]
            graph["steps"] = {"class_type": "PrimitiveInt", "inputs": {"value": 20}}
            for name in ("high_noise_sampler", "low_noise_sampler"):
                graph[name]["inputs"]["steps"] = ["steps", 0]
            files["preset.json"]["kinds"]["text-to-video"]["bindings"]["steps"] = "steps.value"

        preset = self.read(tmp_path, change)

        assert preset.kinds["text-to-video"].default("steps") == 20
        assert workflow.build(preset, "text-to-video", {"steps": 8})["steps"]["inputs"]["value"] == 8
        assert preset.steps("text-to-video") > 0

    def test_an_interpolator_multiplies_the_rate_that_is_asked_for(self, tmp_path):
        def change(files):
            files["preset.json"]["output"] = {"rate": 2}
            for kind in presets.KINDS:
                files[f"{kind}.json"]["video"]["inputs"]["fps"] = 32

        preset = self.read(tmp_path, change)

        assert preset.kinds["text-to-video"].default("fps") == 16
        built = workflow.build(preset, "text-to-video", {"fps": 12})
        assert built["video"]["inputs"]["fps"] == 24

    def test_an_image_that_is_loaded_twice_is_taken_out_twice(self, tmp_path):
        kind = "first-last-frame"

        def change(files):
            graph, described = files[f"{kind}.json"], files["preset.json"]["kinds"][kind]
            graph["again"] = copy.deepcopy(graph["image"])
            graph["first_last_frame"]["inputs"]["clip_vision_start_image"] = ["again", 0]
            described["bindings"]["image"] = ["image.image", "again.image"]

        graph = workflow.build(self.read(tmp_path, change), kind, {"last_image": "b.png"})

        assert not {"image", "again"} & graph.keys()
        assert "clip_vision_start_image" not in graph["first_last_frame"]["inputs"]

    def test_model_files_of_other_loaders(self, tmp_path):
        def change(files):
            graph = files[GRAPH]
            graph["vision"] = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "v.safetensors"}}
            graph["upscaler"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "4x.pth"}}
            graph["low_noise_model"]["inputs"]["unet_name"] = "wan/low.gguf"
            graph["text_encoder"]["inputs"]["clip_name"] = "umt5.GGUF"
            graph["decode"]["inputs"] |= {"vision": ["vision", 0], "upscaler": ["upscaler", 0]}

        files = self.read(tmp_path, change).files_of("text-to-video")

        assert {
            ("clip_vision", "v.safetensors"),
            ("upscale_models", "4x.pth"),
            ("unet_gguf", "wan/low.gguf"),
            ("clip_gguf", "umt5.GGUF"),
        } <= set(files)
