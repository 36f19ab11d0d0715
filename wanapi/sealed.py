"""Text that Postgres holds and must not tell: webhook secrets, and URLs that may hold a password.

It is encrypted with a key that is derived from SECRET_KEY. After a change of SECRET_KEY the text is still
read as long as SECRET_KEY_BEFORE names the old one; ``manage.py reseal`` encrypts all of it with the new one.
"""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.utils.crypto import salted_hmac

PURPOSE = b"wanapi.sealed:"  # so that this key is no other key that is derived from SECRET_KEY


class Unreadable(Exception):
    """It was sealed with another SECRET_KEY."""

    def __init__(self) -> None:
        super().__init__("It was encrypted with another SECRET_KEY; name that one in SECRET_KEY_BEFORE.")


def seal(text: str) -> str:
    return _fernet().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Raises Unreadable."""
    try:
        return _fernet().decrypt(sealed).decode()
    except InvalidToken:
        raise Unreadable from None


def reseal(sealed: str) -> str:
    """The same text, encrypted with the present key. Raises Unreadable."""
    try:
        return _fernet().rotate(sealed).decode()
    except InvalidToken:
        raise Unreadable from None


def mark(text: str) -> str:
    """Always the same for the same text, and tells nothing of it: to find sealed texts that are equal."""
    return salted_hmac("wanapi.sealed", text, algorithm="sha256").hexdigest()


def _fernet() -> MultiFernet:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_derived(key)) for key in keys])


def _derived(secret: str) -> bytes:
    """SECRET_KEY is long and random, so one round of a hash is enough."""
    return base64.urlsafe_b64encode(hashlib.sha256(PURPOSE + secret.encode()).digest())
