"""Times in words, as people read them."""

from datetime import datetime, timedelta

from django.utils import timezone

UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def duration(begin: datetime, end: datetime) -> str:
    """The time between two moments, such as 12 s, 3 min 20 s, 5 h 12 min or 4 d 3 h."""
    return in_words((end - begin).total_seconds())


def in_words(seconds: float | timedelta) -> str:
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    whole = max(round(seconds), 0)
    for unit, length, part, smaller in UNITS:
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // smaller} {part}"
    return f"{whole} s"


def ago(moment: datetime) -> str:
    """In one unit, for a narrow column: 12 s, 3 min, 5 h, 4 d."""
    seconds = max(round((timezone.now() - moment).total_seconds()), 0)
    unit, length = next(((unit, length) for unit, length, *_ in UNITS if seconds >= length), ("s", 1))
    return f"{seconds // length} {unit}"
