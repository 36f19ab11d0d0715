"""ComfyUI's WebSocket: progress, and a hint to look now. Nothing is decided by it.

Sockets of ComfyUI fall silent in several ways while they stay open, and the end of a prompt can be missed.
So a message only sets ``changed``. The caller then asks over HTTP, and also does so without any message.
"""

import json
import logging
import threading
import time
import uuid
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

logger = logging.getLogger(__name__)

SILENCE = 60  # seconds without any message after which the socket is opened anew
RECONNECT_PAUSE = 1.0


class Listener:
    """Reads one ComfyUI's socket in a thread of its own.

    ``changed`` is set on each message that may mean a prompt started or ended. ``connected`` tells whether
    progress would be heard at all.
    """

    def __init__(self, url: str, silence: float = SILENCE):
        self._url = url.rstrip("/").replace("http", "ws", 1) + "/ws?clientId="
        self._silence = silence
        self._nodes: dict[str, dict[str, Any]] = {}
        self._closed = threading.Event()
        self.changed = threading.Event()
        self.connected = False
        self._thread = threading.Thread(target=self._run, name="comfy-listener", daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def nodes(self, prompt_id: str) -> dict[str, Any]:
        """The nodes that the prompt has touched so far, as in its last ``progress_state``; {} if none."""
        return self._nodes.get(prompt_id, {})

    def forget(self, prompt_id: str) -> None:
        self._nodes.pop(prompt_id, None)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except (OSError, WebSocketException) as error:
                logger.debug("socket: %s", error)
            except Exception:  # an unexpected message must not end this thread
                logger.exception("socket")
            self.connected = False
            self._closed.wait(RECONNECT_PAUSE)

    def _listen(self) -> None:
        # A fresh client id each time: when an older socket of the same id closes, ComfyUI goes silent
        # on the newer one, too.
        with connect(self._url + uuid.uuid4().hex, max_size=None, open_timeout=5, proxy=None) as socket:
            self.connected = True
            heard = time.monotonic()
            while not self._closed.is_set() and time.monotonic() - heard < self._silence:
                try:
                    message = socket.recv(timeout=0.5)
                except TimeoutError:
                    continue
                heard = time.monotonic()
                if isinstance(message, str):  # a binary frame is a preview
                    self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        data = message.get("data") or {}
        if message.get("type") == "status":
            self.changed.set()
        elif message.get("type") == "progress_state" and data.get("prompt_id"):
            self._nodes[data["prompt_id"]] = data["nodes"]
            while len(self._nodes) > 100:  # other people's prompts, for which nobody calls forget()
                self._nodes.pop(next(iter(self._nodes)))
