"""Arguments that several commands take."""

import argparse
import re
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings

from comfy import presets
from wanapi import values

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def age(text: str) -> timedelta:
    """An age such as ``90m``, ``24h`` or ``7d``."""
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age like 90m, 24h or 7d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def url(text: str) -> str:
    try:
        return values.comfyui_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it {error}") from None


def add_comfyui(parser: argparse.ArgumentParser) -> None:
    """Adds --url and --preset: which ComfyUI is asked, and for which graphs."""
    parser.add_argument("--url", type=url, default=settings.COMFYUI_URL, help="default: COMFYUI_URL")
    parser.add_argument("--preset", choices=presets.names(), default=settings.WORKFLOW_PRESET)


def status(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"the status must be {' or '.join(allowed)}, not {text!r}")
        return text

    return parse
