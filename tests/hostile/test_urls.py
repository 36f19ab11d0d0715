"""No form of a private address, straight or by a redirect, is ever connected to."""

import pytest

from jobs.media.images import BadImage
from jobs.media.public import fetch

HOSTS = [
    "127.0.0.1",
    "127.1",
    "127.0.1.3",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0.0.0.0",
    "0",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "192.0.0.1",
    "192.88.99.1",
    "198.18.0.1",
    "100.100.100.200",  # metadata of Alibaba's cloud
    "168.63.129.16",  # of Azure's
    "169.254.169.254",  # of most others
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::a83f:8110]",  # Azure's behind NAT64
    "[64:ff9b::10.0.0.1]",
    "[64:ff9b::]",
    "[64:ff9b:1::7f00:1]",
    "[2001::f5ff:fffe]",  # Teredo
    "[2002:7f00:1::]",  # 6to4
    "[2001:20::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",  # metadata of Amazon's cloud
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
]


def test_none_is_connected_to(own, connections, figure):
    straight = [f"{scheme}://{host}/a.png" for host in HOSTS for scheme in ("http", "https")]
    redirects = [f"{own.url}/to/http://{host}/a.png" for host in HOSTS]

    for url in straight + redirects:
        with pytest.raises(BadImage):
            fetch(url)

    redirecting = [("127.0.0.1", own.server_port)] * len(redirects)
    figure(
        f"{len(straight + redirects)} hostile URLs, {len(redirects)} of them redirects",
        f"{len(connections) - len(redirecting)} connections to where they lead",
    )
    assert connections == redirecting
