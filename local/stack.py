"""The stack: which programs run, with which settings, under supervisord.

supervisord starts all at once and restarts each of them on any exit, without limit. The workers wait by
themselves until the tables are there, which ``local.prepare`` makes, with the bucket and the admin's user.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests

from local import parts
from local.parts import ROOT, Part, Problem
from local.reach import Reach, check_free
from wanapi import values

STARTUP = 60  # seconds that a part may take to answer
SHUTDOWN = 9  # seconds until what does not stop is killed


class Stack:
    """One running stack with its data below ``folder``. A part that the settings in ``given`` name elsewhere
    is not started. ``links_port``: where links lead to (local/door.py); 0: straight to the S3 server."""

    def __init__(self, folder: Path, given: dict[str, str], links_port: int = 0):
        self.reach = Reach.of(given)
        self.links_port = links_port
        self.notes: list[str] = []  # what to tell beside that it runs
        self.folder = folder.resolve()
        self.logs = self.folder / "log"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self.secrets = self._secrets()
        self.parts: dict[str, Part] = {}
        self.env = self._settings(given)
        self.supervisor: subprocess.Popen[bytes] | None = None

    def _secrets(self) -> dict[str, str]:
        """The stack's secrets, made once for each folder."""
        path = self.folder / "secrets.json"
        if not path.exists():
            made = {
                name: secrets.token_urlsafe(24) for name in ("SECRET_KEY", "API_KEY", "postgres", "admin")
            }
            partial = path.with_suffix(".partial")
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(made))
            partial.rename(path)  # so that the file is there whole or not at all
        return json.loads(path.read_text())

    def _settings(self, given: dict[str, str]) -> dict[str, str]:
        env = {name: self.secrets[name] for name in ("SECRET_KEY", "API_KEY")}
        env |= {"PORT": "8000", "ALLOWED_HOSTS": self.reach.allowed_hosts}
        if "DATABASE_URL" not in given:
            port = parts.free_port()
            password = self.secrets["postgres"]
            self.parts["postgres"] = parts.postgres(self.folder, port=port, password=password)
            env["DATABASE_URL"] = parts.database_url(port, password)
        if "S3_ENDPOINT_URL" not in given and "S3_BUCKET" not in given:
            env |= self._s3(given)
            given = {name: value for name, value in given.items() if name not in parts.S3_KEYS}
        if "COMFYUI_URL" not in given:
            port = parts.free_port()
            self.parts["simulator"] = parts.simulator(self.folder, port=port)
            env["COMFYUI_URL"] = f"http://127.0.0.1:{port}"
            env["ENGINE_NAME"] = "simulator"  # the same at each start, though the port is not
            env["WARM_UP"] = "false"
            for kind in ("INPUT", "OUTPUT"):
                env[f"COMFYUI_{kind}_DIR"] = str(self.folder / "comfyui" / kind.lower())
        return env | given | {"HOST": self.reach.listen}

    def _s3(self, given: dict[str, str]) -> dict[str, str]:
        port = parts.free_port()
        self.parts["s3"] = parts.s3(self.folder, port=port)
        url, bucket = f"http://127.0.0.1:{port}", "wanapi"
        env = parts.S3_KEYS | {"S3_ENDPOINT_URL": url, "S3_BUCKET": bucket}
        if self.links_port:
            default = f"http://{self.reach.public}:{self.links_port}"
            env["S3_PUBLIC_ENDPOINT_URL"] = public = given.get("S3_PUBLIC_ENDPOINT_URL", default)
            self.parts["door"] = parts.door(
                host=self.reach.listen,
                port=self.links_port,
                to=url,
                bucket=bucket,
                signed_for=urlsplit(public).netloc,
            )
        return env

    @property
    def url(self) -> str:
        """For this machine."""
        return f"http://{self.reach.here}:{self.env['PORT']}"

    @property
    def public_url(self) -> str:
        """For clients."""
        return f"http://{self.reach.public}:{self.env['PORT']}"

    def _programs(self) -> dict[str, Part]:
        python = sys.executable
        return {
            "web": Part([python, "-m", "gunicorn", "-c", "wanapi/gunicorn.py", "wanapi.wsgi"]),
            "render": Part([python, "manage.py", "worker", "render"]),
            "publish": Part([python, "manage.py", "worker", "publish"]),
        }

    # supervisord

    def _config(self) -> str:
        user = "user=root\n" if os.geteuid() == 0 else ""
        lines = [
            f"[supervisord]\nnodaemon=true\nsilent=true\n{user}logfile={self.logs}/supervisord.log\n"
            f"pidfile={self.folder}/supervisord.pid\nchildlogdir={self.logs}\n"
        ]
        service = self._programs()
        for name, part in (self.parts | service).items():
            user_option = ["--user", part.user] if part.user else []
            command = [sys.executable, "-m", "local.child", *user_option, "--", *part.command]
            lines.append(
                f"[program:{name}]\n"
                f"command={' '.join(_quoted(word) for word in command)}\n"
                f"directory={_escaped(str(ROOT))}\n"
                f"environment={','.join(f'{key}={_quoted(value)}' for key, value in part.env.items())}\n"
                f"stopsignal={part.stop_signal}\nstopwaitsecs={SHUTDOWN}\nkillasgroup=true\n"
                "autorestart=true\nstartsecs=0\nredirect_stderr=true\n"
                f"stdout_logfile={_escaped(str(self.logs))}/{name}.log\nstdout_logfile_maxbytes=10MB\nstdout_logfile_backups=1\n"
            )
        # Groups stop one after the other, the members of one together: first the service, then its parts.
        lines.append(f"[group:service]\nprograms={','.join(service)}\npriority=2\n")
        if self.parts:
            lines.append(f"[group:parts]\nprograms={','.join(self.parts)}\npriority=1\n")
        return "\n".join(lines)

    def start(self) -> None:
        """Starts everything and returns when /health answers. Raises Problem."""
        self._check_port()
        config = self.folder / "supervisord.conf"
        config.touch(mode=0o600)
        config.write_text(self._config())
        env = os.environ | self.env
        self.supervisor = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "local.child",
                "--",
                sys.executable,
                "-m",
                "supervisor.supervisord",
                "-c",
                str(config),
            ],
            cwd=ROOT,
            env=env,
            start_new_session=True,  # Ctrl-C must reach us alone: we stop everything in order
        )
        self._wait("s3", self.env.get("S3_ENDPOINT_URL", ""))
        self._wait("door", f"http://{self.reach.here}:{self.links_port}")
        self._wait("simulator", self.env["COMFYUI_URL"])
        prepared = subprocess.run(
            [sys.executable, "-m", "local.prepare"],
            cwd=ROOT,
            env=env | ({"ADMIN_PASSWORD": self.secrets["admin"]} if "postgres" in self.parts else {}),
            capture_output=True,
            text=True,
        )
        if prepared.returncode:
            raise Problem(prepared.stderr.strip() or "The database could not be prepared.")
        self.notes += prepared.stdout.splitlines()
        self._wait("web", f"{self.url}/health")

    def _check_port(self) -> None:
        host, port = self.reach.listen, self.env["PORT"]
        try:
            check_free(host, values.number(1, 65535)(port))
        except (OSError, ValueError) as error:
            raise Problem(
                f"The service cannot listen on {host}:{port} ({error}); choose another with PORT=...."
            ) from None

    def _wait(self, name: str, url: str) -> None:
        """Waits until the part gives any answer; for parts that are not ours it does not wait."""
        if name != "web" and name not in self.parts:
            return
        deadline = time.monotonic() + STARTUP
        while time.monotonic() < deadline:
            if not self.running():
                raise Problem(f"supervisord ended; see {self.logs}/supervisord.log.")
            with contextlib.suppress(requests.RequestException):
                requests.get(url, timeout=2)  # any answer will do
                return
            time.sleep(0.1)
        raise Problem(f"{name} did not start within {STARTUP} s; see {self.logs}/{name}.log.")

    def running(self) -> bool:
        return self.supervisor is not None and self.supervisor.poll() is None

    def stop(self) -> None:
        """Ends every process, within ten seconds."""
        if self.supervisor and self.running():
            self.supervisor.send_signal(signal.SIGTERM)
            try:
                self.supervisor.wait(SHUTDOWN + 3)
            except subprocess.TimeoutExpired:
                self.supervisor.kill()  # its children die with it
                self.supervisor.wait()


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # supervisord expands %(name)s


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
