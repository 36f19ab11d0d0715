"""Settings, all from the environment; docs/settings.md has the table.

A secret may come from a file instead: API_KEY_FILE, SECRET_KEY_FILE, and so on for every variable.
A value that cannot work stops the start with a sentence that names it.
"""

import os
import socket
import warnings
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from corsheaders.defaults import default_headers
from django.core.exceptions import ImproperlyConfigured
from dotenv import dotenv_values

from comfy import presets
from wanapi import VERSION, logs, values
from wanapi.environment import check_keys_of_aws, flag, listed, number, read, required, text
from wanapi.proxies import spare_loopback

BASE_DIR = Path(__file__).resolve().parent.parent
spare_loopback()
DAY = 24 * 3600  # seconds
OF_ONE_GPU = ("ENGINE_NAME", "COMFYUI_INPUT_DIR", "COMFYUI_OUTPUT_DIR", "WARM_UP")

# While `make serve` runs, it leaves its addresses here for `manage.py` in the same checkout.
if not {"DATABASE_URL", "DATABASE_URL_FILE"} & os.environ.keys():
    served = dotenv_values(BASE_DIR / ".local" / "serve" / "env")
    if "COMFYUI_URL" in os.environ:  # this is for another GPU: the file's name and folders are not its own
        served = {name: value for name, value in served.items() if name not in OF_ONE_GPU}
    for name, value in served.items():  # into os.environ, where boto3 looks for its keys
        os.environ.setdefault(name, value or "")

API_KEY = required("API_KEY", "choose the key that clients send as X-API-Key", values.key)
SECRET_KEY = required(
    "SECRET_KEY", "give it a long random text, the same for every process of this service", values.line
)
SECRET_KEY_BEFORE = read("SECRET_KEY_BEFORE", values.line)
SECRET_KEY_FALLBACKS = [SECRET_KEY_BEFORE] if SECRET_KEY_BEFORE else []
ALLOWED_HOSTS = listed("ALLOWED_HOSTS", values.allowed_host, "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = listed("CSRF_TRUSTED_ORIGINS", values.origins_below)
CORS_ALLOWED_ORIGINS = listed("CORS_ALLOWED_ORIGINS", values.calling_origin)
BEHIND_TLS_PROXY = flag("BEHIND_TLS_PROXY", "false")
PROXY_ENTRIES = number("PROXY_ENTRIES", 1, 1, 10)
DATABASES = {
    "default": required(
        "DATABASE_URL", "give it a PostgreSQL URL, postgresql://user:password@host:5432/name", values.database
    )
}
DATABASE_TIMEOUT = number("DATABASE_TIMEOUT", 15, 1, DAY)

HOST = read("HOST", values.listen_address, "127.0.0.1")
PORT = number("PORT", 8000, 0, 65535)
METRICS_PORT = number("METRICS_PORT", 0, 0, 65535)
WEB_WORKERS = number("WEB_WORKERS", 2, 1, 100)
KEEPALIVE = number("KEEPALIVE", 650, 1, 3600)
LOG_LEVEL = read("LOG_LEVEL", lambda given: values.choice(*logs.LEVELS)(given.upper()), "INFO")
LOG_FORMAT = read("LOG_FORMAT", values.choice(*logs.FORMATS), "line")

COMFYUI_URL = read("COMFYUI_URL", values.comfyui_url, "http://127.0.0.1:8188")
COMFYUI_INPUT_DIR = read("COMFYUI_INPUT_DIR", values.line)
COMFYUI_OUTPUT_DIR = read("COMFYUI_OUTPUT_DIR", values.line)
PRESETS_DIR = read("PRESETS_DIR", values.line)
try:
    presets.load(Path(PRESETS_DIR) if PRESETS_DIR else None)
except presets.BadPreset as error:
    raise ImproperlyConfigured(f"PRESETS_DIR: {error}") from None
WORKFLOW_PRESET = read("WORKFLOW_PRESET", values.choice(*presets.names()), presets.DEFAULT)
MAX_FRAMES = number("MAX_FRAMES", 81, 5, 1001)
MAX_PIXELS = number("MAX_PIXELS", 1280 * 720, 256 * 256, 1280 * 1280)
WARM_UP = flag("WARM_UP", "true")
RENDER_TIMEOUT = number("RENDER_TIMEOUT", 3600, 1, 30 * DAY)
STALL_TIMEOUT = number("STALL_TIMEOUT", 900, 1, 30 * DAY)
STUCK_TIMEOUT = number("STUCK_TIMEOUT", 60, 1, 30 * DAY)
COMFYUI_RESTART_COMMAND = text("COMFYUI_RESTART_COMMAND")
ENGINE_GRACE = number("ENGINE_GRACE", 600, 1, 30 * DAY)
JOB_LEASE = number("JOB_LEASE", 30, 3, DAY)
ENGINE_LEASE = number("ENGINE_LEASE", 20, 6, DAY)

S3_BUCKET = required("S3_BUCKET", "name the bucket that videos and reference images go to", values.bucket)
S3_PREFIX = read("S3_PREFIX", values.folder)
S3_ENDPOINT_URL = read("S3_ENDPOINT_URL", values.url) or None
S3_PUBLIC_ENDPOINT_URL = read("S3_PUBLIC_ENDPOINT_URL", values.url) or S3_ENDPOINT_URL
IDEMPOTENCY_HOURS = number("IDEMPOTENCY_HOURS", 24, 1, 10 * 365 * 24)
RETENTION_DAYS = number("RETENTION_DAYS", 0, 0, 100 * 365)
VIDEO_URL_TTL = number("VIDEO_URL_TTL", 3600, 1, 7 * DAY)  # S3 signs links for seven days at most

MAX_WAITING = number("MAX_WAITING", 10_000, 1, 10**9)
KEY_MAX_QUEUED = number("KEY_MAX_QUEUED", 100, 0, 10**9)
KEY_MAX_PER_DAY = number("KEY_MAX_PER_DAY", 1000, 0, 10**9)

_stores = listed("IMAGE_URL_ALLOW", values.own_server)
IMAGE_URL_ALLOW = [store for store in _stores if isinstance(store, str)]
IMAGE_URL_NETWORKS = [store for store in _stores if not isinstance(store, str)]
IMAGE_URL_TIMEOUT = number("IMAGE_URL_TIMEOUT", 20, 1, 3600)
IMAGE_MAX_BYTES = number("IMAGE_MAX_BYTES", 20 * 1024 * 1024, 1, 1024**3)

_receivers = listed("WEBHOOK_URL_ALLOW", values.own_server)
WEBHOOK_URL_ALLOW = [server for server in _receivers if isinstance(server, str)]
WEBHOOK_URL_NETWORKS = [server for server in _receivers if not isinstance(server, str)]
WEBHOOK_TIMEOUT = number("WEBHOOK_TIMEOUT", 15, 1, 60)
WEBHOOK_URL = read("WEBHOOK_URL", values.webhook_url)
WEBHOOK_SECRET = listed("WEBHOOK_SECRET", values.webhook_secret)

check_keys_of_aws()
if not ALLOWED_HOSTS:
    raise ImproperlyConfigured("ALLOWED_HOSTS names no host: give it those that the service is called by.")
if METRICS_PORT and METRICS_PORT == PORT:
    raise ImproperlyConfigured("METRICS_PORT must be another port than PORT.")
if os.environ.get("SCRIPT_NAME", "").strip("/"):
    raise ImproperlyConfigured(
        "SCRIPT_NAME is set, and the service cannot live below a path: give it a host name of its own."
    )


def engine_name() -> str:
    """A name by COMFYUI_URL. If that is a local address, the host's name tells several machines apart."""
    parts = urlsplit(COMFYUI_URL)
    if parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return f"{socket.gethostname()}:{parts.port or 80}{parts.path}"[:255]
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"[:255]


ENGINE_NAME = read("ENGINE_NAME", values.name) or engine_name()

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
    "wanapi.middleware.Compress",
    "wanapi.middleware.AnyHost",
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

SECURE_REDIRECT_EXEMPT = [r"^health", r"^metrics"]  # these are asked from inside, not through the proxy
if BEHIND_TLS_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")  # the proxy must set it in every request
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
# These ask for HSTS also for other names below this domain, and in the browsers' own list. That is for the
# domain's owner to decide.
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
# The last ones are those of OpenAI's library, which says much about itself.
_stainless = ("arch", "lang", "os", "package-version", "retry-count", "runtime", "runtime-version", "timeout")
CORS_ALLOW_HEADERS = (
    *default_headers,
    *("x-api-key", "idempotency-key", "if-none-match", "prefer"),
    *(f"x-stainless-{name}" for name in _stainless),
    *("openai-organization", "openai-project"),
)
CORS_EXPOSE_HEADERS = ("retry-after", "etag", "x-request-id", "openai-poll-after-ms", "x-should-retry")
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
# Not by user name: otherwise anybody could lock the operators out.
AXES_LOCKOUT_PARAMETERS = ["ip_address"]
AXES_LOCKOUT_CALLABLE = "wanapi.middleware.locked"
AXES_CLIENT_IP_CALLABLE = "wanapi.middleware.client_ip"
AXES_RESET_ON_SUCCESS = False  # otherwise an account's owner could try others' passwords for ever
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False  # otherwise it writes a greeting to every command's stderr

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "jobs" / "templates"],  # before the admin's own, some of which they replace
        "APP_DIRS": True,
        "OPTIONS": {
            "libraries": {"console": "jobs.operators.tags"},
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# Room for an image of IMAGE_MAX_BYTES in Base64 and a prompt; jobs.api.errors answers 413 beyond it.
DATA_UPLOAD_MAX_NUMBER_FILES = 10  # in one form; jobs.api.forms
DATA_UPLOAD_MAX_MEMORY_SIZE = IMAGE_MAX_BYTES * 4 // 3 + 1024 * 1024

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["jobs.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["jobs.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "jobs.api.parsers.AlwaysJSON",
    "EXCEPTION_HANDLER": "jobs.api.errors.handle",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "WAN 2.2 Video Generation API",
    "DESCRIPTION": "Text-to-video and image-to-video with the WAN 2.2 14B model: submit a job, poll it, "
    "download an MP4 (832x480, 16 fps, 81 frames). Jobs are queued and processed one at a time.",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.1",
    "SERVE_AUTHENTICATION": [],  # a browser that opens /docs has no key to send
    "SERVE_PERMISSIONS": [],
    "SERVE_INCLUDE_SCHEMA": False,
    "WEBHOOKS": ["jobs.api.schema_webhooks.JOB_EVENT"],
    "SORT_OPERATIONS": False,  # they come as jobs/api/urls.py has them
    "TAGS": [{"name": name} for name in ("Make a video", "Your jobs", "As at OpenAI", "The service")],
    "PREPROCESSING_HOOKS": ["jobs.api.schema.without_slash"],
    "POSTPROCESSING_HOOKS": ["jobs.api.schema.without_marks"],  # in place of its own, which names states
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": True, "validatorUrl": None},
}

# Two clusters share one queue table. A message only wakes a worker up; what is true of a job is in its row
# (docs/architecture.md). So messages are neither timed out nor kept, and a message that a dead cluster has
# locked does no harm when it comes back. The publish cluster has two processes for videos, one for webhooks
# and one for retention.
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
    "ALT_CLUSTERS": {"render": {"workers": 1}, "publish": {"workers": 4}},
}
# "Retry larger than timeout": there is no timeout, since the driver has deadlines of its own.
warnings.filterwarnings("ignore", message="Retry and timeout are misconfigured")

LOGGING = logs.config(LOG_LEVEL, LOG_FORMAT)
