"""One more GPU for a running stack: a simulator of its own, and a render worker that joins the others."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from local import parts
from local.parts import ROOT, Part
from local.stack import Stack


class Gpu:
    def __init__(self, stack: Stack, name: str, missing: Sequence[str] = ()):
        folder, port = stack.folder / name, parts.free_port()
        self.stack, self.url, self.name = stack, f"http://127.0.0.1:{port}", name
        self.settings = {
            "COMFYUI_URL": self.url,
            "ENGINE_NAME": name,
            "COMFYUI_INPUT_DIR": str(folder / "comfyui" / "input"),
            "COMFYUI_OUTPUT_DIR": str(folder / "comfyui" / "output"),
        }
        self.simulator = self._start("simulator", parts.simulator(folder, port=port, missing=missing))
        self.worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.worker = self._start("render", Part([sys.executable, "manage.py", "worker", "render"]))

    def stop(self) -> None:
        """Stops the worker; the simulator goes on with the prompts that it has."""
        if self.worker:
            _end(self.worker)
            self.worker = None

    def remove(self) -> None:
        self.stop()
        _end(self.simulator)

    def _start(self, what: str, part: Part) -> "subprocess.Popen[bytes]":
        with (self.stack.logs / f"{self.name}-{what}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "local.child", "--", *part.command],
                cwd=ROOT,
                env=os.environ | self.stack.env | self.settings,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
