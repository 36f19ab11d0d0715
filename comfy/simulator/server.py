"""A simulator of ComfyUI: its HTTP and WebSocket protocol, and a test card in place of the model's work.

It is for demos and tests on machines without a GPU. It is not ComfyUI and runs no model: it knows the few
node classes that a WAN 2.2 graph needs, waits as long as sampling would take, and draws a video that says
SIMULATED in every frame. What a driver can see is meant to be as in ComfyUI 0.3.64, its oddities included;
with ``--like newer`` as in 0.33.0, where that differs.

A prompt's way: `Server.post_prompt` checks and queues it, `Worker.work` (comfy/simulator/worker.py) runs its
nodes and tells the sockets, and `Server.finish` writes the history entry. The routes under /simulator are its
own: a log of what happened, and faults to order.

    python -m comfy.simulator --port 8188 [--seconds-per-step 0.2] [--directory DIR] [--missing FILE ...]
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import mimetypes
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from PIL import ImageFile

from comfy.simulator.nodes import MODELS, error, node_table, object_info, validate_prompt
from comfy.simulator.worker import Faults, Item, Run, Worker

VERSIONS = {"0.3.64": "0.3.64", "newer": "0.33.0"}
LARGEST_BODY = 100 * 1024 * 1024
LONGEST_HISTORY = 10000
LONGEST_FREEZE = 600.0  # seconds
FEATURES = {"supports_preview_metadata": True, "max_upload_size": LARGEST_BODY}
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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

    def __init__(
        self, directory: Path, models: dict[str, list[str]], seconds_per_step: float, like: str = "0.3.64"
    ) -> None:
        self.directory, self.models, self.seconds_per_step = directory, models, seconds_per_step
        self.version, self.newer = VERSIONS[like], like == "newer"
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
        if self.newer and not is_uuid(prompt_id):
            reason = error("invalid_prompt_id", "prompt_id must be a valid UUID", "")
            return web.json_response({"error": reason, "node_errors": {}}, status=400)
        extra_data = body.get("extra_data", {})
        if self.newer:
            extra_data["create_time"] = int(time.time() * 1000)
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        table, targets = node_table(self.models, self.images()), body.get("partial_execution_targets")
        wrong, outputs, node_errors = validate_prompt(graph, table, self.path("input"), targets, self.newer)
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

    async def post_cancel(self, request: web.Request) -> web.Response:
        """Newer ones: pending or running, and nothing else."""
        prompt_id = request.match_info["prompt_id"]
        running = self.running is not None and self.running[1] == prompt_id
        pending = any(item[1] == prompt_id for item in self.pending)
        self.delete_pending(prompt_id)
        if running:
            self.worker.interrupt.set()
        return web.json_response({"cancelled": running or pending})

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

    async def get_page(self, request: web.Request) -> web.Response:
        """ComfyUI's own pages are not here. Being there for GET alone, they make an unknown POST a 405."""
        return web.Response(status=404)

    async def get_features(self, request: web.Request) -> web.Response:
        return web.json_response(FEATURES)

    async def get_system_stats(self, request: web.Request) -> web.Response:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        system = {
            "os": os.name,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": self.version,
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
            case "out_of_memory" | "node_error" | "gpu_error":
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
        if self.newer:
            application.router.add_post("/api/jobs/{prompt_id}/cancel", self.post_cancel)
        application.router.add_get("/simulator/log", self.get_log)
        application.router.add_post("/simulator/faults", self.post_faults)
        application.router.add_get("/{page:.*}", self.get_page)
        return application

    @web.middleware
    async def freeze(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        while time.monotonic() < self.faults.frozen_until and not request.path.startswith("/simulator/"):
            await asyncio.sleep(0.05)
        return await handler(request)


def free_name(path: Path, content: bytes) -> Path:
    """The path itself or with " (1)", " (2)"...: the first that is free or holds the same bytes."""
    candidate, number = path, 0
    while candidate.exists() and candidate.read_bytes() != content:
        number += 1
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return candidate


def is_uuid(text: str) -> bool:
    """In its canonical form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="comfy.simulator", description="Simulates ComfyUI: no model runs, a test card is drawn."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188, help="0 takes a free one")
    seconds = os.environ.get("SIMULATOR_SECONDS_PER_STEP") or "0.2"
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", seconds, re.ASCII):
        parser.error(f"SIMULATOR_SECONDS_PER_STEP must be a number of seconds as 0.2, not {seconds!r}.")
    parser.add_argument("--seconds-per-step", type=float, default=float(seconds))
    parser.add_argument(
        "--directory", type=Path, help="for input/, output/ and temp/; default: a temporary one"
    )
    parser.add_argument(
        "--missing", nargs="+", default=[], metavar="FILE", help="model files it does not have"
    )
    parser.add_argument("--like", choices=list(VERSIONS), default="0.3.64", help="which ComfyUI to be like")
    return parser.parse_args()


async def serve(options: argparse.Namespace, directory: Path) -> None:
    models = {folder: [f for f in files if f not in options.missing] for folder, files in MODELS.items()}
    server = Server(directory, models, options.seconds_per_step, options.like)
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
