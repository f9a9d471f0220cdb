"""Steps on the neighbour table, which maps addresses to MACs: `ip neigh` (ip-neighbour(8))."""

from __future__ import annotations

from ipaddress import IPv4Address

from netwrap.steps import Cmd, Probe, Step


def forget(ip: IPv4Address, dev: str, why: str) -> Step:
    """Forgets the MAC of an address, and drops the packets that wait for it (arp(7)). There is nothing to undo."""
    words = ("to", str(ip), "dev", dev)
    return Step("neigh", Cmd(("ip", "neigh", "flush", *words)), None, Probe("flows", words), why)
