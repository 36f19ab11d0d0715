"""Settings, all from the environment; the README has the table.

A secret may come from a file instead: API_KEY_FILE, SECRET_KEY_FILE, and so on for every variable.
A value that cannot work stops the start with a sentence that names it.
"""

import os
import re
import socket
import warnings
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from corsheaders.defaults import default_headers
from django.core.exceptions import ImproperlyConfigured
from dotenv import dotenv_values
from environs import EnvError, FileAwareEnv

from comfy.workflow import PRESETS
from wanapi import logs

BASE_DIR = Path(__file__).resolve().parent.parent
env = FileAwareEnv(strip_whitespace=True)
OF_ONE_GPU = ("ENGINE_NAME", "COMFYUI_INPUT_DIR", "COMFYUI_OUTPUT_DIR", "WARM_UP")

# While `make serve` runs, it leaves its addresses here for `manage.py` in the same checkout.
if not {"DATABASE_URL", "DATABASE_URL_FILE"} & os.environ.keys():
    served = dotenv_values(BASE_DIR / ".local" / "serve" / "env")
    if "COMFYUI_URL" in os.environ:  # one more GPU: that of the file has another name, and other folders
        served = {name: value for name, value in served.items() if name not in OF_ONE_GPU}
    for name, value in served.items():  # into os.environ, where boto3 looks for its keys
        os.environ.setdefault(name, value or "")


def required(name: str, what: str) -> str:
    value = env.str(name, "")
    if not value:
        raise ImproperlyConfigured(f"{name} is not set: {what}.")
    return value


def url(name: str, default: str = "") -> str:
    value = env.str(name, default)
    if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
        raise ImproperlyConfigured(f"{name} must be an http or https URL, not {value!r}.")
    return value.rstrip("/")


def prefix(name: str) -> str:
    """What stands before each key, with a slash at its end."""
    value = env.str(name, "")
    folder = value.removesuffix("/")
    if value and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*", folder):
        raise ImproperlyConfigured(
            f"{name} must be a folder of the bucket, such as wanapi or videos/wanapi, of letters, digits and "
            f"_.-, not {value!r}."
        )
    return f"{folder}/" if value else ""


def above(name: str, least: int, default: int) -> int:
    value = env.int(name, default)
    if value < least:
        raise ImproperlyConfigured(f"{name} must be at least {least}, not {value}.")
    return value


def image_stores(entries: list[str]) -> tuple[list[str], list[tuple[Any, int]]]:
    """``host:port`` as they are, and ``network:port`` as pairs."""
    hosts, networks = [], []
    for entry in entries:
        host, _, port = entry.rpartition(":")
        if not host or not port.isdigit():
            raise ImproperlyConfigured(f"IMAGE_URL_ALLOW takes host:port,network/bits:port, not {entry!r}.")
        if "/" in host:
            try:
                networks.append((ip_network(host.strip("[]")), int(port)))
            except ValueError as error:
                raise ImproperlyConfigured(f"IMAGE_URL_ALLOW: {error}.") from error
        else:
            hosts.append(entry)
    return hosts, networks


def database() -> dict[str, Any]:
    required("DATABASE_URL", "give it a PostgreSQL URL, postgresql://user:password@host:5432/name")
    config = dict(env.dj_db_url("DATABASE_URL", conn_max_age=600, conn_health_checks=True))
    if config["ENGINE"] != "django.db.backends.postgresql":
        raise ImproperlyConfigured(
            "DATABASE_URL must name a PostgreSQL database: the queue needs its row locks."
        )
    # A database that is cut off must not hang its clients: 5 s to connect, 10 s until a dead link is noticed.
    patience = {
        "connect_timeout": 5,
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
    }
    config["OPTIONS"] = patience | config.get("OPTIONS", {})
    config["ENGINE"] = "wanapi.postgres"  # the same, with DATABASE_TIMEOUT
    # A pooler in transaction mode (PgBouncer) loses a cursor between two of its reads.
    config["DISABLE_SERVER_SIDE_CURSORS"] = True
    return config


try:
    API_KEY = required("API_KEY", "choose the key that clients send as X-API-Key")
    SECRET_KEY = required(
        "SECRET_KEY", "give it a long random text, the same for every process of this service"
    )
    ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
    CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
    CORS_ALLOWED_ORIGINS: list[str] = env.list("CORS_ALLOWED_ORIGINS", [])
    BEHIND_TLS_PROXY = env.bool("BEHIND_TLS_PROXY", False)
    DATABASES = {"default": database()}
    DATABASE_TIMEOUT = above("DATABASE_TIMEOUT", 1, 15)

    COMFYUI_URL = url("COMFYUI_URL", "http://127.0.0.1:8188")
    COMFYUI_INPUT_DIR = env.str("COMFYUI_INPUT_DIR", "")
    COMFYUI_OUTPUT_DIR = env.str("COMFYUI_OUTPUT_DIR", "")
    WORKFLOW_PRESET = env.str("WORKFLOW_PRESET", "quality")
    WARM_UP = env.bool("WARM_UP", True)
    RENDER_TIMEOUT = above("RENDER_TIMEOUT", 1, 3600)
    STALL_TIMEOUT = above("STALL_TIMEOUT", 1, 900)
    STUCK_TIMEOUT = above("STUCK_TIMEOUT", 1, 60)
    COMFYUI_RESTART_COMMAND = env.str("COMFYUI_RESTART_COMMAND", "")
    ENGINE_GRACE = above("ENGINE_GRACE", 1, 600)
    JOB_LEASE = above("JOB_LEASE", 3, 30)
    ENGINE_LEASE = above("ENGINE_LEASE", 6, 20)

    S3_BUCKET = required("S3_BUCKET", "name the bucket that videos and reference images go to")
    S3_PREFIX = prefix("S3_PREFIX")
    S3_ENDPOINT_URL = url("S3_ENDPOINT_URL") or None
    S3_PUBLIC_ENDPOINT_URL = url("S3_PUBLIC_ENDPOINT_URL") or S3_ENDPOINT_URL
    IDEMPOTENCY_HOURS = above("IDEMPOTENCY_HOURS", 1, 24)
    RETENTION_DAYS = above("RETENTION_DAYS", 0, 0)
    VIDEO_URL_TTL = above("VIDEO_URL_TTL", 1, 3600)

    MAX_WAITING = above("MAX_WAITING", 1, 10_000)
    KEY_MAX_QUEUED = above("KEY_MAX_QUEUED", 0, 100)
    KEY_MAX_PER_DAY = above("KEY_MAX_PER_DAY", 0, 1000)

    IMAGE_URL_ALLOW, IMAGE_URL_NETWORKS = image_stores(env.list("IMAGE_URL_ALLOW", []))
    IMAGE_URL_TIMEOUT = above("IMAGE_URL_TIMEOUT", 1, 20)
    IMAGE_MAX_BYTES = above("IMAGE_MAX_BYTES", 1, 20 * 1024 * 1024)
    LOG_LEVEL = env.str("LOG_LEVEL", "INFO").upper()
    LOG_FORMAT = env.str("LOG_FORMAT", "line")
    METRICS_PORT = above("METRICS_PORT", 0, 0)
except (EnvError, ValueError) as error:
    raise ImproperlyConfigured(str(error)) from error

if not API_KEY.isascii():
    raise ImproperlyConfigured("API_KEY must be ASCII: HTTP headers carry nothing else reliably.")
if WORKFLOW_PRESET not in PRESETS:
    raise ImproperlyConfigured(
        f"WORKFLOW_PRESET must be one of {', '.join(PRESETS)}, not {WORKFLOW_PRESET!r}."
    )
if LOG_LEVEL not in logs.LEVELS:
    raise ImproperlyConfigured(f"LOG_LEVEL must be one of {', '.join(logs.LEVELS)}, not {LOG_LEVEL!r}.")
if LOG_FORMAT not in logs.FORMATS:
    raise ImproperlyConfigured(f"LOG_FORMAT must be {' or '.join(logs.FORMATS)}, not {LOG_FORMAT!r}.")
if VIDEO_URL_TTL > 7 * 24 * 3600:
    raise ImproperlyConfigured("VIDEO_URL_TTL must be at most 604800: S3 signs links for seven days at most.")


def engine_name() -> str:
    """Tells the ComfyUIs of several machines apart, each of which calls its own one 127.0.0.1."""
    parts = urlsplit(COMFYUI_URL)
    if parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return f"{socket.gethostname()}:{parts.port or 80}"
    return parts.netloc.rpartition("@")[2]


ENGINE_NAME = env.str("ENGINE_NAME", "") or engine_name()

DEBUG = False
ROOT_URLCONF = "wanapi.urls"
WSGI_APPLICATION = "wanapi.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = "wanapi.formats"
APPEND_SLASH = False  # a redirect would turn a POST into a GET
STATIC_URL = "static/"

INSTALLED_APPS = [
    "jobs.apps.ConsoleConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_q",
    "axes",
    "corsheaders",
    "csp",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "jobs",
]
MIDDLEWARE = [
    "wanapi.middleware.Observe",
    "wanapi.middleware.AdminForms",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
WHITENOISE_USE_FINDERS = True  # the admin's files come straight from the packages, no collectstatic

# Security (SECURITY.md)

if BEHIND_TLS_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")  # which the proxy must set, and overwrite
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_REDIRECT_EXEMPT = [r"^health", r"^metrics"]  # asked from within, without the proxy
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
# HSTS for other names below this domain, and for the browsers' own list, is not ours to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
# A new API key is shown by a message, which must not travel in a cookie.
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
SESSION_COOKIE_NAME = "wanapi_session"
CSRF_COOKIE_NAME = "wanapi_csrf"
SESSION_COOKIE_AGE = 12 * 3600

_s3 = urlsplit(S3_PUBLIC_ENDPOINT_URL or "")
_s3_origin = f"{_s3.scheme}://{_s3.netloc}" if S3_PUBLIC_ENDPOINT_URL else "https://*.amazonaws.com"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        **{f"{kind}-src": ["'self'"] for kind in ("script", "style", "font", "connect")},
        "form-action": ["'self'"],
        "img-src": ["'self'", "data:", _s3_origin],
        "media-src": [_s3_origin],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
}
CORS_ALLOW_HEADERS = (*default_headers, "x-api-key", "idempotency-key")
CORS_EXPOSE_HEADERS = ("retry-after",)
CORS_URLS_REGEX = r"^/(?!admin/)"

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}Validator"}
    for name in ("UserAttributeSimilarity", "MinimumLength", "CommonPassword", "NumericPassword")
]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
# Not the user name: anybody could lock the operators out.
AXES_LOCKOUT_PARAMETERS = ["ip_address"]
AXES_CLIENT_IP_CALLABLE = "wanapi.middleware.client_ip"
AXES_RESET_ON_SUCCESS = False  # or whoever has some account could try another's password for ever
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False  # it would greet on every command's stderr

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# Room for an image of IMAGE_MAX_BYTES in Base64 and a prompt; jobs.errors answers 413 beyond it.
DATA_UPLOAD_MAX_MEMORY_SIZE = IMAGE_MAX_BYTES * 4 // 3 + 1024 * 1024

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["jobs.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["jobs.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "jobs.parsers.AlwaysJSON",
    "EXCEPTION_HANDLER": "jobs.errors.handle",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "WAN 2.2 Video Generation API",
    "DESCRIPTION": "Text-to-video and image-to-video with the WAN 2.2 14B model: submit a job, poll it, "
    "download an MP4 (832x480, 16 fps, 81 frames). Jobs are queued and processed one at a time.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.1",
    "SERVE_AUTHENTICATION": [],  # a browser that opens /docs has no key to send
    "SERVE_PERMISSIONS": [],
    "SERVE_INCLUDE_SCHEMA": False,
    "PREPROCESSING_HOOKS": ["jobs.openapi.without_slash"],
    "POSTPROCESSING_HOOKS": ["jobs.openapi.without_marks"],  # its own would give each set of states a name
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": False, "validatorUrl": None},
}

# Two clusters share one queue table. A message only wakes a worker up; the job's row is the truth
# (docs/architecture.md).
# So it is neither timed out nor kept, and one that a dead cluster has locked comes back harmlessly.
Q_CLUSTER = {
    "name": "wanapi",
    "orm": "default",
    "poll": 0.2,
    "retry": 3600,
    "timeout": None,
    "recycle": 10**9,
    "save_limit": -1,
    "scheduler": False,
    "ack_failures": True,
    "workers": 1,
    "ALT_CLUSTERS": {"render": {"workers": 1}, "publish": {"workers": 2}},
}
# "Retry larger than timeout": there is no timeout, since the driver has deadlines of its own.
warnings.filterwarnings("ignore", message="Retry and timeout are misconfigured")

LOGGING = logs.config(LOG_LEVEL, LOG_FORMAT)
