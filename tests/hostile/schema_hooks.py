"""Keeps schemathesis, and the service on its behalf, on this machine: loaded by SCHEMATHESIS_HOOKS."""

import re

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """An image_url that names a server is not fetched: it becomes one of no server."""
    if isinstance(case.body, dict):
        case.body = {name: harmless(value) for name, value in case.body.items()}


def harmless(value):
    if isinstance(value, dict):
        return {name: harmless(inner) for name, inner in value.items()}
    if isinstance(value, str) and re.match("https?:", value, re.IGNORECASE) and "." in value:
        return "http://image.invalid/"
    return value
