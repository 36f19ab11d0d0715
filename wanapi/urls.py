"""The API at the root, the admin below /admin/."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

handler400 = "jobs.api.errors.bad_request"
handler403 = "jobs.api.errors.forbidden"
handler404 = "jobs.api.errors.not_found"
handler500 = "jobs.api.errors.server_error"

admin.autodiscover()

urlpatterns = [
    path("admin", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("", include("jobs.api.urls")),
]
