"""Keeps schemathesis, and the service on its behalf, on this machine: loaded by SCHEMATHESIS_HOOKS."""

import re

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """An image's URL that names a server becomes one of no server. Nobody waits for a job."""
    if isinstance(case.body, dict):
        case.body = {name: harmless(value) for name, value in case.body.items()}
    if str((case.query or {}).get("wait")) in map(str, range(51)):
        case.query = case.query | {"wait": 0}  # of a job that is not finished, it would wait


def harmless(value):
    if isinstance(value, dict):
        return {name: harmless(inner) for name, inner in value.items()}
    if isinstance(value, str) and re.match("https?:", value, re.IGNORECASE) and "." in value:
        return "http://image.invalid/"
    return value
