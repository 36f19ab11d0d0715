"""Entries of the history as other versions of ComfyUI and other nodes write them."""

import pytest

from comfy.answers import Lacking, Rendered, outcome, refusal


def failed(messages):
    return outcome({"status": {"status_str": "error", "messages": messages}}, "wanapi/x")


def error(kind, message):
    data = {"exception_type": kind, "exception_message": message, "node_type": "KSamplerAdvanced"}
    return failed([["execution_start", {}], ["execution_error", data | {"traceback": ["x"]}]])


def succeeded(outputs):
    return outcome({"status": {"status_str": "success"}, "outputs": outputs}, "wanapi/x")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torch.OutOfMemoryError", "Allocation on device \n"),
        ("torch.cuda.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.\n"),
        ("torch.AcceleratorError", "CUDA error: out of memory\nCUDA kernel errors might be ...\n"),
        ("RuntimeError", "CUDA error: out of memory\n"),
        ("RuntimeError", "HIP error: out of memory\n"),
        ("RuntimeError", "HostBuffer.read_file_slice failed\n"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\n"),
        ("MemoryError", "\n"),
        ("OSError", "[Errno 12] Cannot allocate memory\n"),
        ("RuntimeError", "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.\n"),
        ("OSError", "The paging file is too small for this operation to complete. (os error 1455)\n"),
        ("RuntimeError", "GET was unable to find an engine; Unable to find a valid cuDNN algorithm\n"),
        ("Exception", "This error means you ran out of memory on your GPU.\n"),
    ],
)
def test_out_of_memory_in_every_form(kind, message):
    assert error(kind, message).reason == "out_of_memory"


@pytest.mark.parametrize(
    "message",
    ["CUDA error: an illegal memory access was encountered\n", "HIP error: unspecified launch\n"],
)
def test_a_gpu_that_failed_is_told_apart_from_a_node_that_did(message):
    assert error("torch.AcceleratorError", message).reason == "gpu"


@pytest.mark.parametrize("message", ["the memory of things\n", "shape '[1, 2]' is invalid\n", ""])
def test_other_errors_are_the_node_s(message):
    assert error("RuntimeError", message).reason == "error"


@pytest.mark.parametrize(
    "messages", [None, [], "x", [None], [["execution_error"]], [["execution_error", None]]]
)
def test_messages_of_another_shape_are_a_failure_too(messages):
    assert failed(messages).reason == "error"


@pytest.mark.parametrize(
    "other",
    [None, "a text", 5, [[1, 2]], ["a text"], [None], {"deep": [{"x": 1}]}, [{"filename": None}], True],
    ids=repr,
)
def test_values_of_other_nodes_do_not_hide_the_video(other):
    video = {"filename": "1_00001_.mp4", "subfolder": "wanapi/x", "type": "output", "id": "7"}
    outputs = {"1": {"text": other}, "2": other, "save": {"images": [video], "animated": [True]}}

    assert succeeded(outputs) == Rendered("1_00001_.mp4")


@pytest.mark.parametrize("outputs", [None, {}, [], {"9": {"images": [{"filename": "a.png"}]}}], ids=repr)
def test_a_success_without_a_video_is_a_failure(outputs):
    assert succeeded(outputs).message == "ComfyUI finished without a video."


@pytest.mark.parametrize("name", ["WanImageToVideo", "Power Lora Loader (rgthree)"])
def test_an_unknown_node_of_a_pack_makes_the_job_wait_whatever_its_name(name):
    message = f"Cannot execute because node {name} does not exist."

    told = refusal({"error": {"type": "invalid_prompt", "message": message}}, {})

    assert isinstance(told, Lacking)
    assert told.what == f"node {name}"


def test_a_file_of_a_loader_that_has_a_folder_of_its_own():
    node = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "v.safetensors"}}
    problem = {"type": "value_not_in_list", "extra_info": {"input_name": "clip_name"}}
    errors = {"7": {"errors": [problem], "class_type": "CLIPVisionLoader"}}

    told = refusal({"error": {}, "node_errors": errors}, {"7": node})

    assert isinstance(told, Lacking)
    assert told.what == "clip_vision/v.safetensors"
