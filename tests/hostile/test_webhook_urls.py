"""100 hostile receivers: nothing is ever sent to a private address, straight, by a redirect or by a name."""

import pytest

from jobs.deliver import deliver
from jobs.models import Delivery, Job
from jobs.queue.returns import cancel
from tests.hostile.test_urls import HOSTS
from tests.image_servers import resolve_to
from tests.receivers import receiving

# Forms that lead to this machine, where the canaries listen.
OURS = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "0.0.0.0")


@pytest.fixture
def canaries():
    with receiving() as one, receiving() as another:
        yield one, another


@pytest.mark.django_db
def test_none_is_connected_to(api, receiver, canaries, figure, monkeypatch, connections):
    """Each is asked for in a request; what the door takes is tried, too."""
    ports = [canary.server_port for canary in canaries]
    urls = [f"https://{host}/hook" for host in HOSTS]
    urls += [f"{scheme}://{host}:{port}/" for scheme in ("http", "https") for host in OURS for port in ports]
    urls += [f"https://a:b@{host}:443/?{port}" for host in OURS for port in ports]
    urls += ["https://two.example/", "http://two.example/", "ftp://127.0.0.1/", "file:///etc/passwd"]
    urls += [f"gopher://127.0.0.1:{port}/" for port in ports] + [f"https://127.0.0.1\\@a.example:{ports[0]}"]
    resolve_to(monkeypatch, ["93.184.216.34", "127.0.0.1"])
    tried = sum(accepted(api, url) for url in urls)
    receiver.answers = [302] * len(canaries)
    for canary in canaries:
        receiver.headers = {"Location": canary.url}
        assert accepted(api, receiver.url)
        cancel(Job.objects.all())
        deliver()
    cancel(Job.objects.all())

    while Delivery.objects.due().exists():
        deliver()

    figure(
        f"{len(urls) + len(canaries)} hostile receivers, {tried} past the door, {len(canaries)} redirect",
        f"{len(connections) - len(canaries)} connections to where they lead",
    )
    assert len(urls) + len(canaries) >= 100
    assert connections == [("127.0.0.1", receiver.server_port)] * len(canaries)
    assert [got for canary in canaries for got in canary.got] == []
    assert not Delivery.objects.filter(state="delivered").exists()


def accepted(api, url):
    body = {"prompt": "A cat", "webhook_url": url}
    answer = api.post("/generate", body, content_type="application/json")
    assert answer.status_code == 200 or set(answer.json()["errors"]) == {"webhook_url"}
    return answer.status_code == 200
