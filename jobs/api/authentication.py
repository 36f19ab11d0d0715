"""The API key, in the header X-API-Key or as ``Authorization: Bearer``."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.crypto import constant_time_compare
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from jobs.models import Job
from jobs.models.job import JobQuerySet
from jobs.models.key import ApiKey


@dataclass(frozen=True)
class Client:
    """Who sent the request. ``key`` is None for the environment's API_KEY, which may do everything."""

    key: ApiKey | None
    is_authenticated = True

    @property
    def sees_all(self) -> bool:
        return self.key is None or self.key.all_jobs

    @property
    def jobs(self) -> JobQuerySet:
        """The jobs that this client may see."""
        return self.submitted.filter(deleted=False)

    @property
    def submitted(self) -> JobQuerySet:
        """These, and those that were deleted and are not yet removed."""
        return Job.objects.all() if self.sees_all else Job.objects.filter(key=self.key)


def client_of(request: Request) -> Client:
    """Who sent it, after authentication."""
    client: Any = request.user  # where DRF keeps what authenticate() returned
    return client


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Client, None]:
        text = request.headers.get("X-API-Key") or _bearer(request)
        if constant_time_compare(text, settings.API_KEY):
            return Client(None), None
        key = ApiKey.objects.presented(text) if text else None
        if key is None:
            raise AuthenticationFailed("Send a valid API key in the X-API-Key header.")
        return Client(key), None

    def authenticate_header(self, request: Request) -> str:
        return "X-API-Key"  # its presence makes the answer 401 instead of 403


def _bearer(request: Request) -> str:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""
