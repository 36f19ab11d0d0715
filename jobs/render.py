"""The name by which django-q2's messages of this release and of the one before it call this task."""

from jobs.workers.render import render

__all__ = ["render"]
