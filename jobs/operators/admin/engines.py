"""The page of engines. They change by themselves; one that has no worker can be removed."""

import logging
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest

from jobs.models.engine import Engine
from jobs.operators.admin.read_only import ReadOnlyAdmin
from jobs.queue.engines import remove

logger = logging.getLogger(__name__)


@admin.register(Engine)
class EngineAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "version", "seen_at", "worker", "missing")
    exclude = ("url", "ready")  # the URL may hold a password, and ``state`` says whether it is ready
    readonly_fields = ("address", "state")
    actions = ("remove",)

    @admin.action(description="Remove the selected engines that have no worker", permissions=["manage"])
    def remove(self, request: HttpRequest, engines: Any) -> None:
        """An engine that comes back makes a new row. Renders begun on it may begin on another one."""
        chosen, names = engines.count(), remove(Engine.objects.filter(pk__in=engines))
        if names:
            logger.info("engines removed by %s: %s", request.user, ", ".join(names))
            self.message_user(request, f"Removed: {', '.join(names)}.", messages.SUCCESS)
        if chosen > len(names):
            self.message_user(
                request, "An engine that a worker holds stays: stop it first.", messages.WARNING
            )

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_engine")

    @admin.display(description="missing files and nodes")
    def missing(self, engine: Engine) -> str:
        return ", ".join(engine.lacks) or "-"
