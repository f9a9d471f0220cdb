"""Which name servers a container's command asks."""

from __future__ import annotations

import pytest

from netwrap import resolver


@pytest.mark.parametrize(
    ("text", "out_of_reach"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", True),
        ("nameserver ::1\nnameserver 127.0.0.1\n", True),
        ("nameserver 0.0.0.0\n", True),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.53\n", False),
        ("# nameserver 127.0.0.1\nnameserver\t192.168.50.1\n", False),
        ("nameserver fe80::1%eth0\n", False),
        ("search example.org\n", False),
        ("", False),
    ],
)
def test_servers_on_the_hosts_loopback_are_out_of_reach(text: str, out_of_reach: bool) -> None:
    assert resolver.are_out_of_reach(resolver.servers(text)) is out_of_reach
