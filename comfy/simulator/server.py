"""The simulator's routes: ComfyUI's own, and those under /simulator."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from comfy.simulator.files import Files
from comfy.simulator.nodes import node_table, object_info
from comfy.simulator.state import Faults, State
from comfy.simulator.validation import error, validate_prompt
from comfy.simulator.worker import PromptWorker

LARGEST_BODY = 100 * 1024 * 1024
LONGEST_FREEZE = 600.0  # seconds
FEATURES = {"supports_preview_metadata": True, "max_upload_size": LARGEST_BODY}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The routes, and the worker that runs what they take in."""

    def __init__(self, state: State) -> None:
        self.state, self.files, self.worker = state, Files(state), PromptWorker(state)

    # A prompt comes in.

    async def post_prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        number = float(body["number"]) if "number" in body else self.state.next_number(body.get("front"))
        if "prompt" not in body:
            reason = error("no_prompt", "No prompt provided", "No prompt provided")
            self.state.note("refused", None, body.get("extra_data"))
            return web.json_response({"error": reason, "node_errors": {}}, status=400)
        graph, prompt_id = body["prompt"], str(body.get("prompt_id", uuid.uuid4()))
        if self.state.newer and not is_uuid(prompt_id):
            reason = error("invalid_prompt_id", "prompt_id must be a valid UUID", "")
            return web.json_response({"error": reason, "node_errors": {}}, status=400)
        extra_data = body.get("extra_data", {})
        if self.state.newer:
            extra_data["create_time"] = int(time.time() * 1000)
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        table, folder = node_table(self.state.models, self.state.images()), self.state.path("input")
        targets = body.get("partial_execution_targets")
        wrong, outputs, node_errors = validate_prompt(graph, table, folder, targets, self.state.newer)
        if wrong:
            self.state.note("refused", prompt_id, extra_data)
            return web.json_response({"error": wrong, "node_errors": node_errors}, status=400)
        self.state.note("accepted", prompt_id, extra_data)
        self.state.put((number, prompt_id, graph, extra_data, outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": node_errors})

    # It waits in the queue.

    async def get_prompt(self, request: web.Request) -> web.Response:
        return web.json_response(self.state.queue_status())

    async def get_queue(self, request: web.Request) -> web.Response:
        running = [self.state.running] if self.state.running else []
        return web.json_response({"queue_running": running, "queue_pending": self.state.pending})

    async def post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            for item in self.state.pending:
                self.state.note("deleted", item[1], item[3])
            self.state.pending.clear()
            self.state.send_status()
        for prompt_id in body.get("delete", []):
            self.state.delete_pending(prompt_id)
        return web.Response()

    async def post_interrupt(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except ValueError:
            body = {}
        wanted = body.get("prompt_id") if isinstance(body, dict) else None
        if not wanted or (self.state.running and self.state.running[1] == wanted):
            self.state.interrupt.set()
        return web.Response()

    async def post_cancel(self, request: web.Request) -> web.Response:
        """In newer versions only: cancels this prompt, whether it waits or runs."""
        prompt_id = request.match_info["prompt_id"]
        running = self.state.running is not None and self.state.running[1] == prompt_id
        pending = any(item[1] == prompt_id for item in self.state.pending)
        self.state.delete_pending(prompt_id)
        if running:
            self.state.interrupt.set()
        return web.json_response({"cancelled": running or pending})

    async def post_free(self, request: web.Request) -> web.Response:
        if (await request.json()).get("free_memory"):
            self.state.free_memory = True
            self.state.wake.set()
        return web.Response()

    # It has run and is in the history.

    async def get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info.get("prompt_id")
        if prompt_id is not None:
            found = {prompt_id: self.state.history[prompt_id]} if prompt_id in self.state.history else {}
            return web.json_response(found)
        count = int(request.query["max_items"]) if "max_items" in request.query else len(self.state.history)
        offset = int(request.query.get("offset", -1))
        start = offset if offset >= 0 else max(0, len(self.state.history) - count)
        return web.json_response(dict(list(self.state.history.items())[start : start + count]))

    async def post_history(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self.state.history.clear()
        for prompt_id in body.get("delete", []):
            self.state.history.pop(prompt_id, None)
        return web.Response()

    # The socket that tells of it.

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self.state.sockets.by_client[client_id] = socket
        self.state.sockets.open.add(socket)
        try:
            status = {"status": self.state.queue_status(), "sid": client_id}
            await self.state.sockets.send_now(socket, "status", status)
            if self.state.client_id == client_id and self.state.last_node is not None:
                await self.state.sockets.send_now(socket, "executing", {"node": self.state.last_node})
            await self.read_socket(socket)
        finally:
            self.state.sockets.open.discard(socket)
            # As in ComfyUI, this removes the socket that has the client id by now: a second one goes silent.
            self.state.sockets.by_client.pop(client_id, None)
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
                await self.state.sockets.send_now(socket, "feature_flags", FEATURES)
            first = False

    # What the server is and has.

    async def get_object_info(self, request: web.Request) -> web.Response:
        table, wanted = (
            node_table(self.state.models, self.state.images()),
            request.match_info.get("class_name"),
        )
        shown = {n: object_info(n, node) for n, node in table.items() if wanted in (None, n)}
        return web.json_response(shown)

    async def get_models(self, request: web.Request) -> web.Response:
        folder = request.match_info.get("folder")
        if folder is None:
            return web.json_response(list(self.state.models))
        if folder not in self.state.models:
            return web.Response(status=404)
        return web.json_response(self.state.models[folder])

    async def get_page(self, request: web.Request) -> web.Response:
        """Stands for ComfyUI's own pages, which are not here: because of them an unknown POST gets a 405."""
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
            "comfyui_version": self.state.version,
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
        return web.json_response(self.state.log)

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
                self.state.faults = Faults()
            case "silent_sockets":
                self.state.sockets.by_client.clear()
            case "close_sockets":
                await asyncio.gather(*(socket.close() for socket in self.state.sockets.open))
            case "freeze":
                self.state.faults.frozen_until = time.monotonic() + min(seconds, LONGEST_FREEZE)
            case "dead_worker":
                self.state.faults.dead_worker = True
                self.state.wake.set()
            case "forget":
                self.state.faults.dead_worker = False
                self.worker.task.cancel()
                self.state.forget()
                self.worker = PromptWorker(self.state)
            case "out_of_memory" | "node_error" | "gpu_error":
                setattr(self.state.faults, kind, count)
            case "disk_full":
                self.state.faults.disk_full = 1
            case "late_history":
                self.state.faults.history_delay = seconds
            case "stall":
                self.state.faults.stall_seconds = seconds
            case "slow":
                self.state.faults.slow_seconds = seconds
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
            web.post(prefix + "/upload/image", self.files.post_upload),
            web.get(prefix + "/view", self.files.get_view),
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
        if self.state.newer:
            application.router.add_post("/api/jobs/{prompt_id}/cancel", self.post_cancel)
        application.router.add_get("/simulator/log", self.get_log)
        application.router.add_post("/simulator/faults", self.post_faults)
        application.router.add_get("/{page:.*}", self.get_page)
        return application

    @web.middleware
    async def freeze(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        while time.monotonic() < self.state.faults.frozen_until and not request.path.startswith(
            "/simulator/"
        ):
            await asyncio.sleep(0.05)
        return await handler(request)


def is_uuid(text: str) -> bool:
    """In its canonical form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
