"""What the text of a setting may be. Each function gives the value, or raises ValueError with the end of a
sentence that begins with the setting's name: "must be ...".
"""

import base64
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any
from urllib.parse import SplitResult, urlsplit

import dj_database_url
from psycopg.pq import Conninfo

HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*", re.IGNORECASE | re.ASCII)
SERVER_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.IGNORECASE | re.ASCII)
BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[!-~]+", re.ASCII)
REGION = re.compile(r"(?![0-9]+\Z)(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
DEFAULT_PORTS = {"http": 80, "https": 443}
FLAGS = {"true": True, "yes": True, "on": True, "1": True, "t": True, "y": True}
FLAGS |= {"false": False, "no": False, "off": False, "0": False, "f": False, "n": False}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Options that DATABASE_URL may have for Django, beside those for libpq.
OF_DJANGO = {"assume_role", "isolation_level", "pool", "prepare_threshold", "server_side_binding"}
Parse = Callable[[str], Any]


def quoted(text: str) -> str:
    """The text for a sentence: at most 100 characters, and no user name and password."""
    return repr(re.sub(r"^.*@", "***@", text, flags=re.DOTALL)[:100])


def number(least: int, most: int) -> Parse:
    """A number in plain digits. The bounds keep out what would overflow later, in a clock, in Postgres or in
    a socket."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,15}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"must be a number from {least} to {most}, not {quoted(text)}")
        return int(text)

    return parse


def flag(text: str) -> bool:
    if text.lower() not in FLAGS:
        raise ValueError(f"must be true or false, not {quoted(text)}")
    return FLAGS[text.lower()]


def choice(*options: str) -> Parse:
    def parse(text: str) -> str:
        if text not in options:
            raise ValueError(f"must be one of {', '.join(options)}, not {quoted(text)}")
        return text

    return parse


def line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


def name(text: str) -> str:
    if len(line(text)) > 255:
        raise ValueError("must have at most 255 characters")
    return text


def key(text: str) -> str:
    """A text that can be sent in an HTTP header as it is."""
    if not re.fullmatch("[!-~]{1,1024}", text):
        raise ValueError(
            "must be ASCII, 1024 characters at most, without spaces and line breaks: "
            "HTTP headers carry nothing else reliably"
        )
    return text


def bucket(text: str) -> str:
    if not BUCKET.fullmatch(text):
        raise ValueError(f"must be the name of a bucket alone, as my-videos, not {quoted(text)}")
    return text


def folder(text: str) -> str:
    """A folder of the bucket, with a slash at its end."""
    if not re.fullmatch(r"(?=.{1,200}\Z)[\w-][\w.-]*(/[\w-][\w.-]*)*/?", text, re.ASCII):
        raise ValueError(
            "must be a folder of the bucket, as wanapi or videos/wanapi, of letters, digits, _, - and dots, "
            f"not {quoted(text)}"
        )
    return text.rstrip("/") + "/"


def listed(parse: Parse) -> Parse:
    """A list with commas between its entries. Spaces around an entry, and empty entries, are left out."""
    return lambda text: [parse(entry.strip()) for entry in text.split(",") if entry.strip()]


def is_ipv6(text: str) -> bool:
    return _is_a(IPv6Address, text)


def is_server(text: str, names: re.Pattern[str] = SERVER_NAME) -> bool:
    """Whether it is a host name or an IPv4 address; no name has a number as its last part."""
    if text.rstrip(".").rpartition(".")[2].isdigit():
        return _is_a(IPv4Address, text)
    return bool(names.fullmatch(text))


def _is_a(kind: type[IPv4Address | IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _bracketed(text: str) -> bool:
    return text.startswith("[") and text.endswith("]") and "%" not in text and is_ipv6(text[1:-1])


def allowed_host(text: str) -> str:
    """As Django compares it with the Host header: a name, ``.name`` with all below it, an address, ``*``."""
    if _bracketed(text):
        return f"[{IPv6Address(text[1:-1])}]"
    if text != "*" and not is_server(text.removeprefix("."), HOST_NAME):
        raise ValueError(
            "takes host names as video.example.com, .example.com for all below it, or [::1], "
            f"without scheme, port and path, not {quoted(text)}"
        )
    return text


def listen_address(text: str) -> str:
    """For gunicorn, which wants brackets around IPv6."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if is_ipv6(bare):
        return f"[{bare}]"
    if not is_server(text):
        raise ValueError(f"must be an address or a name of this machine, without a port, not {quoted(text)}")
    return text


def _parts(text: str) -> SplitResult | None:
    """The parts of an http or https URL without query and fragment; None for any other text. ``urlsplit``
    alone would drop line breaks, and take any text for a host."""
    if not re.fullmatch(r"[!-~]+", text) or re.search(r"[?#\\]", text):
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    right = parts.scheme in DEFAULT_PORTS and port != 0 and "@" not in parts.path
    return parts if right and (is_server(host) or ("[" in parts.netloc and is_ipv6(host))) else None


def url(text: str) -> str:
    """An http or https URL; a slash at its end is left out."""
    parts = _parts(text)
    if parts is None or "@" in parts.netloc:
        raise ValueError(
            "must be an http or https URL of host, port and path alone, as http://10.0.0.7:9000, "
            f"not {quoted(text)}"
        )
    return parts.geturl().rstrip("/")


def comfyui_url(text: str) -> str:
    parts = _parts(text)
    if parts is None or len(text) > 500 or (parts.username is not None and parts.password is None):
        raise ValueError(
            "must be an http or https URL, as http://10.0.0.7:8188 or http://user:password@10.0.0.7:8188, "
            f"without spaces, ? and # (in a password write %40 for @, %2F for /), not {quoted(text)}"
        )
    return parts.geturl().rstrip("/")


def origin(text: str) -> str:
    """As browsers send it: in small letters, without the usual port, and without a slash at its end."""
    parts = _parts(text)
    if parts is None or "@" in parts.netloc or parts.path not in ("", "/"):
        raise ValueError(
            "takes origins as https://video.example.com or http://localhost:3000, without a path, "
            f"not {quoted(text)}"
        )
    host = parts.netloc.lower()
    return f"{parts.scheme}://{host.removesuffix(f':{DEFAULT_PORTS[parts.scheme]}')}"


def calling_origin(text: str) -> str:
    """An origin, or that of an app on a telephone, which has a scheme of its own: capacitor://localhost."""
    app = re.fullmatch(r"(?!https?:|file:)[a-z][a-z0-9+.-]*://[a-z0-9.-]+", text)
    return text if app else origin(text)


def origins_below(text: str) -> str:
    """An origin, or ``https://*.example.com``, which Django knows for CSRF_TRUSTED_ORIGINS."""
    scheme, star, host = text.partition("://*.")
    return origin(f"{scheme}://{host}").replace("://", star, 1) if star else origin(text)


def own_server(text: str) -> Any:
    """``host:port`` stays text; ``network/bits:port`` becomes a pair of the network and the port."""
    host, _, port = text.rpartition(":")
    try:
        valid_port = number(1, 65535)(port)
        if "/" in host:
            return ip_network(re.sub(r"[][]", "", host)), valid_port
        if _bracketed(host):
            return f"[{IPv6Address(host[1:-1])}]:{valid_port}"
        if not is_server(host):
            raise ValueError("it names no host")
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f"names a network wrongly: {error}") from None
        raise ValueError(
            "takes host:port and network/bits:port, as images.example.com:443, [fd00::7]:443 "
            f"or 10.0.0.0/8:80, not {quoted(text)}"
        ) from None
    return f"{host}:{valid_port}"


def webhook_url(text: str) -> str:
    """It may hold a password, so the sentence does not quote it."""
    if not re.fullmatch(r"https?://[!-~]{1,2000}", text) or not urlsplit(text).hostname:
        raise ValueError("must be an http or https URL, without spaces")
    return text


def webhook_secret(text: str) -> str:
    """As Standard Webhooks writes it. It is a secret, so the sentence does not quote it."""
    try:
        size = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except ValueError:
        size = 0
    if not text.startswith("whsec_") or not 24 <= size <= 64:
        raise ValueError("must be whsec_ and the Base64 of 24 to 64 random bytes")
    return text


def database(url: str) -> dict[str, Any]:
    """Django's settings for DATABASE_URL. It holds a password, so no sentence quotes it."""
    try:
        if not re.fullmatch("[!-~]+", url):
            raise ValueError
        config: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=600, conn_health_checks=True))
    except ValueError:  # also of an unknown scheme
        raise ValueError(
            "must be postgresql://user:password@host:5432/name (in the password write %40 for @, %2F for /)"
        ) from None
    if config["ENGINE"] != "django.db.backends.postgresql":
        raise ValueError("must name a PostgreSQL database: the queue needs its row locks")
    options = config.get("OPTIONS", {})
    if not (config["NAME"] or "service" in options) or len(config["NAME"]) > 63:
        raise ValueError("must end with the name of the database, of 63 characters at most")
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | OF_DJANGO
    if set(options) - known:
        raise ValueError("has an option behind its ? that Postgres does not know")
    if options.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"must have one of {', '.join(SSL_MODES)} as its sslmode")
    # A database that is cut off must not hang its clients: 5 s to connect, 10 s until a dead link is noticed.
    patience = {
        "connect_timeout": 5,
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
    }
    config["OPTIONS"] = patience | options
    config["ENGINE"] = "wanapi.postgres"  # Django's backend, with DATABASE_TIMEOUT
    # A pooler in transaction mode (PgBouncer) loses a cursor between two of its reads.
    config["DISABLE_SERVER_SIDE_CURSORS"] = True
    return config
