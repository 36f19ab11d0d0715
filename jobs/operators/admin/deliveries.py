"""Webhooks: on the page of their job, and on a page of their own. All that can be done: send again."""

import logging
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404, redirect
from django.template.defaultfilters import pluralize
from django.urls import path, reverse
from django.utils.html import format_html

from jobs.models import Delivery, Job
from jobs.models.delivery import DeliveryQuerySet
from jobs.operators.admin.read_only import ReadOnlyAdmin
from jobs.queue.deliveries import send_again

logger = logging.getLogger(__name__)
LAST_TRY = ("tried_at", "answer", "took", "trouble")


class DeliveryInline(admin.TabularInline):
    model = Delivery
    verbose_name_plural = "webhooks"
    fields = readonly_fields = ("at", "event", "host", "state", "tries", *LAST_TRY, "next_try", "again")
    ordering = ("at", "pk")
    extra = 0
    can_delete = False

    @admin.display(description="next try")
    def next_try(self, delivery: Delivery) -> Any:
        return delivery.due_at if delivery.state == Delivery.State.PENDING else None

    @admin.display(description="")
    def again(self, delivery: Delivery) -> str:
        """A button of the page's own form, which holds the token against forged requests."""
        address = reverse("admin:send_again", args=[delivery.pk])
        return format_html('<button type="submit" formaction="{}">Send again</button>', address)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("at", "event", "job_id", "host", "key", "state", "tries", *LAST_TRY)
    list_filter = ("state", "event", "key")
    search_fields = ("host", "=job__id")
    fields = ("id", "at", "event", "job_id", "host", "key", "state", "tries", "due_at", *LAST_TRY)
    list_select_related = ("key",)
    list_per_page = 50
    ordering = ("-at", "-pk")
    sortable_by = ()
    show_full_result_count = False
    actions = ("again",)

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_job")

    @admin.action(description="Send the selected webhooks again", permissions=["manage"])
    def again(self, request: HttpRequest, deliveries: DeliveryQuerySet) -> None:
        self._send(request, Delivery.objects.filter(pk__in=[row.pk for row in deliveries]))

    def _send(self, request: HttpRequest, deliveries: DeliveryQuerySet) -> None:
        count = send_again(deliveries)
        logger.info("%s webhooks are sent again by %s", count, request.user)
        text = f"{count} webhook{pluralize(count)} will be sent again."
        self.message_user(request, text, messages.SUCCESS)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.send_again)
        return [path("<uuid:pk>/again/", view, name="send_again"), *super().get_urls()]

    def send_again(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """The button on the job's page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_manage_permission(request):
            raise PermissionDenied
        delivery = get_object_or_404(Delivery, pk=pk)
        self._send(request, Delivery.objects.filter(pk=pk))
        if Job.objects.filter(pk=delivery.job_id).exists():
            return redirect("admin:jobs_job_change", delivery.job_id)
        return redirect("admin:jobs_delivery_changelist")
