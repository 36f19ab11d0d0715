"""Logging for every process: lines to read, or JSON for a collector. Knows nothing of Django."""

import logging
from contextvars import ContextVar
from time import monotonic
from typing import Any

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS = ("line", "json")
FIELDS = ("request_id", "job_id", "attempt", "prompt_id")  # beside the usual ones, in JSON

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class Context(logging.Filter):
    """Puts the id of the request that is being answered on each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class NoQuotes(logging.Filter):
    """Cuts off what gunicorn quotes of a request that it cannot read: it may be a prompt or a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Invalid request from "):
            record.msg = record.msg.partition(": ")[0]
        return True


class Seldom:
    """For a line that would come again and again while a trouble lasts: it is due at once, and the same line
    again after a minute."""

    PAUSE = 60.0  # seconds

    def __init__(self) -> None:
        self._last, self._until = "", 0.0

    def due(self, line: str) -> bool:
        now = monotonic()
        if line == self._last and now < self._until:
            return False
        self._last, self._until = line, now + self.PAUSE
        return True


def config(level: str, format: str) -> dict[str, Any]:
    """For ``logging.config.dictConfig``."""
    names = ("asctime", "levelname", "name", "message", *FIELDS)
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"context": {"()": Context}, "no_quotes": {"()": NoQuotes}},
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": " ".join(f"%({name})s" for name in names),
                "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
            },
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": format,
                "filters": ["context"],
            }
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True, "filters": ["no_quotes"]},
            "django-q": {"level": "WARNING" if level == "INFO" else level},
            "botocore": {"level": "WARNING"},
            "urllib3": {"level": "INFO"},  # its DEBUG would show the queries of webhooks' URLs
            "websockets": {"level": "INFO"},  # its DEBUG would show the password of COMFYUI_URL
            "django.request": {"level": "ERROR"},  # an error of a client is not ours
        },
    }
