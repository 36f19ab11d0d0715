"""The driver against ComfyUI's protocol: the simulator, like an old and like a newer ComfyUI; a real one in
`make test-comfyui`.

A real one needs the model files of both presets (tiny ones will do: sizes are cut down here), and for the
faults the TestFault node of the tests; without it those tests fail.
"""

import io
import time
import uuid

import av
import pytest
import requests

from comfy import presets, warmup, workflow
from comfy.answers import Failed, FileGone, Lacking, Refused, Rendered, Unfit, Unreachable
from comfy.client import Comfy
from comfy.listener import Listener
from jobs.models.job import folder
from tests.factories import picture
from tests.stack import NEWER_URL, REAL_COMFYUI, S3_URL, SIMULATOR_URL

URLS = [REAL_COMFYUI] if REAL_COMFYUI else [SIMULATOR_URL, NEWER_URL]
PATIENCE = 300 if REAL_COMFYUI else 20
MARK = "the-tests"

only_simulator = pytest.mark.skipif(bool(REAL_COMFYUI), reason="a fault that a real ComfyUI has not on order")


@pytest.fixture(params=URLS, ids=["real"] if REAL_COMFYUI else ["0.3.64", "newer"])
def url(request):
    return request.param


@pytest.fixture
def comfy(url):
    with Comfy(url) as comfy:
        yield comfy
        queue = comfy.queue()
        for prompt_id in queue.marked(MARK):
            comfy.cancel(prompt_id)
        wait(lambda: not comfy.queue().marked(MARK))


@pytest.fixture
def listener(url):
    with Listener(url) as listener:
        assert listener.changed.wait(10)  # connected: the first message is a status
        yield listener


def wait(condition):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class Prompt:
    """A prompt of our own, small, with a folder and a seed that no other has."""

    def __init__(self, comfy, kind="text-to-video", preset="fast", fault=None, seconds=0.0, **options):
        self.comfy, self.kind, self.id = comfy, kind, str(uuid.uuid4())
        self.preset = presets.find(preset)
        self.folder = folder(uuid.UUID(self.id))
        defaults = {"prompt": "A (very: nice) cat", "seed": uuid.UUID(self.id).int % 2**48}
        small = {"width": 64, "height": 64, "num_frames": 5}
        values = {"prefix": f"{self.folder}/1"} | defaults | small | options
        self.graph = workflow.build(self.preset, kind, values)
        if fault:
            inputs = {"images": ["decode", 0], "kind": fault, "seconds": seconds}
            self.graph["fault"] = {"class_type": "TestFault", "inputs": inputs}
            self.graph["video"]["inputs"]["images"] = ["fault", 0]

    def steps(self):
        return workflow.steps(self.preset, self.graph)

    def post(self):
        self.comfy.submit(self.id, self.graph, MARK)
        return self

    def running(self):
        return wait(lambda: self.id in self.comfy.queue().running)

    def result(self):
        wait(lambda: self.id not in self.comfy.queue())
        return self.comfy.result(self.id, self.folder)


def test_it_lists_the_model_files_that_are_missing(comfy):
    files = [*presets.find("fast").files, ("vae", "none.safetensors"), ("no_such_folder", "x")]

    assert comfy.missing(files) == ["vae/none.safetensors", "no_such_folder/x"]


def test_it_tells_the_version(comfy):
    assert str(comfy.system()).startswith("ComfyUI 0.")
    assert comfy.system().was_tried


@pytest.mark.parametrize("preset", presets.names())
@pytest.mark.parametrize("kind", presets.KINDS)
def test_a_prompt_becomes_a_video_in_the_jobs_own_folder(comfy, kind, preset):
    path = comfy.upload_image("wanapi/tests", "input.png", io.BytesIO(picture()))
    prompt = Prompt(comfy, kind, preset=preset, image=path, last_image=path)

    result = prompt.post().result()

    assert result == Rendered("1_00001_.mp4")
    with comfy.open_output(prompt.folder, result.filename) as chunks:
        with av.open(io.BytesIO(b"".join(chunks))) as video:
            assert sum(1 for _ in video.decode(video=0)) == 5


def test_progress_comes_over_the_socket_for_a_prompt_that_another_worker_posted(comfy, url):
    # So that the socket is open in time; a real ComfyUI answers 405 and is slow by itself.
    requests.post(f"{url}/simulator/faults", json={"kind": "slow", "seconds": 1}, timeout=5)
    prompt = Prompt(comfy, preset="quality").post()
    with Listener(url) as late:
        seen = []
        while prompt.id in comfy.queue():
            seen.append(workflow.progress(prompt.steps(), late.nodes(prompt.id)))
            time.sleep(0.01)
        wait(lambda: workflow.progress(prompt.steps(), late.nodes(prompt.id)) == 99)

    assert seen == sorted(seen)


def test_the_socket_calls_when_a_prompt_starts_and_ends(comfy, listener):
    listener.changed.clear()
    prompt = Prompt(comfy).post()

    assert listener.changed.wait(PATIENCE)
    prompt.result()


def test_a_prompt_is_always_in_the_queue_or_in_the_history(comfy):
    """In this order; asked the other way round it can be missed."""
    prompt = Prompt(comfy).post()

    while prompt.id in comfy.queue():
        pass

    assert isinstance(comfy.result(prompt.id, prompt.folder), Rendered)


def test_of_an_unknown_prompt_nothing_is_known(comfy):
    assert str(uuid.uuid4()) not in comfy.queue()
    assert comfy.result(str(uuid.uuid4()), "x") is None


def test_a_forgotten_prompt_is_gone_and_its_file_is_not(comfy):
    prompt = Prompt(comfy).post()
    result = prompt.result()

    comfy.forget(prompt.id)

    assert comfy.result(prompt.id, prompt.folder) is None
    with comfy.open_output(prompt.folder, result.filename) as chunks:
        assert any(chunks)


def test_an_identical_prompt_names_the_old_file_and_another_prefix_a_new_one(comfy):
    first = Prompt(comfy).post()
    first.result()
    again, other = Prompt(comfy), Prompt(comfy)
    again.graph = first.graph
    other.graph = first.graph | {"save": other.graph["save"]}

    again.post(), other.post()

    wait(lambda: again.id not in comfy.queue() and other.id not in comfy.queue())
    assert isinstance(comfy.result(again.id, again.folder), Failed)  # the file is another job's
    # 0.3.68 to 0.27 tell no outputs of a prompt that had nothing to run.
    of_the_first = comfy.result(again.id, first.folder)
    assert of_the_first == Rendered("1_00001_.mp4") or of_the_first.message.endswith("without a video.")
    assert comfy.result(other.id, other.folder) == Rendered("1_00001_.mp4")


def test_a_file_that_is_not_there_is_gone_and_not_an_outage(comfy):
    with pytest.raises(FileGone), comfy.open_output("wanapi/none", "x.mp4"):
        pass


def test_cancel_takes_exactly_one_prompt(comfy):
    running = Prompt(comfy, fault="sleep_with_progress", seconds=60).post()
    waiting, staying = Prompt(comfy).post(), Prompt(comfy).post()
    running.running()

    comfy.cancel(waiting.id)
    assert waiting.id not in comfy.queue()
    assert comfy.result(waiting.id, waiting.folder) is None
    comfy.cancel(running.id)

    assert running.result() == Failed("interrupted", "The render was interrupted on the GPU server.", "")
    assert isinstance(staying.result(), Rendered)


def test_the_queue_tells_our_prompts_from_other_peoples(comfy):
    ours = Prompt(comfy, fault="sleep_with_progress", seconds=60).post()
    theirs = Prompt(comfy)
    comfy._json("POST", "/prompt", json={"prompt": theirs.graph, "prompt_id": theirs.id})

    queue = comfy.queue()

    assert queue.marked(MARK) == {ours.id}
    assert theirs.id in queue
    comfy.cancel(theirs.id)


def test_cancel_reaches_nobody_else_s_prompt(comfy):
    """Not even where the server can only look first and then interrupt whatever runs."""
    other = Prompt(comfy, fault="sleep_with_progress", seconds=1).post()
    other.running()

    comfy.cancel(str(uuid.uuid4()))

    assert isinstance(other.result(), Rendered)


def test_a_prompt_gets_through_to_it(comfy):
    comfy.check_prompts()


def test_it_tells_its_memory_and_what_nodes_it_lacks(comfy):
    assert comfy.system().memory > 1024**3
    assert comfy.missing_nodes([*presets.nodes(), "NoSuchNode"]) == ["NoSuchNode"]


def test_a_warm_up_runs_all_nodes_each_time_and_stays_known(comfy):
    """With the seed and the text of the one before ComfyUI would run none."""
    fast = presets.find("fast")
    warmup.chill(comfy)
    assert not warmup.is_warm(comfy, fast)
    for _ in range(2):
        assert [kind for kind, _ in warmup.warm_up(comfy, fast, ["text-to-video"])] == ["text-to-video"]

    assert warmup.is_warm(comfy, fast)
    prompt_id = warmup.prompt_id("fast/text-to-video")
    messages = dict(comfy._json("GET", f"/history/{prompt_id}")[prompt_id]["status"]["messages"])
    assert not {"prompt", "high_noise_sampler", "decode"} & set(messages["execution_cached"]["nodes"])
    fast = presets.find("fast")
    warmup.chill(comfy)
    assert not warmup.is_warm(comfy, fast)


class TestRefused:
    def test_a_missing_model_file_is_named(self, comfy):
        prompt = Prompt(comfy)
        prompt.graph["vae"]["inputs"]["vae_name"] = "none.safetensors"

        with pytest.raises(Lacking) as refused:
            prompt.post()
        assert refused.value.message == "ComfyUI lacks the model file vae/none.safetensors."
        assert refused.value.what == "vae/none.safetensors"

    def test_an_unknown_node_is_named(self, comfy):
        prompt = Prompt(comfy)
        prompt.graph["latent"]["class_type"] = "NoSuchNode"

        with pytest.raises(Lacking) as refused:
            prompt.post()
        assert refused.value.message == "ComfyUI does not know the node NoSuchNode; it needs an update."

    def test_a_bad_value_is_named_without_its_value(self, comfy):
        prompt = Prompt(comfy)
        prompt.graph["low_noise_sampler"]["inputs"]["steps"] = 0

        with pytest.raises(Refused) as refused:
            prompt.post()
        assert refused.value.message == "ComfyUI refused steps of KSamplerAdvanced."


class TestFailed:
    def test_a_failing_node_is_named_and_neither_path_nor_prompt_gets_out(self, comfy):
        result = Prompt(comfy, fault="raise", prompt="a secret").post().result()

        assert isinstance(result, Failed)
        assert (result.reason, result.message) == ("error", "ComfyUI failed in TestFault: ValueError.")
        assert "a test fault" in result.detail

    @pytest.mark.parametrize("fault", ["cuda_oom", "memory_error", "cpu_alloc"])
    def test_out_of_memory_is_told_apart(self, comfy, fault):
        result = Prompt(comfy, fault=fault).post().result()

        assert (result.reason, result.message) == ("out_of_memory", "The GPU ran out of memory.")


class TestUnreachable:
    def test_a_server_that_is_down(self):
        with Comfy("http://127.0.0.1:1") as comfy, pytest.raises(Unreachable) as error:
            comfy.queue()
        assert error.value.message == "The GPU server does not answer."

    def test_an_answer_that_is_no_comfyui(self):
        with Comfy(S3_URL) as comfy, pytest.raises(Unfit):
            comfy.queue()


class TestSocket:
    @only_simulator
    @pytest.mark.parametrize("trouble", ["silent_sockets", "close_sockets"])
    def test_one_that_falls_silent_is_replaced(self, comfy, url, trouble):
        with Listener(url, silence=0.5) as listener:
            listener.changed.wait(5)
            requests.post(f"{url}/simulator/faults", json={"kind": trouble}, timeout=5)
            prompt = Prompt(comfy, fault="sleep_with_progress", seconds=4).post()

            wait(lambda: listener.nodes(prompt.id))

    def test_messages_without_a_prompt_id_are_passed_over(self):
        listener = Listener("http://127.0.0.1:1")

        listener._take({"type": "executing", "data": {"node": "F"}})
        listener._take({"type": "progress_state", "data": {"nodes": {}}})
        listener._take({"type": "crystools.monitor", "data": None})

        assert not listener.changed.is_set()

    def test_it_waits_for_a_server_that_is_not_there_yet(self):
        with Listener("http://127.0.0.1:1") as listener:
            assert not listener.changed.wait(0.3)
