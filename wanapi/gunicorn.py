"""gunicorn's configuration: ``gunicorn -c wanapi/gunicorn.py wanapi.wsgi``.

Threads, since a request waits for Postgres, for S3, or for somebody's image server.
"""

import json
import os
import socket

from gunicorn import util

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
worker_class = "gthread"
workers = int(os.environ.get("WEB_WORKERS", "2"))
threads = 16
preload_app = True
timeout = 60
graceful_timeout = 5
control_socket_disable = True
accesslog = "-"
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(B)s %(M)sms'  # without the query and the headers


def write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """In JSON, as every error of the service: of requests that are no proper HTTP."""
    body = json.dumps({"detail": f"The request cannot be read: {reason}."})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json"
    util.write_nonblock(client, f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


util.write_error = write_error  # gunicorn has no setting for it, and would send a page of HTML
