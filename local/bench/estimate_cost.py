"""What an estimate and GET /presets cost with 10,000 jobs queued. ``estimate.py`` runs it, in its stack."""

import os
import random
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from statistics import median

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wanapi.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.utils import timezone  # noqa: E402

from comfy import presets  # noqa: E402
from jobs.models import Job  # noqa: E402
from jobs.queue import estimate  # noqa: E402

QUEUED, COMPLETED, TIMES = 10_000, 20_000, 100
WORKS = [832 * 480 * frames * steps for frames in (41, 81) for steps in (4, 20)]


def main() -> None:
    fill()
    last = Job.objects.queued().in_order().last()
    if last is None:
        return
    with CaptureQueriesContext(connection) as queries:
        estimate.seconds_left(last)
    counted = any("COUNT(" in query["sql"] for query in queries)  # the position, which the answer shows too
    print(
        f"Behind {last.position} queued jobs an estimate takes {len(queries) - counted} queries and "
        f"{milliseconds(lambda: estimate.seconds_left(last)):.1f} ms."
    )
    client = Client(SERVER_NAME="localhost", headers={"X-API-Key": settings.API_KEY})
    print(f"GET /presets takes {milliseconds(lambda: client.get('/presets')):.1f} ms in the web process.")


def milliseconds(call: Callable[[], object]) -> float:
    """The median of TIMES calls."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began))
    return median(took)


def fill() -> None:
    """Jobs that no worker takes: they may be claimed tomorrow at the earliest."""
    dice = random.Random(1)  # noqa: S311
    now, tomorrow = timezone.now(), timezone.now() + timedelta(days=1)
    pairs = [
        (preset.reference, kind) for preset in presets.every() for kind in ("text-to-video", "image-to-video")
    ]

    def job(**fields: object) -> Job:
        preset, kind = dice.choice(pairs)
        return Job(pk=uuid.UUID(int=dice.getrandbits(128), version=4), preset=preset, kind=kind, seed=1,
                   prompt="A cat " * 20, work=dice.choice(WORKS), **fields)  # fmt: skip

    done = {"status": "completed", "video_size": 1, "video_frames": 1, "video_sha256": "-", "progress": 100}
    times = [now - timedelta(seconds=10 * number) for number in range(COMPLETED)]
    spans = [("started_at", 60), ("rendered_at", 5), ("finished_at", 0)]
    Job.objects.bulk_create(
        [job(**done, **{name: end - timedelta(seconds=ago) for name, ago in spans}) for end in times], 2000
    )
    Job.objects.bulk_create([job(turn=turn, not_before=tomorrow) for turn in range(QUEUED)], 2000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


if __name__ == "__main__":
    main()
