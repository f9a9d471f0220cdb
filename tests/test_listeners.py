"""Sockets that listen, as `ss` tells them."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from netwrap.listeners import Listener, parse_sockets


@pytest.mark.parametrize(
    ("local", "more", "ip"),
    [
        ("0.0.0.0", "", None),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.53%lo", "", "127.0.0.53"),
        ("0.0.0.0%eth0", "", None),
        ("*", "v6only:0", None),
        ("*%eth0", "v6only:0", None),
        ("[::]", "", None),
        ("[::ffff:192.168.50.10]", "v6only:0", "192.168.50.10"),
        ("[::ffff:192.168.50.10]%eth0", "v6only:0", "192.168.50.10"),
        ("[::ffff:192.168.50.10%eth0]", "v6only:0", "192.168.50.10"),
    ],
)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_sockets_that_take_ipv4_are_listeners(protocol: str, local: str, more: str, ip: str | None) -> None:
    line = f"{protocol}   LISTEN 0   128   {local}:8080   *:*   ino:33 sk:1 cgroup:/a {more} <->\n"
    assert parse_sockets(line) == {Listener(protocol, IPv4Address(ip) if ip else None, 8080)}


@pytest.mark.parametrize("local", ["[::]", "[::]%eth0", "[::1]", "[fe80::1]%eth0", "[fe80::1%eth0]", "[2001:db8::1]"])
def test_sockets_that_take_ipv6_alone_are_none(local: str) -> None:
    assert parse_sockets(f"tcp LISTEN 0 128 {local}:8080 [::]:* ino:33 sk:1 cgroup:/a v6only:1 <->\n") == set()


def test_an_answer_of_another_kind_is_an_error() -> None:
    assert parse_sockets("") == set()
    with pytest.raises(ValueError, match="netlink"):
        parse_sockets("cannot open netlink socket\n")
