"""Postgres, as this service uses it: an end to every wait (``base``), and what counts as its absence."""

from django.db import InterfaceError, InternalError, OperationalError

# The errors of a connection that broke, of a server that is down or does not answer in time, and of a standby
# that only reads (InternalError). Whoever meets one of these tries again later; nothing was written.
AWAY = (OperationalError, InterfaceError, InternalError)
