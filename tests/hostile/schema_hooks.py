"""Keeps schemathesis, and the service on its behalf, on this machine: loaded by SCHEMATHESIS_HOOKS."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """An image_url that names a server is not fetched: it becomes one of no server."""
    url = case.body.get("image_url") if isinstance(case.body, dict) else None
    if isinstance(url, str) and "." in url:
        case.body = case.body | {"image_url": "http://image.invalid/"}
