"""gunicorn's configuration: ``gunicorn -c wanapi/gunicorn.py wanapi.wsgi``.

Threads, since a request waits for Postgres, for S3, or for somebody's image server.
"""

import os

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
