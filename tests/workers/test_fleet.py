"""Many GPUs: workers on one database, each with a ComfyUI of its own, that come and go."""

import os
import re
import subprocess
import sys
import uuid
from contextlib import ExitStack, contextmanager
from itertools import chain

import psycopg
import pytest
import requests

from comfy.simulator.nodes import MODELS
from jobs.models.job import prompt_id
from local.gpu import Gpu
from local.parts import ROOT, free_port
from local.stack import Stack
from tests.factories import encoded_picture, eventually
from tests.stack import FOLDER, SHORT_LEASES

JOBS = 32


@pytest.fixture(scope="module")
def stack():
    port = str(free_port())
    stack = Stack(FOLDER / "fleet", {"PORT": port, "WORKFLOW_PRESET": "fast"} | SHORT_LEASES)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def make_key(stack, name):
    command = [sys.executable, "manage.py", "create_api_key", name]
    env = os.environ | stack.env
    return subprocess.run(
        command, cwd=ROOT, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


@contextmanager
def fleet(stack, names, missing=()):
    with ExitStack() as removals:
        gpus = [Gpu(stack, name, missing) for name in names]
        for gpu in gpus:
            removals.callback(gpu.remove)
        yield gpus


def accepted(url):
    log = requests.get(f"{url}/simulator/log", timeout=10).json()
    return [entry["prompt_id"] for entry in log if entry["event"] == "accepted"]


class Caller:
    """A client with a key of its own, or the environment's."""

    def __init__(self, stack, key=None):
        self.url, self.headers = stack.url, {"X-API-Key": key or stack.env["API_KEY"]}

    def submit(self, **more):
        body = {"prompt": "A cat in a fleet"} | more
        answer = requests.post(self.url + "/generate", json=body, headers=self.headers, timeout=30)
        return answer.json()["job_id"]

    def jobs(self):
        return requests.get(self.url + "/jobs?limit=1000", headers=self.headers, timeout=30).json()

    def engines(self):
        """How many have looked at their ComfyUI."""
        told = requests.get(f"{self.url}/metrics", headers=self.headers, timeout=30).text
        return len(re.findall(r"^wanapi_engine_answers\S* 1", told, re.MULTILINE))

    def done(self):
        return sum(job["status"] == "completed" for job in self.jobs())


def claims(stack):
    """The jobs in the order of their first claims."""
    with psycopg.connect(stack.env["DATABASE_URL"]) as postgres:
        rows = postgres.execute("SELECT job_id FROM jobs_event WHERE kind = 'claimed' ORDER BY at, id")
        return list(dict.fromkeys(str(job) for (job,) in rows))


def test_workers_come_and_go_and_each_job_is_done_once_and_in_turn(stack):
    first, other = Caller(stack), Caller(stack, make_key(stack, "other"))
    with fleet(stack, ["gpu-2", "gpu-3", "gpu-4"]) as (second, third, fourth):
        second.start()
        third.start()
        jobs = [first.submit() for _ in range(JOBS)]
        eventually(lambda: first.done() >= 2)
        late = [other.submit() for _ in range(4)]
        before = len(claims(stack))
        fourth.start()
        second.stop()  # in the middle of a render, which its ComfyUI goes on with, for the next worker there
        second.start()
        third.worker.kill()
        third.worker.wait()
        third.start()
        eventually(lambda: first.done() == len(jobs) + len(late))

        urls = [stack.env["COMFYUI_URL"], second.url, third.url, fourth.url]
        prompts = [accepted(url) for url in urls]

    once = {prompt_id(uuid.UUID(job), 1) for job in jobs + late}
    assert sorted(chain(*prompts)) == sorted(once)  # each job one prompt, on one of them
    assert all(prompts)
    assert max(map(claims(stack).index, late)) < before + 2 * len(late)  # one of each key in turn


def test_beside_an_engine_that_lacks_model_files_no_job_fails(stack):
    """One lacks everything, one the files of image-to-video alone."""
    client = Caller(stack)
    everything = [name for names in MODELS.values() for name in names]
    i2v = [name for name in everything if "i2v" in name]
    image = encoded_picture()
    with fleet(stack, ["poor"], everything) as (poor,), fleet(stack, ["half"], i2v) as (half,):
        poor.start()
        half.start()
        eventually(lambda: client.engines() == 3)
        before = client.done()
        small = {"size": "256x256", "num_frames": 5}
        asked = [small | ({"image_base64": image} if number % 2 else {}) for number in range(100)]
        jobs = [client.submit(**each) for each in asked]
        eventually(lambda: client.done() == before + len(jobs), within=120)

        assert accepted(poor.url) == []
        images = {prompt_id(uuid.UUID(job), 1) for job in jobs[1::2]}
        assert not images & set(accepted(half.url))
        assert accepted(half.url)
