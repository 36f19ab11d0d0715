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
    fields = ("name", "note", "expires_at", "all_jobs", "priority", "max_queued", "max_per_day", "webhooks")
    readonly_fields = ("webhooks",)
    actions = ("revoke", "new_webhook_secret")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its jobs refer to it; it can be revoked

    def save_model(self, request: HttpRequest, key: ApiKey, form: Any, change: bool) -> None:
        if change:
            key.save(update_fields=set(self.fields) - {"webhooks"})
            return
        text = key.draw()
        key.save()
        self.message_user(request, f"The key, shown this once: {text}", messages.WARNING)

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return "revoked"
        return "expired" if key.expires_at and key.expires_at <= now() else "valid"

    @admin.display(description="webhooks")
    def webhooks(self, key: ApiKey) -> str:
        """The URL itself may hold a password; manage.py webhooks sets it."""
        secret = "signed" if key.webhook_secret else "none: the key has no webhook secret"
        return f"{secret}{', to a URL of its own' if key.webhook_url else ''}"

    @admin.action(description="Make a new webhook secret for the selected keys", permissions=["change"])
    def new_webhook_secret(self, request: HttpRequest, keys: ApiKeyQuerySet) -> None:
        for key in keys:
            text = f"The webhook secret of {key}, shown this once: {key.draw_webhook_secret()}"
            self.message_user(request, text, messages.WARNING)

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: ApiKeyQuerySet) -> None:
        count = keys.revoke()
        self.message_user(request, f"{count} key{pluralize(count)} revoked.", messages.SUCCESS)
