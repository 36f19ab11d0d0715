"""gunicorn's configuration: ``gunicorn -c wanapi/gunicorn.py wanapi.wsgi``.

Threads, since a request waits for Postgres, for S3, or for somebody's image server.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
from typing import Any

# Where each process counts its requests. prometheus_client looks for it when it is imported, here or later.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts = tempfile.mkdtemp(prefix="wanapi-metrics-")

from gunicorn import util
from prometheus_client import multiprocess

from wanapi import logs


def number(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        sys.exit(f"wanapi: {name} must be a number from {least} to {most}, not {text!r}.")
    return int(text)


host = os.environ.get("HOST", "127.0.0.1")
bind = [f"{host}:{number('PORT', 8000, 0, 65535)}"]
if port := number("METRICS_PORT", 0, 0, 65535):
    bind.append(f"{host}:{port}")
worker_class = "wanapi.web.Worker"
workers = number("WEB_WORKERS", 2, 1, 100)
# More than may wait at once for slow clients (7), large bodies (3), image servers (4), images (8) and S3 (4).
threads = 30
keepalive = 5
sendfile = False  # it would pass by wanapi/web.py
preload_app = True
timeout = 60
graceful_timeout = 5
control_socket_disable = True
# What is wrong here the settings refuse a moment later, with a sentence.
level, format = os.environ.get("LOG_LEVEL", "").upper(), os.environ.get("LOG_FORMAT")
logconfig_dict = logs.config(
    level if level in logs.LEVELS else "INFO", format if format in logs.FORMATS else "line"
)


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    shutil.rmtree(counts, ignore_errors=True)


def write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """In JSON, as every error of the service: of requests that are no proper HTTP."""
    body = json.dumps({"detail": f"The request cannot be read: {reason}."})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json"
    util.write_nonblock(client, f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


util.write_error = write_error  # gunicorn has no setting for it, and would send a page of HTML
