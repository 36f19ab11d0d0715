"""The two clusters and their tasks, and the hints that tell of work. A hint may be lost, doubled or late:
each cluster looks for itself every two seconds as well.
"""

from django.db import connection
from django_q.tasks import async_task

RENDER, PUBLISH = "render", "publish"  # the two clusters, and the task that each is for
DELIVER = "deliver"  # another task of the publish cluster
CLUSTERS = {RENDER: RENDER, PUBLISH: PUBLISH, DELIVER: PUBLISH}
# The tasks by the names that this release and the one before it know: during an upgrade both take messages.
TASKS = {RENDER: "jobs.render.render", PUBLISH: "jobs.publish.publish", DELIVER: "jobs.deliver.deliver"}
PURGE_OLD = "jobs.retention.purge_old"
CANCELLED = "wanapi_cancelled"  # the channel in Postgres that tells of cancelled jobs


def wake(task: str) -> None:
    """Tells a cluster that there is work for this task, in the caller's transaction. The message carries no
    job id, so that it does no harm if it is lost or doubled."""
    async_task(TASKS[task], cluster=CLUSTERS[task])


def tell_of_cancelled() -> None:
    """Tells the renderers to look for cancelled jobs now; sent when the caller's transaction commits."""
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CANCELLED}")
