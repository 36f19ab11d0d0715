"""ComfyUI's HTTP API, as one renderer needs it: upload, submit, look, cancel, fetch, forget.

ComfyUI keeps its queue and history in memory, does not de-duplicate prompt ids, and answers a lookup of
something unknown with an empty 200. So nothing here is an event: the caller asks for the state again and
again and acts on what it is. ``comfy.listener`` makes that quick and adds progress.

Protocol of ComfyUI 0.3.64 and what newer ones changed (``server.py``, ``execution.py``). Which versions were
tried stands in ``docs/operations.md``.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal
from urllib.parse import urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url

from comfy.presets import MODEL_FOLDERS, Graph

CONNECT_TIMEOUT, READ_TIMEOUT = 3, 10  # seconds
VIDEO_ROOM = 32 * 1024 * 1024  # bytes
MARK = "wanapi"  # our key in a prompt's extra_data

TRIED = ("0.3.64", "0.4.0", "0.10.0", "0.20.1", "0.27.0", "0.33.0")  # of ComfyUI: docs/operations.md
NO_COMFYUI = "What answers at COMFYUI_URL is not ComfyUI, or something in front of it answers in its place."
UNFIT = {  # statuses that are about the server, whoever asks: what an operator can do
    401: "ComfyUI, or a server in front of it, asks for a password: COMFYUI_URL can hold one.",
    404: NO_COMFYUI,
    405: NO_COMFYUI,
    407: "A proxy in front of ComfyUI asks for a password.",
    408: "A server in front of ComfyUI waits too short a time.",
    429: "A server in front of ComfyUI lets too few requests through.",
}
# How torch, CUDA, the host and ComfyUI say it: by a class of its own, or by the text alone.
MEMORY = re.compile(
    "OutOfMemoryError|MemoryError|out of memory|not enough memory|allocate memory|Allocation on device"
    "|ALLOC_FAILED|HostBuffer.read_file_slice failed|paging file|cuDNN algorithm",
    re.IGNORECASE,
)
GPU = re.compile("CUDA (driver |unknown )?error|HIP error|CUDNN_STATUS|No CUDA GPUs|GPU is lost", re.I)
NO_SPACE = re.compile("No space left on device|Disk quota exceeded")
NO_ACCESS = re.compile("Permission denied|Read-only file system")


class ComfyError(Exception):
    """``message`` is one plain sentence, without addresses and paths; of ``detail`` the first line is for the
    log, and all for operators, since it may quote the prompt."""

    def __init__(self, message: str, detail: str = ""):
        super().__init__(f"{message} {detail}".strip())
        self.message = message
        self.detail = detail
        self.log = f"{message} {detail.partition(chr(10))[0]}".strip()


class Unreachable(ComfyError):
    """No answer, or one that only a server in trouble gives. Says nothing about any prompt."""


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
    """It would, if it had a model file or a node that this one lacks: ``what``."""

    def __init__(self, message: str, detail: str, what: str):
        super().__init__(message, detail)
        self.what = what


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


def shown(url: str) -> str:
    """Without its user name and password: for people, the log, and for each request that could fail."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class Comfy:
    """One ComfyUI server. Every method raises Unreachable when it does not answer, and Unfit when what
    answers cannot be one. For one thread only."""

    def __init__(self, url: str, read_timeout: float = READ_TIMEOUT):
        self.url = shown(url).rstrip("/")
        self._timeout = (CONNECT_TIMEOUT, read_timeout)
        self._session = requests.Session()
        if "@" in urlsplit(url).netloc:
            user, password = get_auth_from_url(url)
            # In UTF-8: requests itself would take text for Latin-1.
            self._session.auth = HTTPBasicAuth(user.encode(), password.encode())
        self._session.trust_env = False  # a proxy of the environment is not meant for the GPU next door

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> "Comfy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def system(self) -> System:
        stats = self._json("GET", "/system_stats")
        with _shape("/system_stats"):
            device = (stats.get("devices") or [{}])[0]
            return System(
                version=str(stats["system"].get("comfyui_version") or "unknown"),
                device=str(device.get("name", "no device")),
                memory=int(device.get("vram_total") or 0),
            )

    def missing(self, files: Iterable[tuple[str, str]]) -> list[str]:
        """Those of the (folder, name) model files that ComfyUI does not list, as ``folder/name``."""
        wanted = list(files)
        listed = {folder: set(self._models(folder)) for folder in {folder for folder, _ in wanted}}
        return [f"{folder}/{name}" for folder, name in wanted if name not in listed[folder]]

    def _models(self, folder: str) -> list[str]:
        response = self._request("GET", f"/models/{folder}")
        if response.status_code == 404:
            return []
        self._check(response)
        names = self._decoded(response)
        with _shape("/models"):
            return [str(name) for name in names]

    def missing_nodes(self, classes: Iterable[str]) -> list[str]:
        """Those of the node classes that ComfyUI does not know."""
        return [name for name in classes if name not in self._json("GET", f"/object_info/{name}")]

    def check_prompts(self) -> None:
        """Raises Unfit unless a prompt gets through to ComfyUI: it refuses an empty one in its own words."""
        response = self._request("POST", "/prompt", json={"prompt": {}})
        if response.status_code != 400:
            self._check(response)
        if not _own_error(response):
            raise Unfit(NO_COMFYUI, f"POST /prompt: {response.status_code}\n{response.text[:500]}")

    def upload_image(self, folder: str, name: str, image: IO[bytes]) -> str:
        """Puts a start image below ComfyUI's input folder and returns its path there, for LoadImage. Raises
        Refused or Denied if it is not taken."""
        response = self._request(
            "POST",
            "/upload/image",
            files={"image": (name, image, "image/png")},
            data={"subfolder": folder, "overwrite": "true"},
        )
        self._check(response, of_job=True)
        answer = self._decoded(response)
        with _shape("/upload/image"):
            return f"{answer['subfolder']}/{answer['name']}"

    def submit(self, prompt_id: str, graph: Graph, mark: str | None) -> None:
        """Queues the graph under our prompt id. Look first: the same id twice runs twice. Raises Refused or
        Denied if it is not taken.

        ``mark`` tells a job's prompts from other people's; None for one of no job.

        Sent without a client id: progress then goes to every socket, so that it reaches one that
        was opened later, by this worker or by its successor.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "extra_data": {MARK: mark} if mark else {}}
        response = self._request("POST", "/prompt", json=body)
        if response.status_code == 400 and _own_error(response):
            raise _refusal(self._decoded(response), graph)
        self._check(response, of_job=True)
        answer = self._decoded(response)
        with _shape("/prompt"):
            if answer.get("prompt_id") != prompt_id:
                raise Unfit(NO_COMFYUI, f"POST /prompt: the answer does not name the prompt\n{answer}"[:500])
        if answer.get("node_errors"):
            self.cancel(prompt_id)
            raise _refusal(answer, graph)

    def queue(self) -> Queue:
        answer = self._json("GET", "/queue")
        with _shape("/queue"):
            return Queue(
                running={item[1]: (item[3] or {}).get(MARK) for item in answer["queue_running"]},
                pending={item[1]: (item[3] or {}).get(MARK) for item in answer["queue_pending"]},
            )

    def result(self, prompt_id: str, folder: str) -> Rendered | Failed | None:
        """What the history says of a prompt; None if it does not know it.

        Ask for the queue first: a prompt moves from pending to running to history and never back,
        so one that is missing from both, in this order, is lost.
        """
        history = self._json("GET", f"/history/{prompt_id}")
        with _shape("/history"):
            if (entry := history.get(prompt_id)) is None:
                return None
            status = entry["status"]["status_str"]
        if status == "success":
            return _rendered(entry.get("outputs"), folder)
        return _failed(entry["status"].get("messages"))

    def cancel(self, prompt_id: str) -> None:
        """Takes exactly this prompt out of the queue, or interrupts it if it runs. Look again afterwards: a
        decode runs on to its end.

        Since 0.26 one request does both and cannot hit another prompt that begins at that moment; older
        ones do not know it.
        """
        response = self._request("POST", f"/api/jobs/{prompt_id}/cancel")
        if response.status_code in (404, 405):
            self._check(self._request("POST", "/queue", json={"delete": [prompt_id]}))
            self._check(self._request("POST", "/interrupt", json={"prompt_id": prompt_id}))
            return
        self._check(response)
        if "cancelled" not in self._decoded(response):  # a page of something in front of it
            raise Unfit(NO_COMFYUI, f"POST /api/jobs/.../cancel: {response.status_code}")

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
        response = self._request("POST", "/upload/image", files=files, data=data)
        if response.status_code in (500, 507):
            return False
        if response.status_code != 413:  # a limit in front of it, which says nothing of its disk
            self._check(response)
        return True

    @contextmanager
    def open_output(self, folder: str, filename: str) -> Iterator[Iterator[bytes]]:
        """The bytes of an output file, in chunks. Raises FileGone if it is not there."""
        response = self._request("GET", "/view", params=_view(folder, filename), stream=True)
        with response:
            if response.status_code == 404:
                raise FileGone("The rendered video is no longer on the GPU server.", f"{folder}/{filename}")
            self._check(response)
            if "html" in response.headers.get("Content-Type", ""):
                raise Unfit(NO_COMFYUI, f"GET /view answers with a web page for {folder}/{filename}")
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
            text = f"{response.request.method} {response.request.path_url}: {error}"
            raise Unfit(NO_COMFYUI, text) from error

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Follows no redirect: it would turn a POST into a GET, which ComfyUI answers as well."""
        options |= {"timeout": self._timeout, "allow_redirects": False}
        try:
            return self._session.request(method, self.url + path, **options)
        except requests.RequestException as error:
            text = f"{method} {path}: {error}"
            raise Unreachable("The GPU server does not answer.", text) from error

    @staticmethod
    def _check(response: requests.Response, of_job: bool = False) -> None:
        """Raises what an answer that is no success means. ``of_job``: the request brought something of one
        job, which may itself be the reason."""
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


@contextmanager
def _shape(path: str) -> Iterator[None]:
    """Around the reading of an answer whose shape another program may not keep to."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise Unfit(NO_COMFYUI, f"{path}: {type(error).__name__}: {error}") from error


def _own_error(response: requests.Response) -> Any:
    """The error in ComfyUI's own words; None in an answer of something in front of it."""
    try:
        error = response.json()["error"]
        return error if isinstance(error["type"], str) and isinstance(error["message"], str) else None
    except (ValueError, KeyError, TypeError):
        return None


def _view(folder: str, filename: str) -> dict[str, str]:
    return {"filename": filename, "subfolder": folder, "type": "output"}


def _rendered(outputs: Any, folder: str) -> Rendered | Failed:
    """SaveVideo's file stands under ``images``, other savers use other keys: told by its ending. Nodes put
    other values there, too: texts, numbers, lists of lists."""
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
    """An error and an interruption look alike but for the last message."""
    try:
        event, data = messages[-1]
        data = dict(data)
    except (IndexError, TypeError, ValueError):
        event, data = "", {}
    if event == "execution_interrupted":
        return Failed("interrupted", "The render was interrupted on the GPU server.", "")
    kind, message = str(data.get("exception_type", "unknown error")), str(data.get("exception_message", ""))
    # The message can hold paths, the inputs hold the client's text: neither leaves the log.
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


def _refusal(answer: dict[str, Any], graph: Graph) -> Refused:
    """From the answer to a refused POST /prompt, of whatever shape its details are."""
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
            if problem["type"] == "value_not_in_list" and name in MODEL_FOLDERS:
                file = f"{MODEL_FOLDERS[name]}/{graph[node_id]['inputs'][name]}"
                return Lacking(f"ComfyUI lacks the model file {file}.", detail, file)
            return Refused(f"ComfyUI refused {name or 'an input'} of {problems['class_type']}.", detail)
    return Refused("ComfyUI refused the workflow.", detail)


def _unknown_node(error: dict[str, Any]) -> str | None:
    """Its class; since 0.12 the error has a type of its own."""
    if error.get("type") == "missing_node_type":
        return str((error.get("extra_info") or {}).get("class_type") or "of a custom pack")
    match = re.search(r"node (\S+) does not exist", error.get("message", ""))
    return match[1] if match else None
