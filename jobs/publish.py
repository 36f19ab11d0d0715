"""The name by which django-q2's messages of this release and of the one before it call this task."""

from jobs.workers.publish import publish

__all__ = ["publish"]
