"""The web process: gunicorn loads ``application`` once and forks, so bad settings end it at the start.

A database that cannot be used ends it as well. A database that does not answer yet does not.
"""

import logging
import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.db import NotSupportedError, connection

from wanapi import VERSION
from wanapi.postgres import AWAY

logger = logging.getLogger(__name__)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wanapi.settings")
try:
    application = get_wsgi_application()
    logger.info("WANAPI %s: web", VERSION)
    connection.ensure_connection()
except (ImproperlyConfigured, NotSupportedError) as error:
    sys.exit(f"wanapi: {error}")
except AWAY as error:
    logger.warning("the database does not answer yet: %s", error)
connection.close()  # each process that is forked makes its own
