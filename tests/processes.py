"""What /proc says of the processes of a stack."""

import contextlib
from pathlib import Path

from local.stack import Stack


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def family(pid: int) -> list[int]:
    """A process and all below it, by generation and age."""
    found, generation = [pid], [pid]
    while generation := [child for member in generation for child in sorted(children(member))]:
        found += generation
    return found


def pids(stack: Stack, program: str) -> list[int]:
    """The processes of a program of the stack, from the main one down; [] while it is restarted."""
    assert stack.supervisor
    for pid in children(stack.supervisor.pid):  # local.child has become supervisord by now
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if program in command and "local.child" not in command:
                return family(pid)
    return []


class Memory:
    """Of gunicorn's processes, in MiB. ``peak`` counts from the last ``forget``."""

    def __init__(self, stack: Stack):
        self.stack = stack

    def forget(self) -> None:
        for pid in pids(self.stack, "gunicorn"):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        return self._largest("VmHWM")

    def now(self) -> int:
        return self._largest("VmRSS")

    def _largest(self, name: str) -> int:
        """Of the web processes, without those that decode images."""
        sizes = []
        for pid in pids(self.stack, "gunicorn"):
            status = Path(f"/proc/{pid}/status").read_text()
            if "jobs.media.decode" not in Path(f"/proc/{pid}/cmdline").read_text():
                sizes.append(int(status.partition(f"{name}:")[2].split()[0]) // 1024)
        return max(sizes)
