"""The two clusters and their tasks, and the hints that tell of work. A hint may be lost, doubled or late:
each cluster looks for itself every two seconds as well.
"""

from collections.abc import Sequence
from contextlib import suppress

from django.db import connection, transaction
from django_q.tasks import async_task

from jobs.models import Job
from wanapi.postgres import AWAY

RENDER, PUBLISH = "render", "publish"  # the two clusters, and the task that each is for
DELIVER = "deliver"  # another task of the publish cluster
CLUSTERS = {RENDER: RENDER, PUBLISH: PUBLISH, DELIVER: PUBLISH}
# The tasks by the names that this release and the one before it know: during an upgrade both take messages.
TASKS = {RENDER: "jobs.render.render", PUBLISH: "jobs.publish.publish", DELIVER: "jobs.deliver.deliver"}
PURGE_OLD = "jobs.retention.purge_old"
CANCELLED = "wanapi_cancelled"  # the channel in Postgres that tells of cancelled jobs
CHANGED = "wanapi_changed"  # the channel that tells which jobs changed, by their ids


def wake(task: str) -> None:
    """Tells a cluster that there is work for this task, in the caller's transaction. The message carries no
    job id, so that it does no harm if it is lost or doubled."""
    async_task(TASKS[task], cluster=CLUSTERS[task])


def tell_of_cancelled() -> None:
    """Tells the renderers to look for cancelled jobs now; sent when the caller's transaction commits."""
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CANCELLED}")


def tell_of_change(jobs: Sequence[Job]) -> None:
    """Tells the web processes, where clients may wait for these jobs.

    After the commit, and not within the transaction: Postgres lets only one transaction that notifies commit
    at a time, and would make all others wait until the disk, or a standby, has it. If the notification is
    lost, clients learn of the change a second later.
    """
    ids = [str(job.pk) for job in jobs]
    if ids:
        transaction.on_commit(lambda: _notify(ids))


def _notify(ids: list[str]) -> None:
    with suppress(*AWAY), connection.cursor() as cursor:  # the change itself is committed
        cursor.execute("SELECT pg_notify(%s, id) FROM unnest(%s::text[]) AS id", [CHANGED, ids])
