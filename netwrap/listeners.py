"""Sockets that listen on this host: the question, and pure parsers of its answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

SOCKETS = ("ss", "-H", "-l", "-n", "-t", "-u", "-e")
"""TCP and UDP sockets without a peer. `-e` tells which take IPv6 alone; /proc/net does not (ss(8), ipv6(7))."""


@dataclass(frozen=True)
class Listener:
    """A bound TCP or UDP socket of the host; ip None is every address."""

    protocol: str
    ip: IPv4Address | None
    port: int


def parse_sockets(text: str) -> set[Listener]:
    """Reads the answer to SOCKETS: those that take IPv4. One that is bound to a link counts as bound to all.

    Raises ValueError.
    """
    found = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 6:
            raise ValueError(f"{line!r}")
        address, _, port = words[4].rpartition(":")
        address = re.sub(r"%[^]]*", "", address).strip("[]").removeprefix("::ffff:")
        if address == "::" and "v6only:1" not in words:
            address = "*"
        if ":" not in address:
            found.add(Listener(words[0], None if address in ("*", "0.0.0.0") else IPv4Address(address), int(port)))
    return found


def parse_listeners(text: str, protocol: str) -> set[Listener]:
    """Reads /proc/net/{tcp,tcp6,udp,udp6} (proc(5)): TCP sockets that listen, UDP sockets without a peer."""
    found = set()
    for line in text.splitlines()[1:]:
        words = line.split()
        address, port = words[1].split(":")
        if words[3] == ("0A" if protocol == "tcp" else "07") and (ips := _proc_address(address)):
            found.add(Listener(protocol, ips[0], int(port, 16)))
    return found


def _proc_address(text: str) -> tuple[IPv4Address | None] | None:
    """The IPv4 address that a socket takes, (None,) for every one; None where it takes no IPv4."""
    if text == "0" * 32:  # [::], which takes IPv4 too unless IPV6_V6ONLY (ipv6(7))
        return (None,)
    if len(text) == 32:
        if not text.startswith("0" * 16 + "FFFF0000"):
            return None
        text = text[24:]
    return (None if text == "0" * 8 else IPv4Address(bytes.fromhex(text)[::-1]),)
