from django.apps import AppConfig
from django.contrib.admin.apps import SimpleAdminConfig


class JobsConfig(AppConfig):
    name = "jobs"


class ConsoleConfig(SimpleAdminConfig):
    """Django's admin with our first page. Simple: only wanapi/urls.py loads the pages, workers need none."""

    default_site = "jobs.operators.console.Console"
