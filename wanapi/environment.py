"""Reads settings from the environment. Each function gives the value of one variable, or raises
ImproperlyConfigured with a sentence that names the variable and says what is right (wanapi/values.py).
"""

import os
import re
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from environs import FileAwareEnv

from wanapi import values

env = FileAwareEnv()  # env.dump() has the name of each variable that was read
AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def text(name: str) -> str:
    """The text of the variable, or of the file that NAME_FILE names; "" if neither is set."""
    path = os.environ.get(f"{name}_FILE", "").strip()
    try:
        given = str(env.str(name, "")).strip()
    except (OSError, ValueError):
        raise ImproperlyConfigured(
            f"{name}_FILE must name a text file that can be read, not {path!r}."
        ) from None
    if path and not given:
        raise ImproperlyConfigured(f"{name}_FILE names an empty file: {path!r}.")
    if path and os.environ.get(name, "").strip() not in ("", given):
        raise ImproperlyConfigured(f"{name} and {name}_FILE say different things; set one of them.")
    return given


def read(name: str, parse: values.Parse, default: str = "") -> Any:
    """The parsed value. A variable that is set to nothing counts as not set: then it is the default that is
    parsed, or "" if there is none."""
    given = text(name) or default
    try:
        return parse(given) if given else ""
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} {error}.") from None


def required(name: str, what: str, parse: values.Parse) -> Any:
    """As ``read``, without a default; ``what`` tells the operator what to set it to."""
    value = read(name, parse)
    if not value:
        raise ImproperlyConfigured(f"{name} is not set: {what}.")
    return value


def number(name: str, default: int, least: int, most: int) -> int:
    return int(read(name, values.number(least, most), str(default)))


def flag(name: str, default: str) -> bool:
    return bool(read(name, values.flag, default))


def listed(name: str, parse: values.Parse, default: str = "") -> list[Any]:
    return read(name, values.listed(parse), default) or []


def check_keys_of_aws() -> None:
    """boto3 reads these variables itself, and would complain about them only at the first request."""
    keys = {name: os.environ[name] for name in AWS_KEYS if os.environ.get(name)}
    if len(keys) == 1:
        raise ImproperlyConfigured(
            f"{' and '.join(AWS_KEYS)} belong together: {keys.popitem()[0]} is set alone."
        )
    for name, value in keys.items():
        if not re.fullmatch("[!-~]+", value):
            raise ImproperlyConfigured(f"{name} must be ASCII without spaces and line breaks.")
    region = os.environ.get("AWS_DEFAULT_REGION", "")
    if region and not re.fullmatch(values.REGION, region):
        raise ImproperlyConfigured(
            f"AWS_DEFAULT_REGION must be as eu-central-1, not {values.quoted(region)}."
        )
