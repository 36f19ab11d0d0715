"""``make serve``: the stack in the foreground, until Ctrl-C or SIGTERM."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from local.greeting import greeting
from local.parts import ROOT, Problem
from local.reach import Reach, links_port
from local.stack import Stack

FOLDER = ROOT / ".local" / "serve"
# Variables that, when set, are used instead of what the stack would choose or start itself.
NAMES = """
    API_KEY SECRET_KEY ALLOWED_HOSTS HOST PORT PUBLIC_ADDRESS S3_PORT DATABASE_URL
    COMFYUI_URL COMFYUI_INPUT_DIR COMFYUI_OUTPUT_DIR ENGINE_NAME WARM_UP
    WORKFLOW_PRESET PRESETS_DIR
    S3_BUCKET S3_ENDPOINT_URL S3_PUBLIC_ENDPOINT_URL
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_DEFAULT_REGION
"""


def given() -> dict[str, str]:
    found = {name: os.environ[name] for name in NAMES.split() if os.environ.get(name)}
    for name in NAMES.split():
        if path := os.environ.get(f"{name}_FILE"):
            try:
                found[name] = Path(path).read_text().strip()
            except (OSError, ValueError):
                raise Problem(f"{name}_FILE must name a text file that can be read, not {path!r}.") from None
    return found


class Stopped(Exception):
    pass


def stop_on_signals() -> None:
    """Raises Stopped on the first signal. Further ones are ignored, so that they cannot cut it short."""

    def stop(signum: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        raise Stopped

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, stop)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem("It runs already in this checkout; stop that one first.") from None
        yield


def main() -> None:
    stop_on_signals()
    env_file = FOLDER / "env"
    try:
        with only_one(FOLDER):
            stack = make_stack(given())
            try:
                print("Starting ...", flush=True)
                stack.start()
                leave_settings(stack, env_file)
                print(greeting(stack), flush=True)
                while stack.running():
                    time.sleep(0.5)
                raise Problem(f"supervisord ended by itself; see {stack.logs}/supervisord.log.")
            finally:
                stop_on_signals_no_more()
                if stack.supervisor:
                    print("Stopping ...", flush=True)
                env_file.unlink(missing_ok=True)
                stack.stop()
    except Stopped:
        pass
    except (Problem, OSError) as problem:
        sys.exit(f"make serve: {problem}")


def make_stack(given: dict[str, str]) -> Stack:
    if {"S3_BUCKET", "S3_ENDPOINT_URL"} & given.keys():
        return Stack(FOLDER, given)  # another S3: links lead straight to it
    service = given.get("PORT", "8000")
    port, moved = links_port(
        FOLDER, Reach.of(given).listen, given.get("S3_PORT", ""), int(service) if service.isdecimal() else 0
    )
    stack = Stack(FOLDER, given, port)
    stack.notes += [moved] if moved else []
    return stack


def stop_on_signals_no_more() -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)


def leave_settings(stack: Stack, path: Path) -> None:
    """For manage.py in the same checkout, which reads this file (wanapi/settings.py)."""
    path.touch(mode=0o600)
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in stack.env.items()}
    path.write_text("".join(f"{name}='{value}'\n" for name, value in quoted.items()))


if __name__ == "__main__":
    main()
