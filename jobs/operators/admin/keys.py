"""The page of API keys. A key can be revoked and never removed, since its jobs refer to it."""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.timezone import now

from jobs.models import Job
from jobs.models.key import ApiKey, ApiKeyQuerySet
from jobs.operators.admin.users import Labelled
from jobs.operators.words import ago

NEW = """The key, shown this once: <code id="new-key">{key}</code>
<button type="button" class="button" data-copy="#new-key">Copy the key</button>
<pre id="new-curl">curl {address} -H 'X-API-Key: {key}' -H 'Content-Type: application/json' \
-d '{{"prompt": "A cat on the moon"}}'</pre>
<button type="button" class="button" data-copy="#new-curl">Copy the command</button>"""


@admin.register(ApiKey)
class ApiKeyAdmin(Labelled, admin.ModelAdmin):
    list_display = ("name", "prefix", "state", "today", "queued", "may", "used", "expires", "note")
    search_fields = ("name", "prefix", "note")
    fields = ("name", "note", "expires_at", "all_jobs", "priority", "max_queued", "max_per_day", "webhooks")
    readonly_fields = ("webhooks",)
    actions = ("revoke", "restore", "new_webhook_secret")
    change_list_template = "console/keys.html"
    list_per_page = 100
    show_full_result_count = False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its jobs refer to it; it can be revoked

    def save_model(self, request: HttpRequest, key: ApiKey, form: Any, change: bool) -> None:
        if change:
            key.save(update_fields=set(self.fields) - {"webhooks"})
            return
        text = key.draw()
        key.save()
        address = request.build_absolute_uri("/generate")
        self.message_user(request, format_html(NEW, key=text, address=address), messages.WARNING, "key")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """The real defaults, since nobody knows what KEY_MAX_QUEUED is set to."""
        found: Any = super().formfield_for_dbfield(db_field, request, **kwargs)
        limits = {"max_queued": settings.KEY_MAX_QUEUED, "max_per_day": settings.KEY_MAX_PER_DAY}
        if db_field.name in limits:
            found.help_text = f"Empty: {limits[db_field.name] or 'no limit'}, the default. 0: no limit."
        return found

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Counts the queued jobs of all keys in one query."""
        found = super().get_changelist_instance(request)
        waiting: Any = Job.objects.queued().filter(key__in=[key.pk for key in found.result_list]).order_by()
        counts = dict(waiting.values_list("key").annotate(Count("pk")))
        for key in found.result_list:
            key.jobs_queued = counts.get(key.pk, 0)
        return found

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        name = "valid"
        if key.revoked_at:
            name = "revoked"
        elif key.expires_at and key.expires_at <= now():
            name = "expired"
        return format_html('<span class="badge {}">{}</span>', "well" if name == "valid" else "off", name)

    @admin.display(description="jobs today (UTC)")
    def today(self, key: ApiKey) -> str:
        used = key.jobs_on_day if key.day == now().date() else 0
        return _of(used, settings.KEY_MAX_PER_DAY if key.max_per_day is None else key.max_per_day)

    @admin.display(description="queued now")
    def queued(self, key: Any) -> str:
        return _of(key.jobs_queued, settings.KEY_MAX_QUEUED if key.max_queued is None else key.max_queued)

    @admin.display(description="sees and goes first")
    def may(self, key: ApiKey) -> str:
        return f"{'all jobs' if key.all_jobs else 'its jobs'}, priority {key.priority}"

    @admin.display(description="last used", ordering="last_used_at")
    def used(self, key: ApiKey) -> str:
        return f"{ago(key.last_used_at)} ago" if key.last_used_at else "never"

    @admin.display(description="expires", ordering="expires_at")
    def expires(self, key: ApiKey) -> str:
        return f"{key.expires_at:%Y-%m-%d}" if key.expires_at else "never"

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
    def revoke(self, request: HttpRequest, keys: ApiKeyQuerySet) -> HttpResponse | None:
        valid = keys.filter(revoked_at=None)
        if valid and "confirmed" not in request.POST:
            return self._ask(request, valid)
        count = keys.revoke()
        self.message_user(request, f"{count} key{pluralize(count)} revoked.", messages.SUCCESS)
        return None

    @admin.action(description="Restore the selected revoked keys", permissions=["change"])
    def restore(self, request: HttpRequest, keys: ApiKeyQuerySet) -> None:
        count = keys.restore()
        self.message_user(request, f"{count} key{pluralize(count)} restored.", messages.SUCCESS)

    def _ask(self, request: HttpRequest, keys: ApiKeyQuerySet) -> TemplateResponse:
        names = ", ".join(key.name for key in keys)
        context = self.admin_site.each_context(request) | {
            "title": "Are you sure?",
            "question": f"Revoke {names}?",
            "loses": "Requests with it get a 401; jobs that were submitted go on. It can be restored later.",
            "destroys": True,
            "button": "Yes, revoke",
            "action": "revoke",
            "chosen": [key.pk for key in keys],
            "across": "0",
            "opts": self.opts,
        }
        return TemplateResponse(request, "console/confirm.html", context)


def _of(used: int, most: int) -> str:
    """A count against its limit, with a meter; 0: no limit."""
    if not most:
        return f"{used} (no limit)"
    meter = '<span class="meter"><progress max="{}" value="{}" aria-label="used"></progress> {} of {}</span>'
    return format_html(meter, most, min(used, most), used, most)
