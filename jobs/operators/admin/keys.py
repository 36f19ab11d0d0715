"""The page of API keys. A key can be revoked and never removed, since its jobs refer to it."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.utils.timezone import now

from jobs.models.key import ApiKey, ApiKeyQuerySet


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    list_display = ("name", "prefix", "state", "all_jobs", "priority", "last_used_at", "created_at", "note")
    search_fields = ("name", "prefix", "note")
    fields = ("name", "note", "expires_at", "all_jobs", "priority", "max_queued", "max_per_day")
    actions = ("revoke",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its jobs refer to it; it can be revoked

    def save_model(self, request: HttpRequest, key: ApiKey, form: Any, change: bool) -> None:
        if change:
            key.save(update_fields=self.fields)
            return
        text = key.draw()
        key.save()
        self.message_user(request, f"The key, shown this once: {text}", messages.WARNING)

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return "revoked"
        return "expired" if key.expires_at and key.expires_at <= now() else "valid"

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: ApiKeyQuerySet) -> None:
        count = keys.revoke()
        self.message_user(request, f"{count} key{pluralize(count)} revoked.", messages.SUCCESS)
