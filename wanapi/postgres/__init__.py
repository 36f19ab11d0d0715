"""Postgres, as this service uses it: an end to every wait (``base``), and what counts as its absence."""

from django.db import InterfaceError, InternalError, OperationalError

# What a connection that broke, a server that is down or that does not answer in time, and a standby that
# only reads (the InternalError) raise. Whoever meets one of these tries again later; nothing was written.
AWAY = (OperationalError, InterfaceError, InternalError)
