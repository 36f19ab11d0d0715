"""gunicorn's configuration: ``gunicorn -c wanapi/gunicorn.py wanapi.wsgi``.

It uses threads, since a request waits for Postgres, for S3, or for somebody's image server.
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

from django.core.exceptions import ImproperlyConfigured
from gunicorn import util
from prometheus_client import multiprocess

try:
    from wanapi import limits, settings
except ImproperlyConfigured as error:
    shutil.rmtree(counts)
    sys.exit(f"wanapi: {error}")

bind = [f"{settings.HOST}:{settings.PORT}"]
if settings.METRICS_PORT:
    bind.append(f"{settings.HOST}:{settings.METRICS_PORT}")
worker_class = "wanapi.slow_clients.Worker"
workers = settings.WEB_WORKERS
threads = limits.THREADS
keepalive = settings.KEEPALIVE
# Together with the files that answers need, this is below the 1024 that a process may usually have open.
worker_connections = 800
forwarder_headers = ""  # otherwise a client could set SCRIPT_NAME through a proxy on this machine
sendfile = False  # it would not use the socket of wanapi/slow_clients.py
preload_app = True
timeout = 60
graceful_timeout = 5
control_socket_disable = True
logconfig_dict = settings.LOGGING


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    shutil.rmtree(counts, ignore_errors=True)


def write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """Answers a request that is not proper HTTP: in JSON, as all errors of the service are."""
    body = json.dumps({"detail": f"The request cannot be read: {reason}."})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json"
    util.write_nonblock(client, f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


util.write_error = write_error  # gunicorn has no setting for it, and would send a page of HTML
