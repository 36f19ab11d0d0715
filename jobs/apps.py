from django.apps import AppConfig
from django.contrib.admin.apps import SimpleAdminConfig


class JobsConfig(AppConfig):
    name = "jobs"


class ConsoleConfig(SimpleAdminConfig):
    """Django's admin with our first page. Its pages are loaded by wanapi/urls.py alone: workers need none."""

    default_site = "jobs.operators.console.Console"
