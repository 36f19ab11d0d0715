"""Times as the API reference writes them."""

from datetime import UTC, datetime

FORMAT = "%Y-%m-%dT%H:%M:%S.%f"  # of a time in UTC: six digits, and no offset


def timestamp(moment: datetime | None) -> str | None:
    """Such as 2026-02-21T15:01:21.000000; None for None."""
    return moment.astimezone(UTC).strftime(FORMAT) if moment else None
