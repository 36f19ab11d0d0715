"""image_url: only public addresses are asked, whatever a name server says."""

import ssl
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from jobs.media.public import _is_public, fetch
from tests.factories import picture
from tests.image_servers import NOT_PUBLIC, Server, full_server, refused, resolve_to, serving


class TestForeignAddresses:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "0.0.0.0"]
    )
    def test_a_private_server_sees_no_connection(self, any_port, host):
        assert refused(f"http://{host}:{any_port.server_port}/image") == NOT_PUBLIC
        assert any_port.connections == 0

    @pytest.mark.parametrize("answers", [["93.184.216.34", "127.0.0.1"], ["127.0.0.1", "93.184.216.34"]])
    def test_every_address_of_a_name_must_be_public(self, any_port, monkeypatch, answers):
        resolve_to(monkeypatch, answers)

        assert refused(f"http://two.example:{any_port.server_port}/image") == NOT_PUBLIC

    def test_a_server_on_the_list_stands_for_no_other(self, own):
        assert refused("http://127.0.0.1/image") == NOT_PUBLIC
        assert refused("http://127.0.0.1:1/image") == "Images are fetched from ports 80 and 443 only."
        assert "user name" in refused(f"http://{own.own}@127.1/image")


class TestSeveralAddresses:
    """A name with more than one address. 127.0.0.2 and up, and ::1, stand for public ones here; 127.0.0.1,
    where every server would answer, for a private one."""

    PUBLIC = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "::1")

    @pytest.fixture
    def public(self, monkeypatch) -> Iterator[Server]:
        monkeypatch.setattr("jobs.media.public._is_public", lambda address: str(address) in self.PUBLIC)
        with serving(Server("127.0.0.2")) as server:
            monkeypatch.setattr("jobs.media.public.PORTS", (None, 80, 443, server.server_port))
            yield server

    @pytest.mark.parametrize(
        "answers",
        [
            ["127.0.0.3", "127.0.0.2"],
            ["127.0.0.3", "127.0.0.4", "127.0.0.2"],
            ["::1", "127.0.0.2"],
            ["127.0.0.2", "127.0.0.3"],
        ],
        ids=["first is down", "two are down", "IPv6 leads nowhere", "second is down"],
    )
    def test_what_cannot_be_reached_is_passed(self, public, monkeypatch, answers):
        resolve_to(monkeypatch, answers)

        assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_an_address_that_never_answers_leaves_time_for_the_next(self, public, monkeypatch, settings):
        settings.IMAGE_URL_TIMEOUT = 3
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])

        with full_server("127.0.0.3", public.server_port):
            assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_a_server_of_the_operator_may_have_several_as_well(self, public, monkeypatch, settings):
        settings.IMAGE_URL_TIMEOUT = 3
        settings.IMAGE_URL_ALLOW = [f"two.example:{public.server_port}"]
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])

        with full_server("127.0.0.3", public.server_port):
            assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_behind_a_redirect_as_well(self, public, monkeypatch):
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])
        target = f"http://two.example:{public.server_port}/image"

        assert fetch(f"http://127.0.0.2:{public.server_port}/to/{target}") == picture()

    def test_none_that_can_be_reached(self, public, monkeypatch):
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.4"])

        reason = "The image's server could not be reached, or broke off."
        assert refused(f"http://two.example:{public.server_port}/image") == reason

    def test_ipv4_has_its_turn_behind_many_of_ipv6(self, public, monkeypatch):
        monkeypatch.setattr("jobs.media.public._is_public", lambda address: True)
        many = [f"::ffff:127.0.1.{number}" for number in range(20)]
        resolve_to(monkeypatch, [*many, "127.0.0.2"])

        assert fetch(f"http://two.example:{public.server_port}/image") == picture()

    def test_a_server_that_was_reached_has_the_last_word(self, public, monkeypatch):
        with serving(Server("127.0.0.3")) as other:
            resolve_to(monkeypatch, ["127.0.0.2", "127.0.0.3"])
            monkeypatch.setattr("jobs.media.public.PORTS", (other.server_port, public.server_port))

            assert "status 404" in refused(f"http://two.example:{public.server_port}/status/404")
        assert (public.connections, other.connections) == (1, 0)

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_one_private_address_refuses_the_name(self, public, monkeypatch, place):
        answers = ["127.0.0.3", "127.0.0.2"]
        answers.insert(place, "127.0.0.1")
        resolve_to(monkeypatch, answers)

        assert refused(f"http://two.example:{public.server_port}/image") == NOT_PUBLIC
        assert public.connections == 0

    @pytest.mark.parametrize("second", ["127.0.0.1", "::127.0.0.1"])
    def test_a_name_that_turns_private_after_the_check_changes_nothing(self, public, monkeypatch, second):
        resolve_to(monkeypatch, ["127.0.0.2"], [second])

        assert fetch(f"http://two.example:{public.server_port}/image") == picture()
        assert refused(f"http://two.example:{public.server_port}/image") == NOT_PUBLIC
        assert public.connections == 1

    def test_a_name_that_turns_private_behind_a_redirect_is_refused(self, public, monkeypatch):
        resolve_to(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])

        url = f"http://two.example:{public.server_port}"
        assert refused(f"{url}/to/{url}/image") == NOT_PUBLIC
        assert public.connections == 1

    def test_tls_is_for_the_name(self, public, monkeypatch, tmp_path):
        names = secured(public, tmp_path, "two.example")
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "certificate"))
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.2"])

        assert fetch(f"https://two.example:{public.server_port}/image") == picture()
        assert names == ["two.example"]
        assert "TLS" in refused(f"https://127.0.0.2:{public.server_port}/image")  # which it does not certify


def secured(server: Server, folder: Path, name: str) -> list[str]:
    """Gives the server a certificate, and returns the names that clients ask it for."""
    certificate, key = folder / "certificate", folder / "key"
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -addext subjectAltName=DNS:{name}"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context, names = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, asked, __: names.append(asked) if asked else None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return names


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:21f::1", True),
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34 behind NAT64
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b::168.63.129.16", False),
        ("64:ff9b::100.64.0.1", False),
        ("64:ff9b::224.0.0.1", False),
        ("64:ff9b:1::5db8:d822", False),  # a network's own NAT64
        ("64:ff9b:0:1::5db8:d822", False),
        ("::ffff:10.0.0.1", False),
        ("192.0.0.9", False),
        ("192.88.99.1", False),
        ("2002:5db8:d822::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert _is_public(ip_address(address)) is public
