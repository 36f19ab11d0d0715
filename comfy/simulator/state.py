"""What a ComfyUI keeps in memory: its queue, the prompt that runs, its history and its open sockets; and what
the simulator adds, the faults that were ordered and a log.

The routes (server.py) and the worker (worker.py) both work on it, and share nothing else.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from comfy.simulator.nodes import Graph

VERSIONS = {"0.3.64": "0.3.64", "newer": "0.33.0"}
LONGEST_HISTORY = 10000
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")

# number, prompt id, graph, extra data, output nodes. A heap of plain tuples, as in ComfyUI, so that
# equal numbers and ids go wrong here as they do there: the comparison reaches the graphs and raises.
Item = tuple[float, str, Graph, dict[str, Any], list[str]]


@dataclass
class Faults:
    """What /simulator/faults has ordered and what has not happened yet."""

    out_of_memory: int = 0
    node_error: int = 0
    gpu_error: int = 0
    disk_full: int = 0
    stall_seconds: float = 0.0  # an interrupt has no effect meanwhile
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
        # A socket that has gone is taken out of the table by its own handler.
        with suppress(aiohttp.ClientError, ConnectionError, RuntimeError):
            await socket.send_json({"type": event, "data": data})


class State:
    """``models`` has the names of the model files by folder; ``like`` is one of VERSIONS."""

    def __init__(
        self, directory: Path, models: dict[str, list[str]], seconds_per_step: float, like: str = "0.3.64"
    ) -> None:
        self.directory, self.models, self.seconds_per_step = directory, models, seconds_per_step
        self.version, self.newer = VERSIONS[like], like == "newer"
        self.sockets = Sockets()
        self.faults = Faults()
        self.log_file = directory / "simulator.log"  # stays when we are killed: tests read it
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        self.log: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.forget()

    def forget(self) -> None:
        """The memory of a server that has just started."""
        self.number = 0
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.client_id: str | None = None  # the client whose prompt runs, or ran last
        self.last_node: str | None = None
        self.wake = asyncio.Event()  # tells the worker that there is something to do
        self.interrupt = asyncio.Event()  # stops the prompt that runs
        self.free_memory = False

    def note(self, event: str, prompt_id: str | None, extra_data: Any) -> None:
        entry = {"event": event, "prompt_id": prompt_id, "time": time.time(), "extra_data": extra_data}
        self.log.append(entry)
        with self.log_file.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def path(self, kind: str) -> Path:
        return self.directory / kind

    def images(self) -> list[str]:
        return sorted(entry.name for entry in self.path("input").iterdir() if entry.is_file())

    def next_number(self, front: Any) -> int:
        number = -self.number if front else self.number
        self.number += 1
        return number

    def put(self, item: Item) -> None:
        self.wake.set()  # first: with equal numbers and ids the push raises after it has queued the item
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

    def delete_pending(self, prompt_id: str) -> None:
        for index, item in enumerate(self.pending):
            if item[1] == prompt_id:
                del self.pending[index]
                heapq.heapify(self.pending)
                self.note("deleted", prompt_id, item[3])
                self.send_status()
                return

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
