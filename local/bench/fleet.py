"""``make bench-fleet``: starts a Postgres of its own, and lets ``claims.py`` measure on it."""

import os
import signal
import subprocess
import sys

from local import parts
from local.parts import ROOT

CONNECTIONS = 500  # the stand-ins of claims.py have four each


def main() -> int:
    port = parts.free_port()
    postgres = parts.postgres(ROOT / ".local" / "fleet", port=port, password="fleet")  # noqa: S106 - on 127.0.0.1, for two minutes
    user = ["--user", postgres.user] if postgres.user else []
    command = [*postgres.command, f"--max_connections={CONNECTIONS}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "local.child", *user, "--", *command], stderr=subprocess.DEVNULL
    )
    settings = {"API_KEY": "-", "SECRET_KEY": "-", "S3_BUCKET": "-", "LOG_LEVEL": "WARNING"}
    settings |= {"DATABASE_URL": parts.database_url(port, "fleet"), "POSTGRES": str(server.pid)}
    settings |= {"DJANGO_SETTINGS_MODULE": "wanapi.settings"}
    try:
        return subprocess.call(
            [sys.executable, "-m", "local.bench.claims"], cwd=ROOT, env=os.environ | settings
        )
    finally:
        server.send_signal(signal.SIGINT)  # Postgres' fast shutdown
        server.wait(20)


if __name__ == "__main__":
    sys.exit(main())
