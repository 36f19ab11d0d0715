"""Runs one prompt after the other, node by node, as ComfyUI's worker thread does, and tells of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import av

from comfy.simulator import testcard
from comfy.simulator.nodes import Graph
from comfy.simulator.state import Run, State

ENCODE_STEPS, DECODE_STEPS = 1, 3  # the VAE takes as long as this many steps, in silence
GPU_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might "
    "have accidentally set the batch_size to a large number."
)


class Interrupted(Exception):
    pass


class WorkerDied(BaseException):
    """Ends the worker and nothing else; not an Exception, so that it passes the handling of node errors."""


class OutOfMemoryError(RuntimeError):
    __module__ = "torch"  # is reported as torch.OutOfMemoryError


class AcceleratorError(RuntimeError):
    """How newer versions of torch report this, and also other failures of a GPU."""

    __module__ = "torch"


@dataclass
class Result:
    """What a node gave: its values for other nodes, and for an output node what /history shows."""

    values: tuple[Any, ...]
    shown: dict[str, Any] | None = None


class PromptWorker:
    """Runs one prompt at a time; if it dies, HTTP goes on."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.cache: dict[str, Result] = {}  # the results of the last prompt's nodes
        self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        with suppress(WorkerDied):
            while not self.state.faults.dead_worker:
                if self.state.free_memory:
                    self.cache.clear()
                    self.state.free_memory = False
                self.state.wake.clear()
                if item := self.state.take():
                    await self.run_prompt(Run(item))
                else:
                    await self.state.wake.wait()

    async def run_prompt(self, run: Run) -> None:
        state, prompt_id = self.state, run.prompt_id
        state.note("started", prompt_id, run.item[3])
        state.interrupt.clear()
        state.client_id = run.item[3].get("client_id")
        self.tell(run, "execution_start", {})
        status = await self.run_nodes(run)
        state.last_node = None
        await asyncio.sleep(state.faults.history_delay)
        state.finish(run, status)
        if state.client_id is not None:
            state.sockets.send("executing", {"node": None, "prompt_id": prompt_id}, state.client_id)

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
                image = self.state.path("input") / str(inputs["image"])
                inputs["image"] = hashlib.sha256(image.read_bytes() if image.is_file() else b"").hexdigest()
            whole = json.dumps([node["class_type"], inputs], sort_keys=True)
            keys[node_id] = hashlib.sha256(whole.encode()).hexdigest()
        return keys

    # Telling what happens.

    def tell(self, run: Run, event: str, data: dict[str, Any], broadcast: bool = False) -> None:
        """An execution_* message: kept for the history, sent to the client if there is one."""
        data = {**data, "prompt_id": run.prompt_id, "timestamp": int(time.time() * 1000)}
        run.messages.append([event, data])
        if self.state.client_id is not None or broadcast:
            self.state.sockets.send(event, data, self.state.client_id)

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
        self.state.sockets.send("progress_state", data, self.state.client_id)

    def show_output(self, run: Run, node_id: str, result: Result) -> None:
        """Also for a cached output node, which thus names its old file again."""
        if result.shown is None:
            return
        run.outputs[node_id] = result.shown
        if self.state.client_id is not None:
            data = {"node": node_id, "display_node": node_id, "output": result.shown}
            self.state.sockets.send("executed", {**data, "prompt_id": run.prompt_id}, self.state.client_id)

    def place(self, run: Run, node_id: str) -> dict[str, Any]:
        node_type = run.graph[node_id]["class_type"]
        return {"node_id": node_id, "node_type": node_type, "executed": run.executed}

    def failure(self, run: Run, node_id: str, exc: Exception, keys: dict[str, str]) -> dict[str, Any]:
        kind, tips = (
            type(exc),
            GPU_TIPS if "out of memory" in str(exc) or isinstance(exc, OutOfMemoryError) else "",
        )
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
        if self.state.client_id is not None:
            self.state.last_node = node_id
            data = {"node": node_id, "display_node": node_id, "prompt_id": run.prompt_id}
            self.state.sockets.send("executing", data, self.state.client_id)
        if self.state.interrupt.is_set():
            raise Interrupted
        inputs = self.input_values(run.graph, node_id, keys)
        match run.graph[node_id]["class_type"]:
            case "CLIPTextEncode":
                return Result((inputs["text"],))
            case "LoadImage":
                path = self.state.path("input") / inputs["image"]
                return Result((await asyncio.to_thread(testcard.load, path), None))  # no mask
            case "EmptyHunyuanLatentVideo":
                return Result((testcard.empty_scene(inputs),))
            case "WanImageToVideo":
                return await self.encode(inputs, "start_image")
            case "WanFirstLastFrameToVideo":
                return await self.encode(inputs, "start_image", "end_image")
            case "KSamplerAdvanced":
                return Result((await self.sample(run, node_id, inputs),))
            case "VAEDecode":
                await asyncio.sleep(DECODE_STEPS * self.seconds_per_step(inputs["samples"]))
                if self.state.faults.strikes("node_error"):
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

    async def encode(self, inputs: dict[str, Any], start: str, end: str = "") -> Result:
        """Images by the names of their inputs; each may be missing."""
        scene = replace(testcard.empty_scene(inputs), start=inputs.get(start), end=inputs.get(end))
        await asyncio.sleep(ENCODE_STEPS * self.seconds_per_step(scene))
        return Result((inputs["positive"], inputs["negative"], scene))

    async def sample(self, run: Run, node_id: str, inputs: dict[str, Any]) -> testcard.Scene:
        faults = self.state.faults
        if faults.strikes("out_of_memory"):
            raise self.out_of_memory()
        if faults.strikes("gpu_error"):
            raise AcceleratorError("CUDA error: an illegal memory access was encountered\n")
        stall, faults.stall_seconds = faults.stall_seconds, 0.0
        await asyncio.sleep(stall)
        latents: testcard.Scene = inputs["latent_image"]
        steps = max(0, min(inputs["end_at_step"], inputs["steps"]) - inputs["start_at_step"])
        slow, faults.slow_seconds = faults.slow_seconds, 0.0
        await self.steps(run, node_id, steps, self.seconds_per_step(latents) + slow / max(1, steps))
        scene = replace(latents, text=inputs["positive"], steps=latents.steps + steps)
        return replace(scene, seed=inputs["noise_seed"]) if inputs["add_noise"] == "enable" else scene

    def seconds_per_step(self, scene: testcard.Scene) -> float:
        return self.state.seconds_per_step * scene.work

    def out_of_memory(self) -> Exception:
        if self.state.newer:
            return AcceleratorError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA ...\n")
        return OutOfMemoryError("Allocation on device ")

    async def steps(self, run: Run, node_id: str, count: int, seconds: float) -> None:
        """The one place where an interrupt stops a node that is at work."""
        for step in range(1, count + 1):
            try:
                await asyncio.wait_for(self.state.interrupt.wait(), seconds)
                raise Interrupted
            except TimeoutError:
                self.progress(run, node_id, "running", step, count)
                data = {"value": step, "max": count, "prompt_id": run.prompt_id, "node": node_id}
                self.state.sockets.send("progress", data, self.state.client_id)

    async def go_wrong(self, run: Run, node_id: str, kind: str, seconds: float) -> None:
        match kind:
            case "raise":
                raise ValueError("a test fault")
            case "cuda_oom":
                raise self.out_of_memory()
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
        path = testcard.output_path(self.state.path("output"), inputs["filename_prefix"], scene)
        tags = {"prompt": run.graph, **run.item[3].get("extra_pnginfo", {})}
        await asyncio.to_thread(testcard.write_video, path, scene, fps, tags)
        if self.state.faults.strikes("disk_full"):
            os.truncate(path, path.stat().st_size // 2)
            raise av.error.OSError(28, "No space left on device", str(path))
        subfolder = os.path.relpath(path.parent, self.state.path("output"))
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
