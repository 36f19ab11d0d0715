"""The API key, in the header X-API-Key."""

from django.conf import settings
from django.utils.crypto import constant_time_compare
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request


class Client:
    """Who sent the request: the holder of the service's key."""

    is_authenticated = True


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Client, None]:
        key = request.headers.get("X-API-Key", "")
        if not constant_time_compare(key, settings.API_KEY):
            raise AuthenticationFailed("Send a valid API key in the X-API-Key header.")
        return Client(), None

    def authenticate_header(self, request: Request) -> str:
        return "X-API-Key"  # its presence makes the answer 401 instead of 403
