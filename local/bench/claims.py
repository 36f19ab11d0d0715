"""What a fleet of 100 GPUs asks of Postgres, and how quickly jobs can be claimed. ``fleet.py`` runs it.

A stand-in for each render worker makes the same queries at the same times, by the service's own code: the
tick, django-q2's polls, claim, progress, heartbeat, publishing. There is no cluster, no ComfyUI and no file.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import OperationalError, connection  # noqa: E402
from django.db.models.functions import Now  # noqa: E402
from django_q.models import OrmQ  # noqa: E402

from comfy import presets  # noqa: E402
from jobs.models import ApiKey, Engine, Event, Job, Served, metric  # noqa: E402
from jobs.queue import engines  # noqa: E402
from jobs.queue.claim import claim_publish, claim_render, holding, renew  # noqa: E402
from jobs.queue.returns import return_expired  # noqa: E402
from local.parts import ROOT  # noqa: E402

GPUS, PROCESSES = 100, 4
SECONDS = 90.0
RENDER = 30  # seconds: no real GPU is so quick
QUICK, CLAIMS = 8, 2000  # threads that do nothing but claim, and the jobs that there are for them


def main() -> None:
    set_up()
    fill(5000)
    before, used, began = commits(), cpu(), time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "local.bench.claims", str(number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    waits = [float(line) for process in processes for line in process.communicate()[0].split()]
    took = time.monotonic() - began
    claimed = Event.objects.filter(kind="claimed")
    twice = claimed.count() - claimed.values("job").distinct().count()
    claims = f"{claimed.count()} claims, {twice} twice"
    print(f"{GPUS} workers for {SECONDS:.0f} s, renders of {RENDER} s: {claims}.")
    print(f"A claim took {1000 * median(waits):.0f} ms, p99 {1000 * quantiles(waits, n=100)[98]:.0f} ms.")
    rate, share = (commits() - before) / took, (cpu() - used) / took
    print(f"Postgres: {rate:.0f} transactions per second, {share:.0%} of one core.")
    print(f"{QUICK} workers that only claim: {claims_per_second():.0f} claims per second.")


def set_up() -> None:
    for _ in range(100):
        try:
            call_command("migrate", verbosity=0)
            break
        except OperationalError:
            time.sleep(0.2)
    for model in (Job, Engine, Served):
        model.objects.all().delete()


def fill(count: int) -> None:
    key, _ = ApiKey.objects.get_or_create(name="fleet", defaults={"sha256": "-", "prefix": "-"})
    fields = {"kind": "text-to-video", "prompt": "A cat", "preset": "fast", "seed": 1, "key": key}
    Job.objects.bulk_create([Job(turn=turn, **fields) for turn in range(count)])
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def run_share(number: int) -> None:
    """One process' share of the GPUs; prints the seconds that each claim took."""
    share = [StandIn(f"gpu-{number}-{place}") for place in range(GPUS // PROCESSES)]
    with ThreadPoolExecutor(len(share)) as threads:
        for waits in threads.map(StandIn.run, share):
            print(*waits, sep="\n")


def look(name: str) -> Engine:
    """Holds the engine of this name, and reports that it can run everything."""
    engine = engines.hold(name=name, url="http://-", worker=name) or sys.exit("an engine was lost")
    engines.report_well(engine, version="-", runs=presets.runs([]), lacks=[])
    return engine


class StandIn:
    """For one render worker and its share of the publishers."""

    def __init__(self, name: str):
        self.name = name
        self.waits: list[float] = []
        self.end = time.monotonic() + SECONDS

    def run(self) -> list[float]:
        self.engine = look(self.name)
        beside = [
            threading.Thread(target=self.every, args=work) for work in ((2.0, self.tick), (0.2, self.poll))
        ]
        for thread in beside:
            thread.start()
        time.sleep(random.random() * RENDER)  # noqa: S311 - real ones are not in step
        while time.monotonic() < self.end:
            self.render()
        for thread in beside:
            thread.join()
        connection.close()
        return self.waits

    def every(self, pause: float, work: Callable[[], None]) -> None:
        while time.monotonic() < self.end:
            work()
            time.sleep(pause)
        connection.close()

    def tick(self) -> None:
        """As ``manage.py worker render`` and ``publish``, with a look at ComfyUI each time."""
        look(self.name)
        Job.objects.filter(engine=self.engine, status="processing", rendered_at=None).exists()
        metric.add({("gpu_busy_seconds", self.name): 2.0})
        return_expired()
        Job.objects.to_render().exists()
        Job.objects.to_publish().exists()

    def poll(self) -> None:
        """django-q2's look for a message."""
        OrmQ.objects.filter(key="render", lock__lt=Now()).first()

    def render(self) -> None:
        began = time.monotonic()
        claim = claim_render(self.engine) or sys.exit("the queue ran empty")
        self.waits.append(time.monotonic() - began)
        claim.begin(self.engine, {"graph": {}})
        claim.started()
        for second in range(1, RENDER):
            if time.monotonic() > self.end:
                return
            time.sleep(1)
            Engine.objects.held_by(self.name).exists()
            holding([claim])
            claim.advanced(second)
            if second % 10 == 0:
                renew([claim])
        claim.rendered("-")
        if rendered := claim_publish(self.name):
            rendered.completed(size=1, frames=81, sha256="-")


def claims_per_second() -> float:
    """Of QUICK threads that do nothing else."""
    Job.objects.all().delete()
    fill(CLAIMS)

    def claim(name: str) -> int:
        engine, count = look(name), 0
        while claim_render(engine):
            count += 1
        connection.close()
        return count

    began = time.monotonic()
    with ThreadPoolExecutor(QUICK) as threads:
        claims = sum(threads.map(claim, [f"quick-{place}" for place in range(QUICK)]))
    if claims != CLAIMS:
        sys.exit(f"{CLAIMS} jobs were claimed {claims} times.")
    return claims / (time.monotonic() - began)


def commits() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(xact_commit) FROM pg_stat_database")
        return int(cursor.fetchone()[0])


def cpu() -> float:
    """Seconds of processor time of Postgres, with the processes for its connections."""
    postgres = os.environ["POSTGRES"]
    children = Path(f"/proc/{postgres}/task/{postgres}/children").read_text().split()
    used = sum(sum(times(pid)[:2]) for pid in children) + sum(times(postgres))
    return used / os.sysconf("SC_CLK_TCK")


def times(pid: str) -> list[int]:
    """User and system time, its own and that of its ended children, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]


if __name__ == "__main__":
    run_share(int(sys.argv[1])) if len(sys.argv) > 1 else main()
