"""A simulator of ComfyUI: its HTTP and WebSocket protocol, and a test card in place of the model's work.

It is for demos and tests on machines without a GPU. It is not ComfyUI and runs no model: it knows the few
node classes that a WAN 2.2 graph needs, waits as long as sampling would take, and draws a video that says
SIMULATED in every frame. What a driver can see is meant to be as in ComfyUI 0.3.64, its oddities included.

A prompt's way through this file: `Server.post_prompt` validates and queues it, `Worker.work` takes it, runs
its nodes and tells the sockets, and writes the history entry. The routes under /simulator are its own: a log
of what happened, and faults to order.

    python -m comfy.simulator --port 8188 [--seconds-per-step 0.2] [--directory DIR] [--missing FILE ...]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import json
import mimetypes
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import av
from aiohttp import web
from PIL import ImageFile

from comfy import testcard
from comfy.simulator_nodes import MODELS, Graph, error, node_table, object_info, validate_prompt

COMFYUI_VERSION = "0.3.64"
LARGEST_BODY = 100 * 1024 * 1024
LONGEST_HISTORY = 10000
LONGEST_FREEZE = 600.0  # seconds
DECODE_STEPS = 3  # VAEDecode takes as long as this many steps, in silence
FEATURES = {"supports_preview_metadata": True, "max_upload_size": LARGEST_BODY}
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
GPU_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might "
    "have accidentally set the batch_size to a large number."
)

# number, prompt id, graph, extra data, output nodes. A heap of plain tuples, as in ComfyUI, so that
# equal numbers and ids go wrong here as they do there: the comparison reaches the graphs and raises.
Item = tuple[float, str, Graph, dict[str, Any], list[str]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Interrupted(Exception):
    pass


class WorkerDied(BaseException):
    """Ends the worker and nothing else; not an Exception, so that it passes the handling of node errors."""


class OutOfMemoryError(RuntimeError):
    __module__ = "torch"  # is reported as torch.OutOfMemoryError


@dataclass
class Faults:
    """What /simulator/faults has ordered and what has not happened yet."""

    out_of_memory: int = 0
    node_error: int = 0
    disk_full: int = 0
    stall_seconds: float = 0.0  # and deaf to an interrupt
    slow_seconds: float = 0.0
    history_delay: float = 0.0
    frozen_until: float = 0.0
    dead_worker: bool = False

    def strikes(self, name: str) -> bool:
        left: int = getattr(self, name)
        setattr(self, name, max(0, left - 1))
        return left > 0


@dataclass
class Run:
    """One prompt being run."""

    item: Item
    messages: list[Any] = field(default_factory=list)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_id(self) -> str:
        return self.item[1]

    @property
    def graph(self) -> Graph:
        return self.item[2]


@dataclass
class Result:
    """What a node gave: its values for other nodes, and for an output node what /history shows."""

    values: tuple[Any, ...]
    shown: dict[str, Any] | None = None


class Sockets:
    """The open WebSockets by client id, and the one loop that sends to them.

    As in ComfyUI a client that does not read holds up everyone, and of two sockets with one client id
    the closing of the older makes the newer one deaf.
    """

    def __init__(self) -> None:
        self.by_client: dict[str, web.WebSocketResponse] = {}
        self.open: set[web.WebSocketResponse] = set()
        self.messages: asyncio.Queue[tuple[str, Any, str | None]] = asyncio.Queue()

    def send(self, event: str, data: Any, client_id: str | None = None) -> None:
        """To that client, or to everyone if it is None."""
        self.messages.put_nowait((event, data, client_id))

    async def publish(self) -> None:
        while True:
            event, data, client_id = await self.messages.get()
            everyone = list(self.by_client.values())
            for socket in everyone if client_id is None else [self.by_client.get(client_id)]:
                if socket is not None:
                    await self.send_now(socket, event, data)

    @staticmethod
    async def send_now(socket: web.WebSocketResponse, event: str, data: Any) -> None:
        # One that has gone is taken out of the table by its own handler.
        with suppress(aiohttp.ClientError, ConnectionError, RuntimeError):
            await socket.send_json({"type": event, "data": data})


class Server:
    """All the state there is, and the routes."""

    def __init__(self, directory: Path, models: dict[str, list[str]], seconds_per_step: float) -> None:
        self.directory, self.models, self.seconds_per_step = directory, models, seconds_per_step
        self.sockets = Sockets()
        self.faults = Faults()
        self.log_file = directory / "simulator.log"  # outlives us: it is the witness of kills, too
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        self.log: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.forget()

    def forget(self) -> None:
        """The memory of a server that has just started."""
        self.number = 0
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.worker = Worker(self)

    def note(self, event: str, prompt_id: str | None, extra_data: Any) -> None:
        entry = {"event": event, "prompt_id": prompt_id, "time": time.time(), "extra_data": extra_data}
        self.log.append(entry)
        with self.log_file.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def path(self, kind: str) -> Path:
        return self.directory / kind

    def images(self) -> list[str]:
        return sorted(entry.name for entry in self.path("input").iterdir() if entry.is_file())

    # A prompt comes in.

    async def post_prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        number = float(body["number"]) if "number" in body else self.next_number(body.get("front"))
        if "prompt" not in body:
            reason = error("no_prompt", "No prompt provided", "No prompt provided")
            self.note("refused", None, body.get("extra_data"))
            return web.json_response({"error": reason, "node_errors": {}}, status=400)
        graph, prompt_id = body["prompt"], str(body.get("prompt_id", uuid.uuid4()))
        extra_data = body.get("extra_data", {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        table, targets = node_table(self.models, self.images()), body.get("partial_execution_targets")
        wrong, outputs, node_errors = validate_prompt(graph, table, self.path("input"), targets)
        if wrong:
            self.note("refused", prompt_id, extra_data)
            return web.json_response({"error": wrong, "node_errors": node_errors}, status=400)
        self.note("accepted", prompt_id, extra_data)
        self.put((number, prompt_id, graph, extra_data, outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": node_errors})

    def next_number(self, front: Any) -> int:
        number = -self.number if front else self.number
        self.number += 1
        return number

    # It waits in the queue.

    def put(self, item: Item) -> None:
        self.worker.wake.set()  # first: with equal numbers and ids the push raises, and yet has queued
        heapq.heappush(self.pending, item)
        self.send_status()

    def take(self) -> Item | None:
        if not self.pending:
            return None
        self.running = heapq.heappop(self.pending)
        self.send_status()
        return self.running

    def queue_status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": len(self.pending) + (self.running is not None)}}

    def send_status(self) -> None:
        self.sockets.send("status", {"status": self.queue_status()})

    async def get_prompt(self, request: web.Request) -> web.Response:
        return web.json_response(self.queue_status())

    async def get_queue(self, request: web.Request) -> web.Response:
        running = [self.running] if self.running else []
        return web.json_response({"queue_running": running, "queue_pending": self.pending})

    async def post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            for item in self.pending:
                self.note("deleted", item[1], item[3])
            self.pending.clear()
            self.send_status()
        for prompt_id in body.get("delete", []):
            self.delete_pending(prompt_id)
        return web.Response()

    def delete_pending(self, prompt_id: str) -> None:
        for index, item in enumerate(self.pending):
            if item[1] == prompt_id:
                del self.pending[index]
                heapq.heapify(self.pending)
                self.note("deleted", prompt_id, item[3])
                self.send_status()
                return

    async def post_interrupt(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except ValueError:
            body = {}
        wanted = body.get("prompt_id") if isinstance(body, dict) else None
        if not wanted or (self.running and self.running[1] == wanted):
            self.worker.interrupt.set()
        return web.Response()

    async def post_free(self, request: web.Request) -> web.Response:
        if (await request.json()).get("free_memory"):
            self.worker.free_memory = True
            self.worker.wake.set()
        return web.Response()

    # It has run (see Worker) and is history.

    def finish(self, run: Run, status: str) -> None:
        number, prompt_id, graph, extra_data, outputs = run.item
        kept = {name: value for name, value in extra_data.items() if name not in SECRETS}
        if len(self.history) > LONGEST_HISTORY:
            del self.history[next(iter(self.history))]
        self.history[prompt_id] = {
            "prompt": (number, prompt_id, graph, kept, outputs),
            "outputs": run.outputs,
            "status": {"status_str": status, "completed": status == "success", "messages": run.messages},
            "meta": {
                i: {"node_id": i, "display_node": i, "parent_node": None, "real_node_id": i}
                for i in run.outputs
            },
        }
        self.running = None
        events = {"execution_success": "finished", "execution_error": "failed"}
        self.note(events.get(run.messages[-1][0], "interrupted"), prompt_id, extra_data)
        self.send_status()

    async def get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info.get("prompt_id")
        if prompt_id is not None:
            found = {prompt_id: self.history[prompt_id]} if prompt_id in self.history else {}
            return web.json_response(found)
        count = int(request.query["max_items"]) if "max_items" in request.query else len(self.history)
        offset = int(request.query.get("offset", -1))
        start = offset if offset >= 0 else max(0, len(self.history) - count)
        return web.json_response(dict(list(self.history.items())[start : start + count]))

    async def post_history(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self.history.clear()
        for prompt_id in body.get("delete", []):
            self.history.pop(prompt_id, None)
        return web.Response()

    # The socket that tells of it.

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self.sockets.by_client[client_id] = socket
        self.sockets.open.add(socket)
        try:
            await self.sockets.send_now(socket, "status", {"status": self.queue_status(), "sid": client_id})
            if self.worker.client_id == client_id and self.worker.last_node is not None:
                await self.sockets.send_now(socket, "executing", {"node": self.worker.last_node})
            await self.read_socket(socket)
        finally:
            self.sockets.open.discard(socket)
            # By the client id, whichever socket that is by now: this makes a second socket deaf.
            self.sockets.by_client.pop(client_id, None)
        return socket

    async def read_socket(self, socket: web.WebSocketResponse) -> None:
        """Only a first message with the client's features is answered."""
        first = True
        async for message in socket:
            try:
                body = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else None
            except ValueError:
                body = None
            if first and isinstance(body, dict) and body.get("type") == "feature_flags":
                await self.sockets.send_now(socket, "feature_flags", FEATURES)
            first = False

    # Files.

    async def post_upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image, kind = form.get("image"), str(form.get("type", "input"))
        if not isinstance(image, web.FileField) or not image.filename:
            return web.Response(status=400)
        if kind not in ("input", "output", "temp"):
            raise ValueError(f"no folder for the type {kind}")
        folder, subfolder = self.path(kind), str(form.get("subfolder", ""))
        name = image.filename.lstrip("/")
        target = Path(os.path.abspath(folder / subfolder / name))
        if ".." in Path(subfolder, name).parts or not target.is_relative_to(folder):
            return web.Response(status=400)
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        content = image.file.read()
        if form.get("overwrite") not in ("true", "1"):
            target = free_name(target, content)
        if not target.exists() or target.read_bytes() != content:
            target.write_bytes(content)
        # The name may hold a folder too, which is not part of `subfolder`.
        name = str(Path(name).with_name(target.name))
        return web.json_response({"name": name, "subfolder": subfolder, "type": kind})

    async def get_view(self, request: web.Request) -> web.StreamResponse:
        name, kind = request.query.get("filename"), request.query.get("type", "output")
        if name is None:
            return web.Response(status=404)
        if not name or name.startswith("/") or ".." in name or kind not in ("input", "output", "temp"):
            return web.Response(status=400)
        folder = self.path(kind)
        file = Path(os.path.abspath(folder / request.query.get("subfolder", ""))) / Path(name).name
        if not file.is_relative_to(folder):
            return web.Response(status=403)
        if not file.is_file():
            return web.Response(status=404)
        content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        headers = {"Content-Disposition": f'filename="{file.name}"', "Content-Type": content_type}
        return web.FileResponse(file, headers=headers)

    # What the server is and has.

    async def get_object_info(self, request: web.Request) -> web.Response:
        table, wanted = node_table(self.models, self.images()), request.match_info.get("class_name")
        shown = {n: object_info(n, node) for n, node in table.items() if wanted in (None, n)}
        return web.json_response(shown)

    async def get_models(self, request: web.Request) -> web.Response:
        folder = request.match_info.get("folder")
        if folder is None:
            return web.json_response(list(self.models))
        if folder not in self.models:
            return web.Response(status=404)
        return web.json_response(self.models[folder])

    async def get_features(self, request: web.Request) -> web.Response:
        return web.json_response(FEATURES)

    async def get_system_stats(self, request: web.Request) -> web.Response:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        system = {
            "os": os.name,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": "1.27.10",
            "installed_templates_version": None,
            "required_templates_version": "0.1.95",
            "python_version": sys.version,
            "pytorch_version": "none (simulator)",
            "embedded_python": False,
            "argv": sys.argv,
        }
        memory = {"vram_total": total, "vram_free": free, "torch_vram_total": total, "torch_vram_free": free}
        name = "Simulator (no GPU, no model: draws a test card)"
        device = {"name": name, "type": "cpu", "index": None, **memory}
        return web.json_response({"system": system, "devices": [device]})

    # The simulator's own routes.

    async def get_log(self, request: web.Request) -> web.Response:
        return web.json_response(self.log)

    async def post_faults(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            kind, seconds, count = body["kind"], float(body.get("seconds", 5)), int(body.get("count", 1))
            await self.order_fault(kind, seconds, count)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            return web.Response(status=400, text=f"Not a fault that can be ordered: {exc}.\n")
        return web.Response()

    async def order_fault(self, kind: str, seconds: float, count: int) -> None:
        match kind:
            case "none":
                self.faults = Faults()
            case "silent_sockets":
                self.sockets.by_client.clear()
            case "close_sockets":
                await asyncio.gather(*(socket.close() for socket in self.sockets.open))
            case "freeze":
                self.faults.frozen_until = time.monotonic() + min(seconds, LONGEST_FREEZE)
            case "dead_worker":
                self.faults.dead_worker = True
                self.worker.wake.set()
            case "forget":
                self.faults.dead_worker = False
                self.worker.task.cancel()
                self.forget()
            case "out_of_memory" | "node_error":
                setattr(self.faults, kind, count)
            case "disk_full":
                self.faults.disk_full = 1
            case "late_history":
                self.faults.history_delay = seconds
            case "stall":
                self.faults.stall_seconds = seconds
            case "slow":
                self.faults.slow_seconds = seconds
            case _:
                raise ValueError(f"there is no kind {kind!r}")

    # The application.

    def routes(self, prefix: str) -> list[web.RouteDef]:
        return [
            web.post(prefix + "/prompt", self.post_prompt),
            web.get(prefix + "/prompt", self.get_prompt),
            web.get(prefix + "/queue", self.get_queue),
            web.post(prefix + "/queue", self.post_queue),
            web.post(prefix + "/interrupt", self.post_interrupt),
            web.post(prefix + "/free", self.post_free),
            web.get(prefix + "/history", self.get_history),
            web.get(prefix + "/history/{prompt_id}", self.get_history),
            web.post(prefix + "/history", self.post_history),
            web.get(prefix + "/ws", self.websocket),
            web.post(prefix + "/upload/image", self.post_upload),
            web.get(prefix + "/view", self.get_view),
            web.get(prefix + "/object_info", self.get_object_info),
            web.get(prefix + "/object_info/{class_name}", self.get_object_info),
            web.get(prefix + "/models", self.get_models),
            web.get(prefix + "/models/{folder}", self.get_models),
            web.get(prefix + "/features", self.get_features),
            web.get(prefix + "/system_stats", self.get_system_stats),
        ]

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_BODY, middlewares=[self.freeze])
        application.add_routes(self.routes("") + self.routes("/api"))
        application.router.add_get("/simulator/log", self.get_log)
        application.router.add_post("/simulator/faults", self.post_faults)
        return application

    @web.middleware
    async def freeze(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        while time.monotonic() < self.faults.frozen_until and not request.path.startswith("/simulator/"):
            await asyncio.sleep(0.05)
        return await handler(request)


class Worker:
    """Runs one prompt at a time, as ComfyUI's worker thread does; if it dies, HTTP goes on."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wake = asyncio.Event()
        self.interrupt = asyncio.Event()
        self.free_memory = False
        self.cache: dict[str, Result] = {}  # the results of the last prompt's nodes
        self.client_id: str | None = None  # whose prompt is, or was the last to be, run
        self.last_node: str | None = None
        self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        with suppress(WorkerDied):
            while not self.server.faults.dead_worker:
                if self.free_memory:
                    self.cache.clear()
                    self.free_memory = False
                self.wake.clear()
                if item := self.server.take():
                    await self.run_prompt(Run(item))
                else:
                    await self.wake.wait()

    async def run_prompt(self, run: Run) -> None:
        server, prompt_id = self.server, run.prompt_id
        server.note("started", prompt_id, run.item[3])
        self.interrupt.clear()
        self.client_id = run.item[3].get("client_id")
        self.tell(run, "execution_start", {})
        status = await self.run_nodes(run)
        self.last_node = None
        await asyncio.sleep(server.faults.history_delay)
        server.finish(run, status)
        if self.client_id is not None:
            server.sockets.send("executing", {"node": None, "prompt_id": prompt_id}, self.client_id)

    async def run_nodes(self, run: Run) -> str:
        order: list[str] = []
        try:
            for output in run.item[4]:
                walk_up(run.graph, output, order)
        except KeyError as exc:  # an input that its node does not know was not validated
            self.tell(run, "execution_cached", {"nodes": []})
            raise WorkerDied(f"no node {exc}") from exc
        keys = self.cache_keys(run.graph, order)
        self.cache = {key: result for key, result in self.cache.items() if key in keys.values()}
        cached = [node_id for node_id in order if keys[node_id] in self.cache]
        self.tell(run, "execution_cached", {"nodes": cached})
        node_id = ""
        try:
            for node_id in order:
                if node_id not in cached:
                    self.cache[keys[node_id]] = await self.run_node(run, node_id, keys)
                self.show_output(run, node_id, self.cache[keys[node_id]])
                if node_id not in cached:
                    self.progress(run, node_id, "finished")
                    run.executed.append(node_id)
        except Interrupted:
            self.tell(run, "execution_interrupted", self.place(run, node_id), broadcast=True)
            return "error"
        except Exception as exc:
            self.tell(run, "execution_error", self.failure(run, node_id, exc, keys))
            return "error"
        self.tell(run, "execution_success", {})
        return "success"

    def cache_keys(self, graph: Graph, order: list[str]) -> dict[str, str]:
        """Per node a hash of its class and inputs and, through its links, of all nodes above it."""
        keys: dict[str, str] = {}
        for node_id in order:
            node = graph[node_id]
            inputs: dict[str, Any] = {
                name: [keys[value[0]], value[1]] if is_link(value) else value
                for name, value in node["inputs"].items()
            }
            if node["class_type"] == "LoadImage":  # by content: a file may be overwritten
                image = self.server.path("input") / str(inputs["image"])
                inputs["image"] = hashlib.sha256(image.read_bytes() if image.is_file() else b"").hexdigest()
            whole = json.dumps([node["class_type"], inputs], sort_keys=True)
            keys[node_id] = hashlib.sha256(whole.encode()).hexdigest()
        return keys

    # Telling what happens.

    def tell(self, run: Run, event: str, data: dict[str, Any], broadcast: bool = False) -> None:
        """An execution_* message: kept for the history, sent to the client if there is one."""
        data = {**data, "prompt_id": run.prompt_id, "timestamp": int(time.time() * 1000)}
        run.messages.append([event, data])
        if self.client_id is not None or broadcast:
            self.server.sockets.send(event, data, self.client_id)

    def progress(
        self, run: Run, node_id: str, state: str, value: float | None = None, most: float = 1.0
    ) -> None:
        """progress_state names all nodes touched so far; without a client id everyone gets it."""
        if value is None:
            most = value = run.progress[node_id]["max"]
        run.progress[node_id] = {
            "value": value,
            "max": most,
            "state": state,
            "node_id": node_id,
            "prompt_id": run.prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
        data = {"prompt_id": run.prompt_id, "nodes": dict(run.progress)}
        self.server.sockets.send("progress_state", data, self.client_id)

    def show_output(self, run: Run, node_id: str, result: Result) -> None:
        """Also for a cached output node, which thus names its old file again."""
        if result.shown is None:
            return
        run.outputs[node_id] = result.shown
        if self.client_id is not None:
            data = {"node": node_id, "display_node": node_id, "output": result.shown}
            self.server.sockets.send("executed", {**data, "prompt_id": run.prompt_id}, self.client_id)

    def place(self, run: Run, node_id: str) -> dict[str, Any]:
        node_type = run.graph[node_id]["class_type"]
        return {"node_id": node_id, "node_type": node_type, "executed": run.executed}

    def failure(self, run: Run, node_id: str, exc: Exception, keys: dict[str, str]) -> dict[str, Any]:
        kind, tips = type(exc), GPU_TIPS if isinstance(exc, OutOfMemoryError) else ""
        prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        inputs = self.input_values(run.graph, node_id, keys)
        shown = (str, int, float)
        return {
            **self.place(run, node_id),
            "exception_message": f"{exc}\n{tips}",
            "exception_type": prefix + kind.__qualname__,
            "traceback": traceback.format_tb(exc.__traceback__),
            "current_inputs": {
                name: [value if isinstance(value, shown) else "tensor([[[[0.5000, 0.5000, 0.5000, ..."]
                for name, value in inputs.items()
            },
            "current_outputs": list(run.graph),
        }

    # Running a node.

    async def run_node(self, run: Run, node_id: str, keys: dict[str, str]) -> Result:
        self.progress(run, node_id, "running", 0.0)
        if self.client_id is not None:
            self.last_node = node_id
            data = {"node": node_id, "display_node": node_id, "prompt_id": run.prompt_id}
            self.server.sockets.send("executing", data, self.client_id)
        if self.interrupt.is_set():
            raise Interrupted
        inputs = self.input_values(run.graph, node_id, keys)
        match run.graph[node_id]["class_type"]:
            case "CLIPTextEncode":
                return Result((inputs["text"],))
            case "LoadImage":
                path = self.server.path("input") / inputs["image"]
                return Result((await asyncio.to_thread(testcard.load, path), None))  # no mask
            case "EmptyHunyuanLatentVideo":
                return Result((testcard.empty_scene(inputs),))
            case "WanImageToVideo":
                await asyncio.sleep(self.server.seconds_per_step)  # the VAE's encoding
                scene = replace(testcard.empty_scene(inputs), start=inputs.get("start_image"))
                return Result((inputs["positive"], inputs["negative"], scene))
            case "KSamplerAdvanced":
                return Result((await self.sample(run, node_id, inputs),))
            case "VAEDecode":
                await asyncio.sleep(DECODE_STEPS * self.server.seconds_per_step)
                if self.server.faults.strikes("node_error"):
                    raise ValueError("a fault ordered in VAEDecode")
                return Result((inputs["samples"],))
            case "TestFault":
                await self.go_wrong(run, node_id, inputs["kind"], inputs["seconds"])
                return Result((inputs["images"],))
            case "CreateVideo":
                return Result(((inputs["images"], inputs["fps"]),))
            case "SaveVideo":
                return await self.save_video(run, inputs)
            case _:  # the loaders and the model's settings: nothing to do with a test card
                return Result((run.graph[node_id]["class_type"],))

    def input_values(self, graph: Graph, node_id: str, keys: dict[str, str]) -> dict[str, Any]:
        return {
            name: self.cache[keys[value[0]]].values[value[1]] if is_link(value) else value
            for name, value in graph[node_id]["inputs"].items()
        }

    async def sample(self, run: Run, node_id: str, inputs: dict[str, Any]) -> testcard.Scene:
        faults = self.server.faults
        if faults.strikes("out_of_memory"):
            raise OutOfMemoryError("Allocation on device ")
        stall, faults.stall_seconds = faults.stall_seconds, 0.0
        await asyncio.sleep(stall)
        steps = min(inputs["end_at_step"], inputs["steps"]) - inputs["start_at_step"]
        slow, faults.slow_seconds = faults.slow_seconds, 0.0
        await self.steps(run, node_id, steps, self.server.seconds_per_step + slow / steps)
        scene: testcard.Scene = replace(inputs["latent_image"], text=inputs["positive"])
        return replace(scene, seed=inputs["noise_seed"]) if inputs["add_noise"] == "enable" else scene

    async def steps(self, run: Run, node_id: str, count: int, seconds: float) -> None:
        """The one place where an interrupt stops a node that is at work."""
        for step in range(1, count + 1):
            try:
                await asyncio.wait_for(self.interrupt.wait(), seconds)
                raise Interrupted
            except TimeoutError:
                self.progress(run, node_id, "running", step, count)
                data = {"value": step, "max": count, "prompt_id": run.prompt_id, "node": node_id}
                self.server.sockets.send("progress", data, self.client_id)

    async def go_wrong(self, run: Run, node_id: str, kind: str, seconds: float) -> None:
        match kind:
            case "raise":
                raise ValueError("a test fault")
            case "cuda_oom":
                raise OutOfMemoryError("Allocation on device ")
            case "memory_error":
                raise MemoryError("a test fault")
            case "cpu_alloc":
                size = 1 << 52
                raise RuntimeError(
                    f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {size} bytes."
                )
            case "system_exit":
                raise WorkerDied("a test fault")
            case "hard_exit":
                os._exit(137)
            case "sleep":
                await asyncio.sleep(seconds)
            case "sleep_with_progress":
                await self.steps(run, node_id, max(1, int(seconds * 10)), 0.1)

    async def save_video(self, run: Run, inputs: dict[str, Any]) -> Result:
        scene, fps = inputs["video"]
        path = testcard.output_path(self.server.path("output"), inputs["filename_prefix"], scene)
        tags = {"prompt": run.graph, **run.item[3].get("extra_pnginfo", {})}
        await asyncio.to_thread(testcard.write_video, path, scene, fps, tags)
        if self.server.faults.strikes("disk_full"):
            os.truncate(path, path.stat().st_size // 2)
            raise av.error.OSError(28, "No space left on device", str(path))
        subfolder = os.path.relpath(path.parent, self.server.path("output"))
        shown = {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"}
        return Result((), {"images": [shown], "animated": [True]})


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def walk_up(graph: Graph, node_id: str, order: list[str]) -> None:
    """Adds the node to the order, after all the nodes that it needs."""
    for value in graph[node_id]["inputs"].values():
        if is_link(value) and value[0] not in order:
            walk_up(graph, value[0], order)
    if node_id not in order:
        order.append(node_id)


def free_name(path: Path, content: bytes) -> Path:
    """The path itself or with " (1)", " (2)"...: the first that is free or holds the same bytes."""
    candidate, number = path, 0
    while candidate.exists() and candidate.read_bytes() != content:
        number += 1
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return candidate


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="comfy.simulator", description="Simulates ComfyUI: no model runs, a test card is drawn."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188, help="0 takes a free one")
    seconds = float(os.environ.get("SIMULATOR_SECONDS_PER_STEP", "0.2"))
    parser.add_argument("--seconds-per-step", type=float, default=seconds)
    parser.add_argument(
        "--directory", type=Path, help="for input/, output/ and temp/; default: a temporary one"
    )
    parser.add_argument(
        "--missing", nargs="+", default=[], metavar="FILE", help="model files it does not have"
    )
    return parser.parse_args()


async def serve(options: argparse.Namespace, directory: Path) -> None:
    models = {folder: [f for f in files if f not in options.missing] for folder, files in MODELS.items()}
    server = Server(directory, models, options.seconds_per_step)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port).start()
    host, port = runner.addresses[0][:2]
    print(f"ComfyUI simulator (no model runs, it draws a test card) on http://{host}:{port}", flush=True)
    await server.sockets.publish()


def main() -> None:
    options = arguments()
    directory = (options.directory or Path(tempfile.mkdtemp(prefix="comfy-simulator-"))).resolve()

    def end(number: int, frame: object) -> None:
        """At once and without a word to anyone, as ComfyUI does; only our own folder is cleared away."""
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # ComfyUI too takes a truncated start image for a whole one
    shutil.rmtree(directory / "temp", ignore_errors=True)
    for kind in ("input", "output", "temp"):
        (directory / kind).mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(serve(options, directory))
    except KeyboardInterrupt:
        print("Stopped server")
    finally:
        shutil.rmtree(directory / "temp" if options.directory else directory, ignore_errors=True)


if __name__ == "__main__":
    main()
