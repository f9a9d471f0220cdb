"""Steps on addresses: `ip addr` (ip-address(8))."""

from __future__ import annotations

from netwrap.model import Netns
from netwrap.steps import Cmd, Probe, Step


def add(name: str, mac: str, cidr: str, why: str, ns: Netns | None = None) -> Step:
    """Gives a link an address with its prefix length."""
    return Step(
        "addr add",
        Cmd(("ip", "addr", "add", cidr, "dev", name), ns),
        Cmd(("ip", "addr", "del", cidr, "dev", name), ns),
        Probe("addr", (name, mac, cidr), ns),
        why,
    )
