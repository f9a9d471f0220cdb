"""Steps on routes: `ip route` and `ip rule` (ip-route(8), ip-rule(8))."""

from __future__ import annotations

from netwrap.model import Netns
from netwrap.steps import Cmd, Probe, Step


def add(dst: str, gateway: str | None, name: str, mac: str, table: int, why: str, ns: Netns | None = None) -> Step:
    """Adds a route to a routing table; without a gateway, to what is on the link."""
    via = ("via", gateway) if gateway else ()
    words = (dst, *via, "dev", name, "table", str(table))
    return Step(
        "route add",
        Cmd(("ip", "route", "add", *words), ns),
        Cmd(("ip", "route", "del", *words), ns),
        Probe("route", (name, mac, dst, gateway or "", str(table)), ns),
        why,
    )


def add_rule(source: str, table: int, why: str, ns: Netns | None = None) -> Step:
    """Makes packets from an address use a routing table before the main one (ip-rule(8))."""
    words = ("from", source, "table", str(table))
    return Step(
        "rule add",
        Cmd(("ip", "rule", "add", *words), ns),
        Cmd(("ip", "rule", "del", *words), ns),
        Probe("ip rule", (source, str(table)), ns),
        why,
    )


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


def add_connected(subnet: str, source: str, name: str, mac: str, why: str, ns: Netns | None = None) -> Step:
    """Adds the connected route of an address again, after somebody has removed it."""
    words = (subnet, "dev", name, "proto", "kernel", "scope", "link", "src", source)
    return Step(
        "route connected",
        Cmd(("ip", "route", "add", *words), ns),
        Cmd(("ip", "route", "del", *words), ns),
        Probe("route", (name, mac, subnet, ""), ns),
        why,
    )


def remove(words: tuple[str, ...], again: tuple[str, ...], why: str, ns: Netns | None) -> Step:
    """Deletes a foreign route that took the place of one of netwrap's; its inverse adds it again."""
    return Step(
        "route del",
        Cmd(("ip", "route", "del", *words), ns),
        Cmd(("ip", "route", "add", *again), ns),
        Probe("passing", words, ns),
        why,
    )
