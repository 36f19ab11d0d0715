"""Posts webhooks: to public addresses only, by https on port 443, and to those of WEBHOOK_URL_ALLOW."""

import base64
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import requests
from django.conf import settings

from jobs.media.images import CannotRead
from jobs.media.public import DEFAULT_PORTS, Deadline, NotAllowed, Rules, Session, target_of

GONE = 410
MOST_OF_A_HOST = 300  # characters, with its port
TROUBLES: dict[type[Exception], str] = {  # the first one whose class fits the error
    requests.exceptions.InvalidHeader: "It broke off or sent a damaged answer.",
    requests.exceptions.SSLError: "It offers no TLS connection that can be trusted.",
    ValueError: "This is not a valid URL.",  # also requests' InvalidURL
    requests.ConnectionError: "It could not be reached, or broke off.",
    OSError: "It broke off or sent a damaged answer.",  # also requests' other errors
    CannotRead: "This machine can open no more connections.",
}


class Answer(NamedTuple):
    """``status``: of HTTP, if there was one. ``trouble``: in a sentence, if it was not taken. ``wait``: the
    seconds for which the receiver asks."""

    status: int | None
    trouble: str = ""
    wait: float = 0.0

    @property
    def taken(self) -> bool:
        return not self.trouble


def check(url: str) -> str:
    """Its host and port. Raises NotAllowed if nothing is sent there, wherever its name leads."""
    parts = _split(url)
    rules, host = _rules(), host_of(parts)
    if host not in map(str.lower, rules.servers) and not rules.may_use(parts.scheme, parts.port):
        raise NotAllowed(f"{rules.what} {rules.ports_told} only.")
    return host


def host_of(parts: SplitResult) -> str:
    name = str(parts.hostname).rstrip(".")
    return f"{f'[{name}]' if ':' in name else name}:{parts.port or DEFAULT_PORTS[parts.scheme]}"


def post(url: str, body: bytes, headers: dict[str, str]) -> Answer:
    """Sends it, within WEBHOOK_TIMEOUT seconds in all. What is read of the answer is its head."""
    with Deadline(settings.WEBHOOK_TIMEOUT) as deadline, Session(deadline, _rules()) as session:
        try:
            parts = _split(url)
            session.target = target_of(url)
            bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            with session.post(
                bare, data=body, headers=headers | _login(parts), allow_redirects=False, stream=True
            ) as response:
                return _judged(response)
        except NotAllowed as error:
            return Answer(None, str(error))
        except tuple(TROUBLES) as error:
            trouble = next(text for kind, text in TROUBLES.items() if isinstance(error, kind))
            return Answer(None, late() if deadline.passed else trouble)


def late() -> str:
    return f"It took longer than {settings.WEBHOOK_TIMEOUT} seconds."


def _rules() -> Rules:
    return Rules(
        what="Webhooks are sent to",
        ports={"http": (), "https": (None, 443)},
        ports_told="https URLs on port 443",
        servers=settings.WEBHOOK_URL_ALLOW,
        networks=settings.WEBHOOK_URL_NETWORKS,
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
        if known and url.isprintable() and len(host_of(parts)) <= MOST_OF_A_HOST:
            return parts
    except ValueError:
        pass
    raise NotAllowed("This is not a valid http or https URL.")


def _login(parts: SplitResult) -> dict[str, str]:
    """The URL's user and password, as basic authentication."""
    if parts.username is None:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _judged(response: requests.Response) -> Answer:
    if 200 <= response.status_code < 300:
        return Answer(response.status_code)
    trouble = f"It answered with status {response.status_code}."
    return Answer(response.status_code, trouble, _wait(response.headers.get("Retry-After", "")))


def _wait(text: str) -> float:
    """Seconds, from either form that Retry-After may have; 0 for any other text."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        time = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max((time.replace(tzinfo=time.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
