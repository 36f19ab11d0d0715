"""ComfyUI's HTTP API, as one renderer needs it: upload, submit, look, cancel, fetch, forget.

ComfyUI keeps its queue and history in memory, does not de-duplicate prompt ids, and answers a lookup of
something unknown with an empty 200. So this module reports no events: the caller asks for the state again
and again, and acts on what it finds. ``comfy.listener`` says when to ask at once, and adds progress. What the
answers mean, and the errors that the driver raises, are in ``comfy.answers``.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url

from comfy.answers import (
    NO_COMFYUI,
    Failed,
    FileGone,
    Queue,
    Rendered,
    System,
    Unfit,
    Unreachable,
    check,
    decoded,
    outcome,
    own_error,
    refusal,
    shape,
)
from comfy.presets import Graph

CONNECT_TIMEOUT, READ_TIMEOUT = 3, 10  # seconds
VIDEO_ROOM = 32 * 1024 * 1024  # bytes
MARK = "wanapi"  # our key in a prompt's extra_data


def shown(url: str) -> str:
    """The URL without user name and password: for people, the log, and requests, whose errors quote it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class Comfy:
    """One ComfyUI server. Every method raises Unreachable when it does not answer, and Unfit when what
    answers cannot be ComfyUI. Each thread needs an object of its own."""

    def __init__(self, url: str, read_timeout: float = READ_TIMEOUT):
        self.url = shown(url).rstrip("/")
        self._timeout = (CONNECT_TIMEOUT, read_timeout)
        self._session = requests.Session()
        if "@" in urlsplit(url).netloc:
            user, password = get_auth_from_url(url)
            # As bytes in UTF-8: requests itself would encode text as Latin-1.
            self._session.auth = HTTPBasicAuth(user.encode(), password.encode())
        self._session.trust_env = False  # the environment's proxy is not meant for ComfyUI

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> "Comfy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def system(self) -> System:
        stats = self._json("GET", "/system_stats")
        with shape("/system_stats"):
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
        check(response)
        names = decoded(response)
        with shape("/models"):
            return [str(name) for name in names]

    def missing_nodes(self, classes: Iterable[str]) -> list[str]:
        """Those of the node classes that ComfyUI does not know."""
        return [name for name in classes if self.node_class(name) is None]

    def node_class(self, name: str) -> dict[str, Any] | None:
        """What ComfyUI tells of a class of nodes: its inputs and outputs. None if it does not know it."""
        found = self._json("GET", f"/object_info/{quote(name, safe='')}")
        with shape("/object_info"):
            return dict(found[name]) if name in found else None

    def check_prompts(self) -> None:
        """Raises Unfit unless prompts get through to ComfyUI, which refuses an empty one in its own words."""
        response = self._request("POST", "/prompt", json={"prompt": {}})
        if response.status_code != 400:
            check(response)
        if not own_error(response):
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
        check(response, of_job=True)
        answer = decoded(response)
        with shape("/upload/image"):
            return f"{answer['subfolder']}/{answer['name']}"

    def submit(self, prompt_id: str, graph: Graph, mark: str | None) -> None:
        """Queues the graph under our prompt id. Look first whether it is there already: if the same id is
        posted twice, ComfyUI runs it twice. Raises Refused or Denied if the prompt is not taken.

        ``mark`` tells the prompts of jobs from other people's; a warm-up has None.

        The prompt is sent without a client id. So ComfyUI sends its progress to every socket, also to one
        that is opened later, by this worker or by its successor.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "extra_data": {MARK: mark} if mark else {}}
        response = self._request("POST", "/prompt", json=body)
        if response.status_code == 400 and own_error(response):
            raise refusal(decoded(response), graph)
        check(response, of_job=True)
        answer = decoded(response)
        with shape("/prompt"):
            if answer.get("prompt_id") != prompt_id:
                raise Unfit(NO_COMFYUI, f"POST /prompt: the answer does not name the prompt\n{answer}"[:500])
        if answer.get("node_errors"):
            self.cancel(prompt_id)
            raise refusal(answer, graph)

    def queue(self) -> Queue:
        answer = self._json("GET", "/queue")
        with shape("/queue"):
            return Queue(
                running={item[1]: (item[3] or {}).get(MARK) for item in answer["queue_running"]},
                pending={item[1]: (item[3] or {}).get(MARK) for item in answer["queue_pending"]},
            )

    def result(self, prompt_id: str, folder: str) -> Rendered | Failed | None:
        """What the history says of a prompt; None if it does not know it.

        Ask for the ``queue`` before this. A prompt moves from the queue to the history and never back, so one
        that was not in the queue, and then is not in the history, is lost. In the other order it could move
        between the two questions, and be missed in both places although it is there.
        """
        history = self._json("GET", f"/history/{prompt_id}")
        with shape("/history"):
            if (entry := history.get(prompt_id)) is None:
                return None
            return outcome(entry, folder)

    def cancel(self, prompt_id: str) -> None:
        """Takes exactly this prompt out of the queue, or interrupts it if it runs. Look again afterwards: a
        node that decodes is not interrupted before its end.

        Since ComfyUI 0.26 one request does both, and cannot hit another prompt that begins at that moment.
        Older versions do not know this request, and get two others.
        """
        response = self._request("POST", f"/api/jobs/{prompt_id}/cancel")
        if response.status_code in (404, 405):
            check(self._request("POST", "/queue", json={"delete": [prompt_id]}))
            check(self._request("POST", "/interrupt", json={"prompt_id": prompt_id}))
            return
        check(response)
        if "cancelled" not in decoded(response):  # something in front of it answered
            raise Unfit(NO_COMFYUI, f"POST /api/jobs/.../cancel: {response.status_code}")

    def forget(self, prompt_id: str) -> None:
        """Removes a prompt's history entry, which holds its graph and so the client's text."""
        check(self._request("POST", "/history", json={"delete": [prompt_id]}))

    def free(self) -> None:
        """Unloads the models and empties the node cache, after the GPU ran out of memory."""
        check(self._request("POST", "/free", json={"unload_models": True, "free_memory": True}))

    def has_space(self) -> bool:
        """Whether ComfyUI can write a file of a video's size. The file stays in its temporary folder."""
        files = {"image": ("space.bin", b"\0" * VIDEO_ROOM)}
        data = {"type": "temp", "subfolder": "wanapi", "overwrite": "true"}
        response = self._request("POST", "/upload/image", files=files, data=data)
        if response.status_code in (500, 507):
            return False
        if response.status_code != 413:  # 413: a server in front of it limits uploads; its disk may be fine
            check(response)
        return True

    @contextmanager
    def open_output(self, folder: str, filename: str) -> Iterator[Iterator[bytes]]:
        """The bytes of an output file, in chunks. Raises FileGone if it is not there."""
        response = self._request("GET", "/view", params=_view(folder, filename), stream=True)
        with response:
            if response.status_code == 404:
                raise FileGone("The rendered video is no longer on the GPU server.", f"{folder}/{filename}")
            check(response)
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
        check(response)
        return decoded(response)

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Follows no redirect: it would turn a POST into a GET, which ComfyUI answers as well."""
        options |= {"timeout": self._timeout, "allow_redirects": False}
        try:
            return self._session.request(method, self.url + path, **options)
        except requests.RequestException as error:
            text = f"{method} {path}: {error}"
            raise Unreachable("The GPU server does not answer.", text) from error


def _view(folder: str, filename: str) -> dict[str, str]:
    return {"filename": filename, "subfolder": folder, "type": "output"}
