"""Keeps schemathesis, and the service on its behalf, on this machine: loaded by SCHEMATHESIS_HOOKS."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """An image's URL that names a server becomes one of no server. Nobody waits for a job."""
    for name in ("image_url", "last_image_url"):
        url = case.body.get(name) if isinstance(case.body, dict) else None
        if isinstance(url, str) and "." in url:
            case.body = case.body | {name: "http://image.invalid/"}
    if str((case.query or {}).get("wait")) in map(str, range(51)):
        case.query = case.query | {"wait": 0}  # of a job that is not finished, it would wait
