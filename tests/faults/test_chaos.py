"""Many faults at random, for minutes. Only ``make test-faults`` runs these at their full length."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pytest
import requests

from local.parts import ROOT
from tests.factories import encoded_picture, eventually
from tests.faults.service import FINAL, Service
from tests.processes import family
from tests.stack import FOLDER, SHORT_LEASES


@pytest.fixture(autouse=True)
def healed(service):
    yield
    for proxy in (service.postgres, service.s3, service.comfyui):
        proxy.heal()


class Restarted:
    """A second render cluster on the same ComfyUI, started again whenever it goes."""

    def __init__(self, service):
        self.command = [
            sys.executable,
            "-m",
            "local.child",
            "--",
            sys.executable,
            "-m",
            "tests.faults.worker",
            "render",
        ]
        self.env = os.environ | service.stack.env
        self.ended = threading.Event()
        self.process = self._start()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _start(self):
        return subprocess.Popen(self.command, env=self.env, cwd=ROOT, stderr=subprocess.DEVNULL)

    def _watch(self):
        while not self.ended.wait(0.1):
            if self.process.poll() is not None:
                self.process = self._start()

    def stop(self):
        self.ended.set()
        self.thread.join()
        self.process.kill()  # its children die with it
        self.process.wait()


def freeze(pids, seconds):
    """A cluster that stands still for longer than its leases, and then goes on as if nothing had been."""
    for signum in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        if signum == signal.SIGSTOP:
            time.sleep(seconds)


@pytest.mark.full
def test_two_clusters_and_orphans_on_one_comfyui(service, figure):
    dice, jobs, began = random.Random(2), [], time.time()
    second = Restarted(service)
    try:
        while time.time() < began + 600:
            if len(service.rows("status = 'queued'")) < 4:
                jobs += [service.submit() for _ in range(4)]
            clusters = [service.pids("worker\0render"), family(second.process.pid)]
            cluster = dice.choice([cluster for cluster in clusters if len(cluster) > 4] or clusters)
            if dice.random() < 0.5:
                freeze(cluster, 8)
            elif cluster:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(cluster), signal.SIGKILL)
            time.sleep(dice.uniform(0, 4))
        done = [service.finished(job) for job in jobs]
    finally:
        second.stop()

    most = service.most_prompts_at_once(began)
    log = service.log()
    prompts = sum(service.prompts(job, log) for job in jobs)
    figure(
        "two clusters and orphans on one ComfyUI for 10 minutes",
        f"at most {most} prompts at once (one runs, one waits); {len(jobs)} jobs, {prompts} prompts, "
        f"{sum(job['status'] != 'completed' for job in done)} not completed",
    )
    assert most <= 2
    assert {job["status"] for job in done} == {"completed"}


class Saboteur:
    """One fault every ``pause`` seconds, until it is told to end."""

    def __init__(self, service, pause):
        self.service, self.pause = service, pause
        self.dice = random.Random(3)
        self.struck = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.ended.wait(self.pause):
            fault = self.dice.choice([self.kill, self.freeze, self.outage, self.restart_postgres])
            with contextlib.suppress(ProcessLookupError, IndexError):
                self.struck.append(fault())

    def kill(self):
        program = self.dice.choice(["worker\0render", "worker\0publish", "comfy.simulator", "gunicorn"])
        os.kill(self.dice.choice(self.service.pids(program)), signal.SIGKILL)
        return "kill"

    def freeze(self):
        freeze(self.service.pids(self.dice.choice(["worker\0render", "worker\0publish"])), 8)
        return "freeze"

    def outage(self):
        proxy = self.dice.choice([self.service.postgres, self.service.s3, self.service.comfyui])
        troubles = [proxy.refuse, proxy.hang, proxy.cut]
        if proxy is self.service.s3:
            troubles += [lambda: proxy.fail(503), lambda: proxy.fail(403)]
        self.dice.choice(troubles)()
        time.sleep(self.dice.uniform(1, 8))
        proxy.heal()
        return "outage"

    def restart_postgres(self):
        self.service.kill("pginstall", signal.SIGINT)
        return "restart"

    def stop(self):
        self.ended.set()
        self.thread.join()


def submit_stubbornly(service, number):
    """As a good client does: the same key until there is an answer."""
    body = {"key": f"chaos {number}"} | ({"image_base64": encoded_picture()} if number % 5 == 0 else {})
    while True:
        with contextlib.suppress(requests.RequestException):
            answer = service.post(**body)
            if answer.status_code == 200:
                return answer.json()["job_id"]
            assert answer.status_code == 503, answer.text
        time.sleep(0.2)


def memory(service, program):
    """MiB of resident memory of a program's processes together."""
    total = 0
    for pid in service.pids(program):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total // 2**20


def ownerless(service):
    """Runs the purge, for which everything is old, and counts the objects that no row names."""
    code = (
        "import django; django.setup(); from datetime import timedelta; "
        "from django.core.management import call_command; "
        "from jobs.management.commands import purge_leftovers as purge; purge.LEAST_AGE = timedelta(0); "
        "call_command('purge_leftovers', older_than=timedelta(0))"
    )
    env = os.environ | service.stack.env | {"DJANGO_SETTINGS_MODULE": "wanapi.settings"}
    purged = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert purged.returncode == 0, purged.stderr
    rows = service.rows()
    completed = [f"videos/{row['id']}/{row['fence']}" for row in rows if row["status"] == "completed"]
    owned = {f"{video}.{ending}" for video in completed for ending in ("mp4", "jpg")}
    owned |= {f"inputs/{row['id']}.png" for row in rows}
    s3 = boto3.client("s3", endpoint_url=service.stack.env["S3_ENDPOINT_URL"])
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="wanapi")
    kept = {item["Key"] for page in pages for item in page.get("Contents", [])}
    return len(kept - owned), purged.stdout.splitlines()[-1]


@pytest.fixture
def fresh():
    service = Service(FOLDER / "chaos", **SHORT_LEASES)
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.mark.full
def test_500_jobs_with_a_fault_every_ten_seconds(fresh, figure):
    service, jobs, sizes = fresh, [], []
    saboteur = Saboteur(service, 10)
    try:
        for number in range(500):
            jobs.append(submit_stubbornly(service, number))
            if number % 50 == 10:
                sizes.append(memory(service, "gunicorn"))
                eventually(lambda: len(service.rows("status = 'queued'")) < 20, within=900)
        eventually(
            lambda: not service.rows("status NOT IN ('completed', 'failed', 'cancelled')"), within=1800
        )
    finally:
        saboteur.stop()

    rows = service.rows()
    failed = [row for row in rows if row["status"] != "completed"]
    wrong = [
        row for row in rows if row["status"] == "completed" and not service.plays(service.job(str(row["id"])))
    ]
    left, purged = ownerless(service)
    log = service.log()
    prompts = sum(service.prompts(job, log) for job in jobs)
    figure(
        f"500 jobs with a random fault every 10 s ({len(saboteur.struck)} faults)",
        f"{len(rows)} rows, all final, {len(failed)} failed, {len(wrong)} wrong, {prompts} prompts; {left} "
        f"objects without owner after the purge ({purged}); web processes, every 50 jobs: {sizes} MiB",
    )
    assert len({*jobs}) == len(rows) == 500
    assert {row["status"] for row in rows} <= set(FINAL)
    assert [row["error"] for row in failed if "lost 3 times" not in row["error"]] == []
    assert wrong == []
    assert left == 0
