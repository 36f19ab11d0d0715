"""The operators' pages: a file for each of jobs, webhooks, engines, keys and users."""

from django.contrib import admin
from django_q.models import Failure, OrmQ, Schedule, Success

from jobs.operators.admin import deliveries, engines, jobs, keys, users

__all__ = ["deliveries", "engines", "jobs", "keys", "users"]

# Whoever may add a task of django-q2 can run any code. Its rows show nothing that a job's page does not show.
admin.site.unregister([Failure, OrmQ, Schedule, Success])
