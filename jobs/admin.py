"""Django looks for the admin's classes here."""

import jobs.operators.admin  # noqa: F401
