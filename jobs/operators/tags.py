"""Words and links for the console's templates."""

from datetime import datetime
from typing import Any

from django import template

from jobs.media import storage
from jobs.models import Job
from jobs.operators.words import ago

register = template.Library()


@register.filter
def since(moment: datetime | None) -> str:
    """The time since a moment, in one unit."""
    return ago(moment) if moment else "-"


@register.filter
def poster(job: Job) -> str:
    return storage.link(job.poster_key)


@register.filter
def row(changelist: Any, number: int) -> str:
    """The id of the row with this number in a list of the admin."""
    return str(changelist.result_list[number].pk)
