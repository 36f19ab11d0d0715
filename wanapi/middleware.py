"""Around every request: its id, its line in the log, its time in the metrics; who sent it."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import DataError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.shortcuts import render
from django.utils.encoding import escape_uri_path
from prometheus_client import Histogram

from wanapi.logs import request_id
from wanapi.postgres import AWAY

logger = logging.getLogger("wanapi.access")

SECONDS = Histogram(
    "wanapi_http_request_duration_seconds",
    "Answered requests of this web instance, by route.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OFTEN = ("/health", "/metrics", "/static")
HEADER = "X-Request-ID"
NOBODY = "0.0.0.0"  # noqa: S104 - stands for every client whose address is not known
Answer = Callable[[HttpRequest], HttpResponse]


class Observe:
    """The outermost middleware, so that every answer has its id, its line and its time."""

    def __init__(self, answer: Answer):
        self.answer = answer

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get(HEADER, "")
        own = given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex
        token, began = request_id.set(own), time.monotonic()
        try:
            response = self.answer(request)
            seconds = time.monotonic() - began
            method = request.method if request.method in METHODS else "other"
            SECONDS.labels(method, route(request), response.status_code).observe(seconds)
            # The path alone, without query and headers: neither keys nor prompts may get into the log.
            level = logging.DEBUG if request.path.startswith(OFTEN) else logging.INFO
            path, status = escape_uri_path(request.path), response.status_code
            logger.log(level, "%s %s %s in %.0f ms", method, path, status, 1000 * seconds)
        finally:
            request_id.reset(token)
        response[HEADER] = own
        return response


def route(request: HttpRequest) -> str:
    """The address as the schema has it, such as ``/jobs/{job_id}``. Prometheus needs few different labels,
    whatever addresses clients ask for."""
    match = request.resolver_match
    if match is None:
        return "other"
    if match.route.startswith("admin"):
        return "/admin"
    return "/" + re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", match.route).strip("^$").rstrip("/?")


class Compress(GZipMiddleware):
    """Compresses texts of more than LEAST bytes, but no page with a CSRF token: whoever can put text of his
    own into a page, and sees how long its compressed form is, can find out its secrets (BREACH)."""

    LEAST = 1024  # bytes
    TEXTS = ("text/", "application/json", "application/javascript", "application/vnd.oai", "image/svg")

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        short = isinstance(response, HttpResponse) and len(response.content) <= self.LEAST
        text = response.get("Content-Type", "").startswith(self.TEXTS)
        # get_token() leaves this mark, also where the browser has its cookie already.
        secret = request.path.startswith("/admin") or "CSRF_COOKIE_NEEDS_UPDATE" in request.META
        return response if short or secret or not text else super().process_response(request, response)


class AdminForms:
    """Errors of requests to the admin that its pages do not catch. The API has checks of its own."""

    LARGEST = 1024 * 1024  # bytes; the CSRF check parses a form before anybody has logged in

    def __init__(self, answer: Answer):
        self.answer = answer

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/admin") and int(request.META.get("CONTENT_LENGTH") or 0) > self.LARGEST:
            return HttpResponse("The form is too large.", "text/plain", 413)
        return self.answer(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """A page for what is not there. A 400 for a value that Postgres or Python refuses: a NUL, a text that
        is too long, a word where an id is expected, the year 99999999. A 503 if the database is away."""
        if request.path.startswith("/admin") and isinstance(error, Http404):
            return render(request, "admin/404.html", admin.site.each_context(request), status=404)
        if request.path.startswith("/admin") and isinstance(error, AWAY):
            logger.error("the database: %s", error)
            text = "The database is not available; please try again later."
            return HttpResponse(text, "text/plain", 503)
        if request.path.startswith("/admin") and isinstance(
            error, DataError | ValidationError | OverflowError
        ):
            return HttpResponse("The request holds a value that makes no sense here.", "text/plain", 400)
        return None


class AnyHost:
    """Pages for which ALLOWED_HOSTS does not count. Balancers and Kubernetes ask for them by the machine's
    address, some without any Host header. This is safe, since the pages do not contain the Host."""

    HEALTH = re.compile(r"/health(/live|/ready)?/?")
    METRICS = re.compile(r"/metrics/?")

    def __init__(self, answer: Answer):
        self.answer = answer

    def __call__(self, request: HttpRequest) -> HttpResponse:
        pages = [self.HEALTH]
        if request.META["SERVER_PORT"] == str(settings.METRICS_PORT):
            pages.append(self.METRICS)
        if any(page.fullmatch(request.path) for page in pages):
            request.get_host = lambda: "localhost"  # type: ignore[method-assign]
        return self.answer(request)


def locked(request: HttpRequest, *_: object) -> HttpResponse:
    """For an address with too many wrong passwords (django-axes). Each further try begins the time anew."""
    wait = int(settings.AXES_COOLOFF_TIME.total_seconds())
    page = render(request, "console/locked.html", {"minutes": wait // 60}, status=429)
    page["Retry-After"] = str(wait)
    return page


def client_ip(request: HttpRequest) -> str:
    """The address for which wrong passwords are counted.

    The last PROXY_ENTRIES entries of X-Forwarded-For were written by our own proxies, and the first of these
    is the client's address. An IPv6 address counts as its /64 network, since a customer usually has all of
    it. Clients for which a proxy wrote no address count as one (NOBODY), so that nobody can avoid the limit
    by hiding it; clients with a known address are not locked out with them.
    """
    told = request.META.get("REMOTE_ADDR", "")
    if settings.BEHIND_TLS_PROXY and (forwarded := request.headers.get("X-Forwarded-For")):
        entries = forwarded.split(",")
        told = entries[-settings.PROXY_ENTRIES] if len(entries) >= settings.PROXY_ENTRIES else ""
    address = _address(told)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False).network_address)
    return str(address or NOBODY)


def _address(told: str) -> IPv4Address | IPv6Address | None:
    """The address, from each form that proxies write: with a port, in brackets, in quotes, with a zone, IPv4
    within IPv6. None if it is not an address."""
    bare = re.sub(r"^\[([^]]*)\](:[0-9]*)?$", r"\1", told.strip().strip('"'))
    for text in (bare, bare.rpartition(":")[0]):
        with suppress(ValueError):
            address = ip_address(text.partition("%")[0])
            return getattr(address, "ipv4_mapped", None) or address
    return None
