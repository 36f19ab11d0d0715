"""The two clusters, and the hints that tell them of work. A hint may be lost, doubled or late: each cluster
looks for itself every two seconds as well.
"""

from django.db import connection
from django_q.tasks import async_task

RENDER, PUBLISH = "render", "publish"  # the two clusters
# The tasks by the names that this release and the one before it know: during an upgrade both take messages.
TASKS = {RENDER: "jobs.render.render", PUBLISH: "jobs.publish.publish"}
PURGE_OLD = "jobs.retention.purge_old"
CANCELLED = "wanapi_cancelled"  # the channel in Postgres that tells of cancelled jobs


def wake(cluster: str) -> None:
    """Tells a cluster that there is work. Joins the caller's transaction. It carries no job id, so that a
    message lost or doubled does no harm."""
    async_task(TASKS[cluster], cluster=cluster)


def tell_of_cancelled() -> None:
    """Tells the renderers to look now; in the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CANCELLED}")
