"""What is sent to a receiver, and where it may be. The receivers here are real ones."""

import base64
import threading

import pytest

from jobs.media import receivers
from jobs.media.receivers import post
from tests.image_servers import full_server, resolve_to

NOT_PUBLIC = "The address is not public; webhooks are sent to public servers only."


def sent(url):
    return post(url, b"{}", {})


def test_the_urls_user_and_password_are_basic_authentication(receiver):
    sent(receiver.url.replace("127", "anna:p%40ss@127"))

    [got] = receiver.got
    assert got.headers["authorization"] == "Basic " + base64.b64encode(b"anna:p@ss").decode()
    assert got.headers["host"] == receiver.own


def test_a_url_is_sent_byte_for_byte(receiver):
    sent(f"http://{receiver.own}/a/%7Eb//../c?sig=a%2Bb%2f~&&")

    assert [got.path for got in receiver.got] == ["/a/%7Eb//../c?sig=a%2Bb%2f~&&"]


def test_a_private_address_that_is_not_allowed_sees_no_connection(receiver, settings):
    settings.WEBHOOK_URL_ALLOW = []
    assert sent(receiver.url).trouble == "Webhooks are sent to https URLs on port 443 only."
    assert sent("https://127.0.0.1/").trouble == NOT_PUBLIC
    assert not receiver.got


def test_image_stores_that_are_allowed_are_not_allowed_for_webhooks(receiver, settings):
    settings.WEBHOOK_URL_ALLOW, settings.IMAGE_URL_ALLOW = [], [receiver.own]
    assert not sent(receiver.url).taken


def test_networks_can_be_allowed(receiver, settings):
    from ipaddress import ip_network

    settings.WEBHOOK_URL_ALLOW = []
    settings.WEBHOOK_URL_NETWORKS = [(ip_network("127.0.0.0/8"), receiver.server_port)]

    assert sent(receiver.url).taken
    assert sent(f"http://10.0.0.1:{receiver.server_port}/").trouble == NOT_PUBLIC


def test_an_allowed_network_opens_http_to_nobody_else(receiver, settings, monkeypatch):
    from ipaddress import ip_network

    monkeypatch.setattr("jobs.media.public._is_public", lambda address: True)
    settings.WEBHOOK_URL_NETWORKS = [(ip_network("10.0.0.0/8"), 443), (ip_network("10.0.0.0/8"), 80)]

    for url in ("http://127.0.0.1:443/", "http://127.0.0.1/", "https://127.0.0.1:80/"):
        assert sent(url).trouble == NOT_PUBLIC


def test_a_name_is_looked_up_anew_at_each_try(receiver, settings, monkeypatch):
    from ipaddress import ip_network

    settings.WEBHOOK_URL_ALLOW = []
    settings.WEBHOOK_URL_NETWORKS = [(ip_network("127.0.0.1/32"), receiver.server_port)]
    resolve_to(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    url = f"http://two.example:{receiver.server_port}/"

    assert sent(url).taken
    assert sent(url).trouble == NOT_PUBLIC


def test_an_answer_without_end_is_not_read(receiver):
    """Its head is enough, so no receiver can fill our memory or hold a thread by it."""
    stop = threading.Event()
    receiver.body = iter(lambda: not stop.is_set() and b"x" * 65536, False)

    assert sent(receiver.url).taken

    stop.set()


@pytest.mark.parametrize("kind", ["hangs", "full"])
def test_it_ends_in_time(receiver, settings, kind):
    settings.WEBHOOK_TIMEOUT = 1
    receiver.hangs = True
    if kind == "hangs":
        assert sent(receiver.url).trouble == receivers.late()
        return
    with full_server() as full:
        settings.WEBHOOK_URL_ALLOW = [full]
        assert sent(f"http://{full}/").trouble == receivers.late()


@pytest.mark.parametrize(
    "line", [b"nonsense\r\n\r\n", b"", b"HTTP/1.1 99 x\r\n\r\n", b"HTTP/1.1 200 OK\r\nx" * 9999]
)
def test_whatever_it_answers_is_told_in_a_sentence(receiver, line):
    receiver.raw = line
    answer = sent(receiver.url)
    assert answer.trouble.endswith(".")
    assert "Error" not in answer.trouble


def test_a_server_without_tls_behind_https(receiver):
    assert sent(f"https://{receiver.own}/").trouble == "It offers no TLS connection that can be trusted."


def test_a_proxy_of_the_environment_is_not_asked(receiver, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    assert sent(receiver.url).taken


@pytest.mark.parametrize(
    "text", ["x", "-5", "1e9", "٣", "Fri, 32 Foo 2026 25:00:00 GMT", "", "Wed, 25 Nov 1998 14:00:00 GMT"]
)
def test_a_retry_after_that_makes_no_sense_is_none(receiver, text):
    receiver.answers, receiver.headers = [500], {"Retry-After": text.encode().decode("latin-1")}
    assert sent(receiver.url).wait == 0


def test_all_ways_to_write_one_host_are_one_host():
    split = receivers.host_of
    from urllib.parse import urlsplit

    urls = ("https://u:p@A.example/x?y", "https://a.EXAMPLE:443", "https://a.example./")
    assert {split(urlsplit(url)) for url in urls} == {"a.example:443"}
