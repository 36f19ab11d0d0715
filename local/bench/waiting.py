"""``make bench-wait``: 200 clients that wait for jobs, how soon they are told, and whether others notice.

The stack is a real one. No worker begins the jobs; ``waiting_clients.py`` changes them in place of one.
"""

import os
import shutil
import subprocess
import sys

import requests

from local import parts
from local.parts import ROOT
from local.serve import Stopped, stop_on_signals, stop_on_signals_no_more
from local.stack import Problem, Stack

FOLDER = ROOT / ".local" / "bench-wait"


def main() -> None:
    stop_on_signals()
    shutil.rmtree(FOLDER, ignore_errors=True)
    stack = Stack(FOLDER, {"PORT": str(parts.free_port()), "LOG_LEVEL": "WARNING"})
    try:
        stack.start()
        command = [sys.executable, "-m", "local.bench.waiting_clients", stack.url]
        sys.exit(subprocess.call(command, cwd=ROOT, env=os.environ | stack.env))
    except Stopped:
        sys.exit("make bench-wait: stopped.")
    except (Problem, OSError, requests.RequestException) as problem:
        sys.exit(f"make bench-wait: {problem}")
    finally:
        stop_on_signals_no_more()
        stack.stop()


if __name__ == "__main__":
    main()
