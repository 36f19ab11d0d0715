"""Times by Postgres' clock: machines may disagree about the time, one database does not."""

from datetime import timedelta
from typing import Any

from django.db.models import Value
from django.db.models.functions import Now


def seconds(count: float) -> Value:
    """An interval for an expression, such as ``Now() + seconds(30)``."""
    return Value(timedelta(seconds=count))


def ago(age: timedelta) -> Any:
    return Now() - Value(age)
