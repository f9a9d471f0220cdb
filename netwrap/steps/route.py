"""Steps on routes: `ip route` (ip-route(8))."""

from __future__ import annotations

from netwrap.model import Netns
from netwrap.steps import Cmd, Probe, Step


def add_default(gateway: str, name: str, mac: str, why: str, ns: Netns | None = None) -> Step:
    """Adds the default route of the main table."""
    words = ("default", "via", gateway, "dev", name)
    return Step(
        "route add",
        Cmd(("ip", "route", "add", *words), ns),
        Cmd(("ip", "route", "del", *words), ns),
        Probe("route", (name, mac, "default", gateway), ns),
        why,
    )
