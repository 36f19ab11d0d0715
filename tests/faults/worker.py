"""``manage.py worker`` with failpoints: places between two steps of a job's way at which a test may strike.

    python -m tests.faults.worker render|publish

A test orders a strike by putting ``ORDERS/<cluster>`` there, one line of JSON: the point, the victim and, if
only one job is meant, its id. The process that gets to the point takes the order away and sends the victim a
SIGKILL; with ``"again": true`` the order stays. The code of the service knows nothing of it: it is wrapped.
"""

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django

from tests.processes import children, parent

RENDER_POINTS = (
    "before claim",
    "claimed",
    "image uploaded",
    "prompt id committed",
    "prompt sent",
    "prompt answered",
    "running",
    "first step",
    "last step",
    "history written",
    "rendered",
    "history forgotten",
)
DELIVERY_POINTS = (
    "delivery claimed",
    "delivery begun",
    "delivery sent",
    "delivery answered",
    "delivery written",
)
PUBLISH_POINTS = ("publish claimed", "fetched", "checked", "upload begun", "uploaded", "completed")
VICTIMS = ("worker", "sentinel", "pusher", "main")


def pid_of(victim: str | int) -> int:
    """The process of this cluster that plays the part, or any other by its number."""
    worker, sentinel = os.getpid(), os.getppid()
    if isinstance(victim, int):
        return victim
    return {
        "worker": lambda: worker,
        "sentinel": lambda: sentinel,
        "pusher": lambda: max(children(sentinel)),  # the last that it forks
        "main": lambda: parent(sentinel),
    }[victim]()


class Failpoints:
    def __init__(self, orders: Path) -> None:
        self.orders = orders

    def reached(self, point: str, job: Any = None) -> None:
        """``job``: a job, or the claim of one."""
        try:
            order = json.loads(self.orders.read_text())
        except FileNotFoundError:
            return
        if order["point"] != point or order["job"] not in (None, str(getattr(job, "job", job))):
            return
        if not order["again"]:
            try:
                self.orders.unlink()
            except FileNotFoundError:
                return  # another worker of this cluster was quicker
        os.kill(pid_of(order["victim"]), signal.SIGKILL)
        if order["victim"] != "worker":
            time.sleep(0.05)  # it is struck here, not a step later

    def wrap(self, owner: Any, name: str, *, before: str = "", after: Callable[..., str] | str = "") -> None:
        """``after`` may be a function of the result and the arguments that says which point this is."""
        wrapped = getattr(owner, name)

        @functools.wraps(wrapped)
        def wrapper(*args: Any, **options: Any) -> Any:
            job = args[0] if args else None
            if before:
                self.reached(before, job)
            result = wrapped(*args, **options)
            point = after(result, *args) if callable(after) else after
            if point:
                self.reached(point, job if result is None else result)
            return result

        setattr(owner, name, wrapper)


def sent(_: None, connection: Any, method: str, url: str, *args: Any) -> str:
    """A job's prompt; the watch, in a thread of the main process, posts an empty one. Or a webhook."""
    if threading.current_thread().name.startswith("deliver"):
        return "delivery sent"
    job = threading.current_thread() is threading.main_thread()
    return "prompt sent" if job and (method, url) == ("POST", "/prompt") else ""


def put(_: None, connection: Any, data: Any, *args: Any) -> str:
    return "upload begun" if isinstance(data, bytes) and data.startswith(b"PUT ") else ""


def install(points: Failpoints) -> None:
    import botocore.awsrequest
    import urllib3.connection

    from comfy.answers import Rendered
    from comfy.client import Comfy
    from comfy.listener import Listener
    from comfy.presets import find
    from jobs.media import receivers, storage, video
    from jobs.queue import deliveries
    from jobs.queue.claim import Claim
    from jobs.workers import deliver, publish, render

    samplers = find("fast").samplers

    def step(_: None, listener: Any, message: dict[str, Any]) -> str:
        nodes = (message.get("data") or {}).get("nodes") or {}
        first, last = ((nodes.get(name) or {}).get("value", 0) for name in samplers)
        return "last step" if last and last == nodes[samplers[1]]["max"] else "first step" if first else ""

    wrap = points.wrap
    wrap(render, "claim_render", before="before claim", after=lambda claim, *_: claim and "claimed")
    wrap(Comfy, "upload_image", after="image uploaded")
    wrap(Claim, "begin", after="prompt id committed")
    wrap(urllib3.connection.HTTPConnection, "request", after=sent)
    wrap(Comfy, "submit", after="prompt answered")
    wrap(Claim, "started", after="running")
    wrap(Listener, "_take", after=step)
    wrap(Comfy, "result", after=lambda result, *_: isinstance(result, Rendered) and "history written")
    wrap(Claim, "rendered", after="rendered")
    wrap(Comfy, "forget", after="history forgotten")
    wrap(publish, "claim_publish", after=lambda claim, *_: claim and "publish claimed")
    wrap(video, "finish", before="fetched", after="checked")
    wrap(botocore.awsrequest.AWSConnection, "send", after=put)
    wrap(storage, "put_video", after="uploaded")
    wrap(Claim, "completed", after="completed")
    wrap(deliver, "claim", after=lambda tries, *_: tries and "delivery claimed")
    wrap(receivers, "post", before="delivery begun", after="delivery answered")
    wrap(deliveries.Try, "finish", after="delivery written")
    deliveries.MARGIN = 0.5  # so that a death is noticed in seconds
    deliveries.PAUSES = tuple(map(float, os.environ["WEBHOOK_PAUSES"].split(",")))


if __name__ == "__main__":
    os.environ |= {"DJANGO_SETTINGS_MODULE": "wanapi.settings", "Q_CLUSTER_NAME": sys.argv[1]}  # as manage.py
    django.setup()
    install(Failpoints(Path(os.environ["ORDERS"]) / sys.argv[1]))
    from django.core.management import call_command

    call_command("worker", sys.argv[1])
