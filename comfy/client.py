"""ComfyUI's HTTP API, as one renderer needs it: upload, submit, look, cancel, fetch, forget.

ComfyUI keeps its queue and history in memory, does not de-duplicate prompt ids, and answers a lookup of
something unknown with an empty 200. So nothing here is an event: the caller asks for the state again and
again and acts on what it is. ``comfy.listener`` makes that quick and adds progress.

Protocol as of ComfyUI 0.3.64 (``server.py``, ``execution.py``).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import requests

from comfy.workflow import MODEL_FOLDERS, Graph

CONNECT_TIMEOUT, READ_TIMEOUT = 3, 10  # seconds
VIDEO_ROOM = 32 * 1024 * 1024  # bytes
MARK = "wanapi"  # our key in a prompt's extra_data


class ComfyError(Exception):
    """``message`` is one plain sentence fit for a client; ``detail`` is for the log."""

    retryable = False

    def __init__(self, message: str, detail: str = ""):
        super().__init__(f"{message} {detail}".strip())
        self.message = message
        self.detail = detail


class Unreachable(ComfyError):
    """No answer, or one that only a server in trouble gives. Says nothing about any prompt."""

    retryable = True


class Refused(ComfyError):
    """ComfyUI will never run this graph."""


class FileGone(ComfyError):
    """The history names an output that is no longer there."""


@dataclass(frozen=True)
class Queue:
    """Who waits and who runs, by prompt id; the value is our mark, or None for other people's prompts."""

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
class Rendered:
    """The prompt succeeded. ``filename`` lies in the folder that the render's prefix names."""

    filename: str


@dataclass(frozen=True)
class Failed:
    """The prompt ended without a video. ``message`` and ``detail`` as in ComfyError."""

    reason: Literal["error", "out_of_memory", "no_space", "interrupted"]
    message: str
    detail: str


class Comfy:
    """One ComfyUI server. Every method raises Unreachable when it does not answer. For one thread only."""

    def __init__(self, url: str, read_timeout: float = READ_TIMEOUT):
        self.url = url.rstrip("/")
        self._timeout = (CONNECT_TIMEOUT, read_timeout)
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment is not meant for the GPU next door

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> "Comfy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def version(self) -> str:
        """ComfyUI's version and its first device, for people."""
        stats = self._json("GET", "/system_stats")
        devices = stats.get("devices") or [{}]
        version = stats.get("system", {}).get("comfyui_version") or "unknown"
        return f"ComfyUI {version}, {devices[0].get('name', 'no device')}"

    def missing(self, files: list[tuple[str, str]]) -> list[str]:
        """Those of the (folder, name) model files that ComfyUI does not list, as ``folder/name``."""
        listed = {folder: set(self._models(folder)) for folder in {folder for folder, _ in files}}
        return [f"{folder}/{name}" for folder, name in files if name not in listed[folder]]

    def _models(self, folder: str) -> list[str]:
        response = self._request("GET", f"/models/{folder}")
        if response.status_code == 404:
            return []
        self._check(response)
        return self._decoded(response)

    def upload_image(self, folder: str, name: str, image: IO[bytes]) -> str:
        """Puts a start image below ComfyUI's input folder and returns its path there, for LoadImage."""
        answer = self._json(
            "POST",
            "/upload/image",
            files={"image": (name, image, "image/png")},
            data={"subfolder": folder, "overwrite": "true"},
        )
        return f"{answer['subfolder']}/{answer['name']}"

    def submit(self, prompt_id: str, graph: Graph, mark: str | None) -> None:
        """Queues the graph under our prompt id. Look first: the same id twice runs twice.

        ``mark`` tells a job's prompts from other people's; None for one of no job.

        Sent without a client id: progress then goes to every socket, so that it reaches one that
        was opened later, by this worker or by its successor.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "extra_data": {MARK: mark} if mark else {}}
        response = self._request("POST", "/prompt", json=body)
        if response.status_code == 400:
            raise _refusal(self._decoded(response), graph)
        self._check(response)
        answer = self._decoded(response)
        if answer.get("node_errors"):
            self.cancel(prompt_id)
            raise _refusal(answer, graph)

    def queue(self) -> Queue:
        answer = self._json("GET", "/queue")
        return Queue(
            running={item[1]: (item[3] or {}).get(MARK) for item in answer["queue_running"]},
            pending={item[1]: (item[3] or {}).get(MARK) for item in answer["queue_pending"]},
        )

    def result(self, prompt_id: str, folder: str) -> Rendered | Failed | None:
        """What the history says of a prompt; None if it does not know it.

        Ask for the queue first: a prompt moves from pending to running to history and never back,
        so one that is missing from both, in this order, is lost.
        """
        entry = self._json("GET", f"/history/{prompt_id}").get(prompt_id)
        if entry is None:
            return None
        if entry["status"]["status_str"] == "success":
            return _rendered(entry["outputs"], folder)
        return _failed(entry["status"]["messages"])

    def cancel(self, prompt_id: str) -> None:
        """Takes exactly this prompt out of the queue, or interrupts it if it runs. Look again afterwards:
        ComfyUI does not say whether it took effect, and a decode runs on to its end."""
        self._check(self._request("POST", "/queue", json={"delete": [prompt_id]}))
        self._check(self._request("POST", "/interrupt", json={"prompt_id": prompt_id}))

    def forget(self, prompt_id: str) -> None:
        """Removes a prompt's history entry, which holds its graph and so the client's text."""
        self._check(self._request("POST", "/history", json={"delete": [prompt_id]}))

    def free(self) -> None:
        """Unloads the models and empties the node cache, after the GPU ran out of memory."""
        self._check(self._request("POST", "/free", json={"unload_models": True, "free_memory": True}))

    def has_space(self) -> bool:
        """Whether a file of a video's size can be written there; it stays, among the temporary ones."""
        files = {"image": ("space.bin", b"\0" * VIDEO_ROOM)}
        data = {"type": "temp", "subfolder": "wanapi", "overwrite": "true"}
        return self._request("POST", "/upload/image", files=files, data=data).ok

    @contextmanager
    def open_output(self, folder: str, filename: str) -> Iterator[Iterator[bytes]]:
        """The bytes of an output file, in chunks. Raises FileGone if it is not there."""
        response = self._request("GET", "/view", params=_view(folder, filename), stream=True)
        with response:
            if response.status_code == 404:
                raise FileGone("The rendered video is no longer on the GPU server.", f"{folder}/{filename}")
            self._check(response)
            yield self._chunks(response)

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_content(1 << 18)
        except requests.RequestException as error:
            raise Unreachable("The GPU server broke off while sending the video.", str(error)) from error

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self._request(method, path, **options)
        self._check(response)
        return self._decoded(response)

    @staticmethod
    def _decoded(response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            text = f"{response.url}: {error}"
            raise Unreachable("The GPU server's answer made no sense.", text) from error

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(method, self.url + path, timeout=self._timeout, **options)
        except requests.RequestException as error:
            raise Unreachable("The GPU server does not answer.", f"{method} {path}: {error}") from error

    @staticmethod
    def _check(response: requests.Response) -> None:
        if not response.ok:
            text = f"{response.request.method} {response.url}: {response.status_code} {response.text[:500]}"
            raise Unreachable("The GPU server is in trouble.", text)


def _view(folder: str, filename: str) -> dict[str, str]:
    return {"filename": filename, "subfolder": folder, "type": "output"}


def _rendered(outputs: dict[str, Any], folder: str) -> Rendered | Failed:
    """SaveVideo's file stands under ``images``, other savers use other keys: told by its ending."""
    items = [item for output in outputs.values() for group in output.values() for item in group]
    files = [item for item in items if isinstance(item, dict) and item.get("filename", "").endswith(".mp4")]
    for item in files:
        if item["subfolder"].replace("\\", "/") == folder:
            return Rendered(item["filename"])
    return Failed("error", "ComfyUI finished without a video.", f"outputs: {outputs}")


def _failed(messages: list[list[Any]]) -> Failed:
    """An error and an interruption look alike but for the last message."""
    event, data = messages[-1] if messages else ("", {})
    if event == "execution_interrupted":
        return Failed("interrupted", "The render was interrupted on the GPU server.", "")
    kind = str(data.get("exception_type", "unknown error"))
    # The message can hold paths, the inputs hold the client's text: neither leaves the log.
    detail = f"{kind}: {data.get('exception_message', '')}{''.join(data.get('traceback', []))}"
    if "OutOfMemoryError" in kind:
        return Failed("out_of_memory", "The GPU ran out of memory.", detail)
    if "No space left on device" in detail:
        return Failed("no_space", "The GPU server's disk is full.", detail)
    node = data.get("node_type", "an unknown node")
    return Failed("error", f"ComfyUI failed in {node}: {kind.rsplit('.', 1)[-1]}.", detail)


def _refusal(answer: dict[str, Any], graph: Graph) -> Refused:
    """One sentence that names what ComfyUI lacks, from the answer to a refused POST /prompt."""
    error = answer.get("error") or {}
    detail = f"{error.get('message', '')} {error.get('details', '')} {answer.get('node_errors')}"
    unknown = re.search(r"node (\S+) does not exist", error.get("message", ""))
    if unknown:
        return Refused(f"ComfyUI does not know the node {unknown[1]}; it needs an update.", detail)
    for node_id, problems in (answer.get("node_errors") or {}).items():
        for problem in problems["errors"]:
            name = problem.get("extra_info", {}).get("input_name", "")
            if problem["type"] == "value_not_in_list" and name in MODEL_FOLDERS:
                file = graph[node_id]["inputs"][name]
                return Refused(f"ComfyUI lacks the model file {MODEL_FOLDERS[name]}/{file}.", detail)
            return Refused(f"ComfyUI refused {name or 'an input'} of {problems['class_type']}.", detail)
    return Refused("ComfyUI refused the workflow.", detail)
