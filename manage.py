#!/usr/bin/env python
"""Django's command line. ``manage.py help`` lists the commands."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import NotSupportedError, ProgrammingError

from wanapi import VERSION
from wanapi.postgres import AWAY

if __name__ == "__main__":
    if sys.argv[1:] == ["version"]:  # Django would print its own, whatever commands an app has
        print(VERSION)
        sys.exit()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wanapi.settings")
    if sys.argv[1:2] == ["worker"]:
        # django-q2 reads the name of its cluster once, while Django starts.
        for name in {"render", "publish"} & set(sys.argv):
            os.environ["Q_CLUSTER_NAME"] = name
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"wanapi: {error}")
    except NotSupportedError as error:
        sys.exit(f"wanapi: {error}")
    except AWAY as error:
        sys.exit(f"wanapi: the database of DATABASE_URL cannot be used: {' '.join(str(error).split())}")
    except ProgrammingError as error:
        sys.exit(
            f"wanapi: run manage.py migrate, the tables are of another release: {str(error).splitlines()[0]}"
        )
