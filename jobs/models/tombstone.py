"""Tombstones: ids that this database gave out and that may have no row any more, or not yet.

What lies in S3 or on the GPU machine under the id of a row or of a tombstone is ours. What looks like ours
and bears another id belongs to another installation, or to a job that is younger than a restored dump.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime

from django.db import models
from django.db.models.functions import Now


class TombstoneQuerySet(models.QuerySet["Tombstone"]):
    def note(self, job_id: uuid.UUID, submitted_at: datetime | None = None) -> None:
        """Makes sure that there is a tombstone for this id. ``submitted_at`` is of a job that is removed."""
        self.get_or_create(pk=job_id)
        if submitted_at:
            self.filter(pk=job_id).update(submitted_at=submitted_at)

    def known(self, job_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Those of these ids that have a tombstone."""
        return set(self.filter(pk__in=job_ids).values_list("pk", flat=True))


class Tombstone(models.Model):
    """Of a job that was removed, or of a request whose image was uploaded before its row was written."""

    id = models.UUIDField(primary_key=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())
    submitted_at = models.DateTimeField(null=True)  # so that a list can go on after a job that is removed

    objects = TombstoneQuerySet.as_manager()

    def __str__(self) -> str:
        return str(self.pk)
