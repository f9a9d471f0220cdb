"""Steps on neighbours, who has which address on a link: `ip neigh` (ip-neighbour(8))."""

from __future__ import annotations

from ipaddress import IPv4Address

from netwrap.steps import Cmd, Probe, Step


def forget(ip: IPv4Address, dev: str, why: str) -> Step:
    """Forgets who has an address, and drops the packets that wait for it (arp(7)). There is nothing to take back."""
    words = ("to", str(ip), "dev", dev)
    return Step("neigh", Cmd(("ip", "neigh", "flush", *words)), None, Probe("flows", words), why)
