"""The whole service as processes, with every line between them in a test's hands."""

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg
import requests
from psycopg.rows import dict_row

from jobs.models.job import prompt_id
from local.parts import Part, free_port
from local.stack import Stack
from tests.factories import FULL, eventually
from tests.faults.proxy import Proxy
from tests.processes import pids

# Seconds between the tries of a webhook: nine, as the service has, for a receiver that is away so long.
PAUSES = "5,30,60,90,90,90,100,120,120" if FULL else "0.5,1,1,1,1,2,2,2,2"
FINAL = ("completed", "failed", "cancelled")


class FaultStack(Stack):
    """Postgres, S3 and ComfyUI stand behind a proxy each; the clusters have failpoints."""

    def __init__(self, folder: Path, settings: dict[str, str]):
        given = {"PORT": str(free_port()), "WORKFLOW_PRESET": "fast"} | settings
        super().__init__(folder, given)
        self.orders = self.folder / "orders"
        self.orders.mkdir()
        self.env["ORDERS"] = str(self.orders)
        self.env["WEBHOOK_PAUSES"] = PAUSES
        self.database_url, self.simulator_url = self.env["DATABASE_URL"], self.env["COMFYUI_URL"]
        self.s3_url = self.env["S3_ENDPOINT_URL"]
        self.postgres = self._proxied("DATABASE_URL")
        self.s3 = self._proxied("S3_ENDPOINT_URL")
        self.comfyui = self._proxied("COMFYUI_URL")

    def _proxied(self, name: str) -> Proxy:
        port = urlsplit(self.env[name]).port
        assert port
        proxy = Proxy(port)
        self.env[name] = self.env[name].replace(f":{port}", f":{proxy.port}")
        return proxy

    def _programs(self) -> dict[str, Part]:
        programs = super()._programs()
        for cluster in ("render", "publish"):
            programs[cluster] = Part([sys.executable, "-m", "tests.faults.worker", cluster])
        return programs


class Service:
    """What a client, an operator and a saboteur do."""

    def __init__(self, folder: Path, **settings: str):
        self.stack = FaultStack(folder, settings)
        self.postgres, self.s3, self.comfyui = self.stack.postgres, self.stack.s3, self.stack.comfyui
        self.headers = {"X-API-Key": self.stack.env["API_KEY"]}

    def start(self) -> None:
        self.stack.start()
        eventually(lambda: requests.get(self.stack.url + "/health", timeout=5).json()["model_loaded"])

    def stop(self) -> None:
        self.stack.stop()
        for proxy in (self.postgres, self.s3, self.comfyui):
            proxy.close()

    # The client

    def post(self, **body: Any) -> requests.Response:
        key = {"Idempotency-Key": key} if (key := body.pop("key", None)) else {}
        body = {"prompt": "A cat among faults"} | body
        return requests.post(self.stack.url + "/generate", json=body, headers=self.headers | key, timeout=30)

    def submit(self, **body: Any) -> str:
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """As GET /jobs/{id} says; {} if it cannot say, because the database is away."""
        answer = requests.get(f"{self.stack.url}/jobs/{job_id}", headers=self.headers, timeout=30)
        return answer.json() if answer.status_code == 200 else {}

    def status(self, job_id: str) -> str:
        return str(self.job(job_id).get("status"))

    def finished(self, job_id: str, within: float = 90) -> dict[str, Any]:
        return eventually(
            lambda: (job := self.job(job_id)).get("status") in FINAL and job, within, f"the end of {job_id}"
        )

    def plays(self, job: dict[str, Any]) -> bool:
        """The link gives the file that the publisher checked, frame by frame."""
        [row] = self.rows("id = %s", job["job_id"])
        video = requests.get(job["video_url"], timeout=30).content
        return hashlib.sha256(video).hexdigest() == row["video_sha256"] and row["video_frames"] == 81

    def cancel(self, job_id: str) -> None:
        requests.post(f"{self.stack.url}/jobs/{job_id}/cancel", headers=self.headers, timeout=30)

    # The operator

    def rows(self, where: str = "TRUE", *values: Any) -> list[dict[str, Any]]:
        return self._select("jobs_job", where, *values)

    def webhooks(self, where: str, *values: Any) -> list[dict[str, Any]]:
        return self._select("jobs_delivery", where, *values)

    def _select(self, table: str, where: str, *values: Any) -> list[dict[str, Any]]:
        query = f"SELECT * FROM {table} WHERE {where}"
        while True:
            with contextlib.suppress(psycopg.OperationalError):  # it is being restarted
                with psycopg.connect(self.stack.database_url, row_factory=dict_row) as connection:
                    return connection.execute(query, values).fetchall()  # type: ignore[arg-type]
            time.sleep(0.2)

    def objects(self) -> set[str]:
        """The keys of all that S3 holds."""
        s3 = boto3.client("s3", endpoint_url=self.stack.s3_url)
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.stack.env["S3_BUCKET"])
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}

    # The witness: what ComfyUI saw

    def log(self) -> list[dict[str, Any]]:
        return requests.get(f"{self.stack.simulator_url}/simulator/log", timeout=10).json()  # type: ignore[no-any-return]

    def prompts(self, job_id: str, log: list[dict[str, Any]] | None = None) -> int:
        ids = {prompt_id(uuid.UUID(job_id), render) for render in range(1, 20)}
        entries = self.log() if log is None else log
        return sum(entry["event"] == "accepted" and entry["prompt_id"] in ids for entry in entries)

    def queue(self) -> list[Any]:
        """What ComfyUI runs and what waits there."""
        answer = requests.get(f"{self.stack.simulator_url}/queue", timeout=10).json()
        return [*answer["queue_running"], *answer["queue_pending"]]

    def most_prompts_at_once(self, since: float) -> int:
        """How many prompts of ours were in ComfyUI at the same time."""
        inside, most = set(), 0
        for entry in self.log():
            if entry["event"] == "accepted":
                inside.add(entry["prompt_id"])
            elif entry["event"] in ("finished", "failed", "interrupted", "deleted"):
                inside.discard(entry["prompt_id"])
            if entry["time"] >= since:
                most = max(most, len(inside))
        return most

    def longest_idle(self, since: float, until: float) -> float:
        """The longest time in seconds from the end of a prompt to the start of the next."""
        ends, longest = None, 0.0
        for entry in self.log():
            if since < entry["time"] < until:
                if entry["event"] == "finished":
                    ends = entry["time"]
                elif entry["event"] == "started" and ends:
                    longest = max(longest, entry["time"] - ends)
        return longest

    # The saboteur

    def slow(self, seconds: float) -> None:
        """The next prompt to start takes so much longer."""
        fault = {"kind": "slow", "seconds": seconds}
        requests.post(f"{self.stack.simulator_url}/simulator/faults", json=fault, timeout=5)

    def order(self, cluster: str, point: str, victim: str | int = "worker", **options: Any) -> None:
        """A SIGKILL at that point: see tests/faults/worker.py."""
        order = {"point": point, "victim": victim, "job": None, "again": False} | options
        partial = self.stack.orders / f".{cluster}"
        partial.write_text(json.dumps(order))
        partial.rename(self.stack.orders / cluster)

    def struck(self, cluster: str) -> bool:
        return not (self.stack.orders / cluster).exists()

    def pids(self, program: str) -> list[int]:
        return pids(self.stack, program)

    def kill(self, program: str, signum: int = signal.SIGKILL) -> None:
        os.kill(self.pids(program)[0], signum)
