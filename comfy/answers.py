"""What ComfyUI's answers mean: the errors that the driver raises, the values that it gives, and how statuses,
refused prompts and entries of the history are judged. Nothing here uses the network.

It follows ComfyUI 0.3.64, and newer versions where they differ (its ``server.py`` and ``execution.py``). The
versions that were tried are in ``docs/operations.md``.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import requests

from comfy.presets import Graph, model_files

TRIED = ("0.3.64", "0.4.0", "0.10.0", "0.20.1", "0.27.0", "0.33.0")  # of ComfyUI: docs/operations.md
NO_COMFYUI = "What answers at COMFYUI_URL is not ComfyUI, or something in front of it answers in its place."
UNFIT = {  # statuses that are about the server and never about a job, with a sentence for the operator
    401: "ComfyUI, or a server in front of it, asks for a password: COMFYUI_URL can hold one.",
    404: NO_COMFYUI,
    405: NO_COMFYUI,
    407: "A proxy in front of ComfyUI asks for a password.",
    408: "A server in front of ComfyUI waits too short a time.",
    429: "A server in front of ComfyUI lets too few requests through.",
}
# How torch, CUDA, the host and ComfyUI report these errors: by the name of a class, or by the text alone.
MEMORY = re.compile(
    "OutOfMemoryError|MemoryError|out of memory|not enough memory|allocate memory|Allocation on device"
    "|ALLOC_FAILED|HostBuffer.read_file_slice failed|paging file|cuDNN algorithm",
    re.IGNORECASE,
)
GPU = re.compile("CUDA (driver |unknown )?error|HIP error|CUDNN_STATUS|No CUDA GPUs|GPU is lost", re.I)
NO_SPACE = re.compile("No space left on device|Disk quota exceeded")
NO_ACCESS = re.compile("Permission denied|Read-only file system")


class ComfyError(Exception):
    """``message`` is one plain sentence, without addresses and paths. ``detail`` is for operators. Only its
    first line goes to the log, since the rest may quote the prompt."""

    def __init__(self, message: str, detail: str = ""):
        super().__init__(f"{message} {detail}".strip())
        self.message = message
        self.detail = detail
        self.log = f"{message} {detail.partition(chr(10))[0]}".strip()


class Unreachable(ComfyError):
    """No answer, or one that only a server in trouble gives. It says nothing about any prompt."""


class Unfit(Unreachable):
    """What answers cannot be used as it is: it is no ComfyUI, or something in front of it needs an operator.
    The message says what he can do."""


class Denied(ComfyError):
    """A request of one job was not taken, and the answer does not tell whether the job or the server is the
    reason. ``lasting``: the same request will hardly pass a moment later."""

    def __init__(self, message: str, detail: str = "", *, lasting: bool):
        super().__init__(message, detail)
        self.lasting = lasting


class Refused(ComfyError):
    """ComfyUI will never take this job's image or graph."""


class Lacking(Refused):
    """ComfyUI would take the graph if it had the model file or node ``what``."""

    def __init__(self, message: str, detail: str, what: str):
        super().__init__(message, detail)
        self.what = what


class FileGone(ComfyError):
    """The history names an output that is no longer there."""


@dataclass(frozen=True)
class Queue:
    """The prompts that run and that wait, by prompt id. The value is our mark, or None for other people's."""

    running: dict[str, str | None]
    pending: dict[str, str | None]

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.pending

    def marked(self, mark: str) -> set[str]:
        return {
            prompt_id
            for prompt_id, theirs in (self.running | self.pending).items()
            if theirs is not None and theirs == mark
        }


@dataclass(frozen=True)
class System:
    """What ComfyUI tells of itself: its version, and its first device with its bytes of memory."""

    version: str
    device: str
    memory: int

    def __str__(self) -> str:
        return f"ComfyUI {self.version}, {self.device}"

    @property
    def was_tried(self) -> bool:
        return self.version in TRIED


@dataclass(frozen=True)
class Rendered:
    """The prompt succeeded. ``filename`` lies in the folder that the render's prefix names."""

    filename: str


@dataclass(frozen=True)
class Failed:
    """The prompt ended without a video. ``message`` and ``detail`` as in ComfyError."""

    reason: Literal["error", "out_of_memory", "gpu", "no_space", "no_access", "interrupted"]
    message: str
    detail: str


def check(response: requests.Response, of_job: bool = False) -> None:
    """Raises the error that the status means, unless it is a success. ``of_job``: the request brought
    something of one job, which may itself be the reason."""
    status, request = response.status_code, response.request
    if status < 300:
        return
    # The log gets the first line alone: an answer may quote the prompt.
    text = f"{request.method} {request.path_url}: {status}\n{response.text[:500]}"
    if status < 400:
        raise Unfit("COMFYUI_URL leads to a redirect: name the address of ComfyUI itself.", text)
    if status in UNFIT:
        raise Unfit(f"{UNFIT[status]} ({status})", text)
    if of_job and status == 413:
        raise Refused("The job is larger than a server in front of ComfyUI lets through (413).", text)
    if of_job:
        sentence = f"ComfyUI, or a server in front of it, denies a request of this job ({status})."
        raise Denied(sentence, text, lasting=status < 500)
    if status >= 500:
        raise Unreachable("The GPU server is in trouble.", text)
    raise Unfit(f"A server in front of ComfyUI denies requests ({status}).", text)


def decoded(response: requests.Response) -> Any:
    """The value of a JSON answer. Raises Unfit if it is no JSON."""
    try:
        return response.json()
    except ValueError as error:
        text = f"{response.request.method} {response.request.path_url}: {error}"
        raise Unfit(NO_COMFYUI, text) from error


@contextmanager
def shape(path: str) -> Iterator[None]:
    """For the code that reads an answer: raises Unfit if the answer has another shape than ComfyUI's."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise Unfit(NO_COMFYUI, f"{path}: {type(error).__name__}: {error}") from error


def own_error(response: requests.Response) -> Any:
    """The error in ComfyUI's own words; None if the answer has none, as that of a server in front of it."""
    try:
        error = response.json()["error"]
        return error if isinstance(error["type"], str) and isinstance(error["message"], str) else None
    except (ValueError, KeyError, TypeError):
        return None


def outcome(entry: dict[str, Any], folder: str) -> Rendered | Failed:
    """How a prompt ended, from its entry in the history. A video counts if it lies in ``folder``. Raises
    KeyError or TypeError where the entry has no status."""
    if entry["status"]["status_str"] == "success":
        return _saved(entry.get("outputs"), folder)
    return _failed(entry["status"].get("messages"))


def _saved(outputs: Any, folder: str) -> Rendered | Failed:
    """Finds the video by the ending of its name: SaveVideo puts it under ``images``, other nodes use other
    keys. Nodes put other values there, too: texts, numbers, lists of lists."""
    for item in _objects(outputs):
        name, place = str(item.get("filename")), str(item.get("subfolder"))
        if name.endswith(".mp4") and place.replace("\\", "/") == folder:
            return Rendered(name)
    return Failed("error", "ComfyUI finished without a video.", f"outputs: {outputs}")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All JSON objects in a value, however deep."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _objects(part)


def _failed(messages: Any) -> Failed:
    """An error and an interruption differ only in the last message."""
    try:
        event, data = messages[-1]
        data = dict(data)
    except (IndexError, TypeError, ValueError):
        event, data = "", {}
    if event == "execution_interrupted":
        return Failed("interrupted", "The render was interrupted on the GPU server.", "")
    kind, message = str(data.get("exception_type", "unknown error")), str(data.get("exception_message", ""))
    # For operators only: ComfyUI's message can hold paths. The node's inputs, which can hold the client's
    # text, are left out.
    traceback = data.get("traceback")
    detail = f"{kind}: {message}{''.join(map(str, traceback)) if isinstance(traceback, list) else ''}"
    if MEMORY.search(f"{kind} {message}"):
        return Failed("out_of_memory", "The GPU ran out of memory.", detail)
    if GPU.search(message):
        return Failed("gpu", "The GPU failed.", detail)
    if NO_SPACE.search(message):
        return Failed("no_space", "The GPU server's disk is full.", detail)
    if NO_ACCESS.search(message):
        return Failed("no_access", "ComfyUI may not write its files.", detail)
    node = data.get("node_type", "an unknown node")
    return Failed("error", f"ComfyUI failed in {node}: {kind.rsplit('.', 1)[-1]}.", detail)


def refusal(answer: dict[str, Any], graph: Graph) -> Refused:
    """The error for the answer to a refused POST /prompt, whatever shape its details have."""
    try:
        return _reason(answer, graph)
    except (KeyError, IndexError, TypeError, AttributeError):
        return Refused("ComfyUI refused the workflow.", f"{answer}"[:2000])


def _reason(answer: dict[str, Any], graph: Graph) -> Refused:
    """One sentence that names what ComfyUI lacks or does not like."""
    error = answer.get("error") or {}
    detail = f"{error.get('message', '')} {error.get('details', '')} {answer.get('node_errors')}"
    if node := _unknown_node(error):
        return Lacking(f"ComfyUI does not know the node {node}; it needs an update.", detail, f"node {node}")
    for node_id, problems in (answer.get("node_errors") or {}).items():
        for problem in problems["errors"]:
            name = problem.get("extra_info", {}).get("input_name", "")
            files = {into: f"{folder}/{file}" for into, folder, file in model_files(graph[node_id])}
            if problem["type"] == "value_not_in_list" and (file := files.get(name)):
                return Lacking(f"ComfyUI lacks the model file {file}.", detail, file)
            return Refused(f"ComfyUI refused {name or 'an input'} of {problems['class_type']}.", detail)
    return Refused("ComfyUI refused the workflow.", detail)


def _unknown_node(error: dict[str, Any]) -> str | None:
    """The class of the node, or None for another error. Since ComfyUI 0.12 this error has its own type."""
    if error.get("type") == "missing_node_type":
        return str((error.get("extra_info") or {}).get("class_type") or "of a custom pack")
    match = re.search(r"node (.+) does not exist", error.get("message", ""))
    return match[1] if match else None
