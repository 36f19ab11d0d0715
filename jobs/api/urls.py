"""The API's addresses. A trailing slash is accepted."""

from django.urls import path, re_path
from django.views.decorators.cache import cache_page
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from jobs.api import videos, views

urlpatterns = [  # in the order of use, which /docs has as well
    re_path(r"^generate/?$", views.GenerateView.as_view()),
    re_path(r"^status/(?P<job_id>[^/]+)/?$", views.StatusView.as_view()),
    re_path(r"^jobs/(?P<job_id>[^/]+)/?$", views.JobView.as_view()),
    re_path(r"^jobs/(?P<job_id>[^/]+)/content/?$", views.ContentView.as_view()),
    re_path(r"^jobs/(?P<job_id>[^/]+)/poster/?$", views.PosterView.as_view()),
    re_path(r"^presets/?$", views.PresetsView.as_view()),
    re_path(r"^jobs/?$", views.JobsView.as_view()),
    re_path(r"^jobs/(?P<job_id>[^/]+)/cancel/?$", views.CancelView.as_view()),
    re_path(r"^v1/videos/?$", videos.VideosView.as_view()),
    re_path(r"^v1/videos/(?P<job_id>[^/]+)/?$", videos.VideoView.as_view()),
    re_path(r"^v1/videos/(?P<job_id>[^/]+)/content/?$", videos.ContentView.as_view()),
    re_path(r"^v1/models/?$", videos.ModelsView.as_view()),
    re_path(r"^health/?$", views.HealthView.as_view()),
    re_path(r"^health/live/?$", views.LiveView.as_view()),
    re_path(r"^health/ready/?$", views.ReadyView.as_view()),
    re_path(r"^metrics/?$", views.MetricsView.as_view()),
    path("openapi.json", cache_page(3600)(SpectacularJSONAPIView.as_view()), name="schema"),
    re_path(r"^docs/?$", SpectacularSwaggerSplitView.as_view()),
]
