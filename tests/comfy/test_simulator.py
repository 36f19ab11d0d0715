"""What the simulator draws, and how long it takes."""

import asyncio
import io
import uuid
from dataclasses import replace

import av
import pytest
from PIL import Image

from comfy import presets, workflow
from comfy.client import Comfy
from comfy.simulator import testcard
from comfy.simulator.nodes import MODELS
from comfy.simulator.state import State
from comfy.simulator.worker import PromptWorker
from jobs.models.job import folder
from tests.factories import eventually
from tests.stack import SIMULATOR_URL

SIZES = [(832, 480), (480, 832), (1280, 720), (624, 624), (64, 64)]
RED, BLUE = {(1, 0, 0)}, {(0, 0, 1)}


def banner(colour):
    """White at both sides: cut at its centre to a square it has one colour."""
    image = Image.new("RGB", (300, 100), "white")
    image.paste(colour, (90, 0, 210, 100))
    return image


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def row(frame):
    """At three quarters of the height, where nothing is written."""
    top = frame.height * 3 // 4
    return frame.crop((0, top, frame.width, top + 1))


def colours(frame):
    """Of that row; 1 is more than half."""
    return {tuple(round(value / 255) for value in colour) for _, colour in row(frame).getcolors()}


def graph_of(kind, size, prefix="p/1"):
    """Without an image."""
    width, height, length = size
    values = {
        "prompt": "A cat",
        "seed": 7,
        "prefix": prefix,
        "size": f"{width}x{height}",
        "num_frames": length,
    }
    return workflow.build(presets.find("fast"), kind, values)


def size_node(graph):
    return graph.get("latent") or graph["image_to_video"]


def rendered(length, class_type="WanFirstLastFrameToVideo", **images):
    """The frames of a video that the driver had made of images by the names of their inputs."""
    prompt_id = uuid.uuid4()
    place = folder(prompt_id)
    graph = graph_of("image-to-video", (64, 64, length), f"{place}/1")
    node = size_node(graph)
    node["class_type"] = class_type
    with Comfy(SIMULATOR_URL) as comfy:
        for name, image in images.items():
            path = comfy.upload_image(place, f"{name}.png", png(image))
            graph[name] = {"class_type": "LoadImage", "inputs": {"image": path}}
            node["inputs"][name] = [name, 0]
        comfy.submit(str(prompt_id), graph, None)
        eventually(lambda: str(prompt_id) not in comfy.queue())
        result = comfy.result(str(prompt_id), place)
        with comfy.open_output(place, result.filename) as chunks:
            with av.open(io.BytesIO(b"".join(chunks))) as video:
                return [frame.to_image() for frame in video.decode(video=0)]


class TestFirstAndLastFrame:
    def test_the_video_begins_with_the_one_and_ends_with_the_other(self):
        frames = rendered(5, start_image=banner("red"), end_image=banner("blue"))

        assert [colours(frame) for frame in (frames[0], frames[-1])] == [RED, BLUE]

    def test_a_first_frame_alone_stays(self):
        assert [colours(frame) for frame in rendered(5, start_image=banner("red"))] == [RED] * 5

    def test_a_last_frame_alone_is_seen_at_the_end_only(self):
        frames = rendered(5, end_image=banner("blue"))

        assert [len(colours(frame)) for frame in frames[:2]] == [7, 7]  # the colour bars
        assert colours(frames[-1]) == BLUE

    def test_the_node_without_a_last_frame_takes_none(self):
        frames = rendered(5, "WanImageToVideo", start_image=banner("red"), end_image=banner("blue"))

        assert [colours(frame) for frame in frames] == [RED] * 5

    def test_of_a_single_frame_the_last_one_wins(self):
        """As in ComfyUI, which lays it over the first one."""
        frames = rendered(1, start_image=banner("red"), end_image=banner("blue"))

        assert [colours(frame) for frame in frames] == [BLUE]


def card(size, text="A cat", frames=81, **fields):
    scene = testcard.Scene(*size, frames, text=text, seed=2**48 - 1, **fields)
    return testcard.ImageCard(scene, 16) if scene.start or scene.end else testcard.BarsCard(scene, 16)


def word(image, size):
    """The band in which SIMULATED stands."""
    band = testcard.simulated_stamp(*size)
    above = (image.height - band.height) // 2
    return image.crop((0, above, image.width, above + band.height))


@pytest.mark.parametrize("size", SIZES)
class TestCard:
    def test_the_first_and_last_frame_are_the_images_to_the_pixel(self, size):
        """But for what is written on them: nothing is on the row at three quarters of the height."""
        start, end = Image.radial_gradient("L"), Image.linear_gradient("L").rotate(90)
        of_images = card(size, "A long prompt " * 99, start=start, end=end)

        for index, image in ((0, start), (80, end)):
            assert row(of_images.frame(index)) == row(testcard.covering(image, *size))

    def test_no_prompt_covers_the_word_simulated(self, size):
        image = Image.new("RGB", (9, 9), "red")

        with_text, without = (
            [word(card(size, text, start=image).frame(index), size).tobytes() for index in (0, 40, 80)]
            for text in ("A long prompt " * 99, "")
        )

        assert with_text == without
        _, (_, green), _ = word(card(size, start=image).frame(0), size).getextrema()
        assert green > 200  # the letters are white

    @pytest.mark.parametrize("fields", [{"start": Image.new("RGB", (9, 9))}, {}], ids=["image", "text"])
    @pytest.mark.parametrize("other", [{"steps": 20}, {"frames": 85}], ids=["steps", "frames"])
    def test_it_tells_the_steps_and_frames_where_there_is_room(self, size, fields, other):
        one = {"steps": 4, **fields}
        cards = (card(size, **facts) for facts in (one, one | other))
        first, second = (each.overlay if fields else each.background for each in cards)

        assert (first != second) == (size != (64, 64))


def test_the_facts_are_those_of_the_video():
    scene = testcard.Scene(832, 480, 81, seed=7, steps=20)

    assert testcard.facts(scene, 16.0).endswith("832x480   81 frames   16 fps   20 steps   seed 7")
    one = replace(scene, frames=1, steps=1)
    assert testcard.facts(one, 23.976).endswith("832x480   1 frame   23.976 fps   1 step   seed 7")


class TestTime:
    """On a clock that only counts; the unit is a step of 832x480 with 81 frames."""

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        """Runs a graph up to its decode: the seconds that it took, and the scene that came out."""
        pauses, pause = [], asyncio.sleep

        async def sleep(seconds):
            pauses.append(seconds)
            await pause(0)

        async def wait_for(waiting, seconds):
            waiting.close()
            await sleep(seconds)
            raise TimeoutError

        async def run(graph):
            state = State(tmp_path, MODELS, seconds_per_step=1)
            worker = PromptWorker(state)
            state.put((0, "id", graph, {}, ["decode"]))
            while "id" not in state.history:
                await pause(0.001)
            assert state.history["id"]["status"]["completed"]
            return sum(pauses), list(worker.cache.values())[-1].values[0]

        monkeypatch.setattr(asyncio, "sleep", sleep)
        monkeypatch.setattr(asyncio, "wait_for", wait_for)
        return lambda graph: asyncio.run(run(graph))

    @pytest.mark.parametrize(
        ("size", "part"),
        [
            ((832, 480, 81), 1),
            ((480, 832, 81), 1),
            ((416, 480, 81), 0.5),
            ((832, 240, 81), 0.5),
            ((1664, 960, 81), 4),
            ((832, 480, 1), 1 / 81),
            ((832, 480, 161), 161 / 81),
        ],
    )
    @pytest.mark.parametrize(
        ("node", "steps"),
        [("EmptyHunyuanLatentVideo", 7), ("WanImageToVideo", 8), ("WanFirstLastFrameToVideo", 8)],
    )
    def test_it_is_by_pixels_and_frames(self, run, size, part, node, steps):
        """4 steps; the VAE's decoding takes as long as 3 and its encoding as long as 1."""
        graph = graph_of("text-to-video" if steps == 7 else "image-to-video", size)
        size_node(graph)["class_type"] = node

        assert run(graph)[0] == pytest.approx(steps * part, rel=1e-12)

    @pytest.mark.parametrize("split", [0, 2, 4])
    def test_the_steps_of_both_samplers_count(self, run, split):
        """Also where one of them has none."""
        graph = graph_of("text-to-video", (832, 480, 81))
        graph["high_noise_sampler"]["inputs"]["end_at_step"] = split
        graph["low_noise_sampler"]["inputs"]["start_at_step"] = split

        seconds, scene = run(graph)

        assert (seconds, scene.steps) == (7, 4)
