"""Counters that survive every process: rows in Postgres, raised in the transaction of what they count.

So they are right for all machines together, whichever process is asked and whichever has died. ``/metrics``
shows them in Prometheus' format (``jobs/operators/metrics.py``).
"""

from django.db import connection, models

# Upper bounds of the histograms, in seconds.
BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 86400)


class Metric(models.Model):
    """``label``: the value of the one label that the metric has, or nothing."""

    name = models.CharField(max_length=100)
    label = models.CharField(max_length=255, default="")
    value = models.FloatField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "label"], name="metric_once")]

    def __str__(self) -> str:
        return f"{self.name} {self.label}"


def add(amounts: dict[tuple[str, str], float]) -> None:
    """Raises the (name, label) counters. Call it last in a transaction: it locks rows that all need."""
    rows = [(name, label, value) for (name, label), value in sorted(amounts.items()) if value]
    if not rows:
        return
    with connection.cursor() as cursor:  # on a conflict the ORM can overwrite, but not add
        cursor.execute(
            "INSERT INTO jobs_metric (name, label, value) VALUES "  # noqa: S608 - placeholders alone
            + ", ".join(["(%s, %s, %s)"] * len(rows))
            + " ON CONFLICT (name, label) DO UPDATE SET value = jobs_metric.value + EXCLUDED.value",
            [item for row in rows for item in row],
        )
