"""Keeps schemathesis, and the service on its behalf, on this machine: loaded by SCHEMATHESIS_HOOKS."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """No image_url is fetched: one that names a server becomes one of no server. Nobody waits for a job."""
    url = case.body.get("image_url") if isinstance(case.body, dict) else None
    if isinstance(url, str) and "." in url:
        case.body = case.body | {"image_url": "http://image.invalid/"}
    if str((case.query or {}).get("wait")) in map(str, range(51)):
        case.query = case.query | {"wait": 0}  # of a job that is not finished, it would wait
