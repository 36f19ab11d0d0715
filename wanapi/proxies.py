"""A proxy that the environment names (HTTP_PROXY, ALL_PROXY) is not used for what runs on this machine."""

import os

LOOPBACK = "localhost,127.0.0.1,::1,[::1]"  # urllib compares with brackets, others without


def spare_loopback() -> None:
    """Sets NO_PROXY for boto3, requests, and the programs that are started from here."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if given == "*" or LOOPBACK in given:
        return
    for name in ("no_proxy", "NO_PROXY"):  # some look for the one, some for the other
        os.environ[name] = f"{given},{LOOPBACK}".lstrip(",")
