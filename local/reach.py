"""Where clients reach ``make serve``: the address in what it prints and in its links, and the links' port.

``HOST`` says where it listens. ``PUBLIC_ADDRESS`` says by which name or address clients of other machines
call it; alone it means that it listens on all addresses. ``S3_PORT`` is the port that links lead to.
"""

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local.parts import Problem
from wanapi import values

ALL = {"0.0.0.0": socket.AF_INET, "[::]": socket.AF_INET6}  # what a server that listens everywhere is given
THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # and how this machine reaches it
NAMES = ("localhost", "127.0.0.1", "[::1]")
FIRST_PORT, PORTS = 9000, 100
# Nothing is sent there: the system only says which address of ours it would send from.
SOMEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


@dataclass(frozen=True)
class Reach:
    listen: str  # HOST; IPv6 in brackets
    public: str  # what clients call it by; IPv6 in brackets

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "Reach":
        """From HOST and PUBLIC_ADDRESS. Raises Problem."""
        named = _address("PUBLIC_ADDRESS", given.get("PUBLIC_ADDRESS", ""))
        everywhere = "[::]" if named.startswith("[") else "0.0.0.0"
        listen = _address("HOST", given.get("HOST", "")) or (everywhere if named else "127.0.0.1")
        return cls(listen, named or (own_address(listen) if listen in ALL else listen))

    @property
    def here(self) -> str:
        """How this machine reaches it."""
        return THIS_MACHINE.get(self.listen, self.listen)

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach it."""
        if self.listen in NAMES:
            return False
        try:
            return not ipaddress.ip_address(self.listen.strip("[]")).is_loopback
        except ValueError:
            return True

    @property
    def allowed_hosts(self) -> str:
        return ",".join(dict.fromkeys([*NAMES, self.public, self.here]))


def _address(name: str, given: str) -> str:
    try:
        return values.listen_address(given) if given else ""
    except ValueError as error:
        raise Problem(f"{name} {error}.") from None


def own_address(listen: str) -> str:
    """The address of this machine on the network that leads out, or its loopback address."""
    family = ALL[listen]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((SOMEWHERE[family], 9))
            return values.listen_address(probe.getsockname()[0])
        except (OSError, ValueError):
            return THIS_MACHINE[listen]


def check_free(host: str, port: int) -> None:
    """Raises OSError if nothing can listen there."""
    family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def is_free(host: str, port: int) -> bool:
    try:
        check_free(host, port)
    except OSError:
        return False
    return True


def links_port(folder: Path, host: str, wanted: str = "", not_this: int = 0) -> tuple[int, str]:
    """The port that links lead to, and a sentence if it is another than before, or "".

    It is chosen once and kept in the folder, since a link names it and is good for an hour. ``wanted``:
    S3_PORT; ``not_this``: the port of the service itself, which it may not have taken yet.
    """
    if wanted:
        try:
            port = values.number(1, 65535)(wanted)
            check_free(host, port)
        except ValueError as error:
            raise Problem(f"S3_PORT {error}.") from None
        except OSError as error:
            raise Problem(f"S3_PORT={wanted} cannot be used ({error}); choose another.") from None
        return port, ""
    kept = folder / "s3-port"
    before = int(kept.read_text()) if kept.exists() else 0
    if before and before != not_this and is_free(host, before):
        return before, ""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        if port != not_this and is_free(host, port):
            kept.write_text(str(port))
            moved = f"Another program took port {before}, so links lead to port {port} now; older ones fail."
            return port, moved if before else ""
    last = FIRST_PORT + PORTS - 1
    raise Problem(f"Ports {FIRST_PORT} to {last} are all taken; choose another with S3_PORT=....")
