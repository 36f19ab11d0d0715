"""Starts the simulator: its options and its folders.

python -m comfy.simulator --port 8188 [--seconds-per-step 0.2] [--directory DIR] [--missing FILE ...]
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from aiohttp import web
from PIL import ImageFile

from comfy.simulator.nodes import MODELS
from comfy.simulator.server import Server
from comfy.simulator.state import VERSIONS, State


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="comfy.simulator", description="Simulates ComfyUI: no model runs, a test card is drawn."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188, help="0 takes a free one")
    seconds = os.environ.get("SIMULATOR_SECONDS_PER_STEP") or "0.2"
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", seconds, re.ASCII):
        parser.error(f"SIMULATOR_SECONDS_PER_STEP must be a number of seconds as 0.2, not {seconds!r}.")
    parser.add_argument(
        "--seconds-per-step",
        type=float,
        default=float(seconds),
        help="of 832x480 with 81 frames; more pixels or frames take longer in proportion",
    )
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
    state = State(directory, models, options.seconds_per_step, options.like)
    runner = web.AppRunner(Server(state).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port).start()
    host, port = runner.addresses[0][:2]
    print(f"ComfyUI simulator (no model runs, it draws a test card) on http://{host}:{port}", flush=True)
    await state.sockets.publish()


def main() -> None:
    options = arguments()
    directory = (options.directory or Path(tempfile.mkdtemp(prefix="comfy-simulator-"))).resolve()

    def end(number: int, frame: object) -> None:
        """Ends at once and tells nobody, as ComfyUI does; only a temporary folder of ours is removed."""
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
