"""The toy kernel's namespaces: links, addresses, routes, and which source address looks into which table of routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import count
from typing import Any

from toywords import must

from netwrap.facts import Link, Route, Space
from netwrap.policy import PolicyRule
from netwrap.wayout import WAY_OUT, WayOut

LOOPBACK_MAC = "00:00:00:00:00:00"


@dataclass(eq=False)
class ToyLink:
    """A link; a veth knows its other end, wherever that is."""

    name: str
    mac: str
    kind: str = ""
    up: bool = False
    master: str | None = None
    group: str = "0"
    mtu: int = 1500
    mtu_is_set: bool = False
    hairpin: bool = False
    altnames: tuple[str, ...] = ()
    peer: ToyLink | None = None
    index: int = field(default_factory=count(1).__next__)

    def told(self) -> dict[str, Any]:
        """What the kernel tells of it."""
        told = {**vars(self), "peer": self.peer.name if self.peer else None}
        del told["index"]
        del told["mtu_is_set"]  # nobody can ask the kernel for it
        return told


@dataclass
class Namespace:
    """Links by name, addresses as (link, CIDR) in their order, routes that are not connected ones."""

    links: dict[str, ToyLink] = field(default_factory=lambda: {"lo": ToyLink("lo", LOOPBACK_MAC, "", mtu=65536)})
    addrs: list[tuple[str, str]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    policy: list[tuple[str, str]] = field(default_factory=list)
    disconnected: set[tuple[str, str]] = field(default_factory=set)
    """Links and subnets whose connected route somebody has deleted."""

    def seen(self, ways: tuple[PolicyRule, ...] = ()) -> Space:
        """What a look into it shows; `ways` are rules for tables of routes."""
        links = {
            name: Link(
                *(name, li.mac, li.kind, li.up, li.master, li.group, li.mtu, li.hairpin, li.altnames, li.index),
                peer=li.peer.index if li.peer else 0,
            )
            for name, li in self.links.items()
        }
        return Space(links, frozenset(self.addrs), tuple(self.routes + self.connected()), frozenset(self.policy), ways)

    def connected(self) -> list[Route]:
        """The routes that the kernel makes of the addresses of links that are up."""
        return [
            Route(str(IPv4Interface(cidr).network), dev)
            for dev, cidr in self.addrs
            if dev != "lo" and self.links[dev].up and (dev, str(IPv4Interface(cidr).network)) not in self.disconnected
        ]

    def way_out(self) -> WayOut | None:
        """The longest prefix of the main table for the address that stands for the outside."""
        outside = IPv4Address(WAY_OUT[-1])
        nets = [(IPv4Network(r.dst.replace("default", "0.0.0.0/0")), r) for r in self.routes if r.dev in self.links]
        leading = [(net.prefixlen, n, r) for n, (net, r) in enumerate(nets) if outside in net and r.table == "main"]
        if not leading:
            return None
        _, _, route = max(leading)
        assert route.dev is not None
        return WayOut(route.dev, route.via, route.mtu or self.links[route.dev].mtu)


def change_route(ns: Namespace, how: str, words: list[str], *, everywhere: str | None) -> None:
    """`ip route add` and `del`; by the link `everywhere` any gateway counts as reachable."""
    match words:
        case ["default", "via", gateway, "dev", name, *rest]:
            route = Route("default", name, gateway, _table(rest))
        case ["default", "dev", name, *rest]:
            route = Route("default", name, None, _table(rest))
        case [dst, "dev", name, "proto", "kernel", "scope", "link", "src", source]:
            must(
                any(dev == name and cidr.startswith(f"{source}/") for dev, cidr in ns.addrs), "Invalid prefsrc address"
            )
            must(((name, dst) in ns.disconnected) == (how == "add"), "RTNETLINK answers: File exists")
            (ns.disconnected.remove if how == "add" else ns.disconnected.add)((name, dst))
            return
        case [dst, "via", gateway, "dev", name]:
            route = Route(dst, name, gateway)
        case [dst, "dev", name]:
            assert how == "del"
            ns.disconnected.add((name, dst))
            return
        case [dst, "dev", name, "table", table]:
            assert str(IPv4Network(dst)) == dst
            route = Route(dst, name, None, table)
        case _:
            raise AssertionError(f"unknown: ip route {how} {words}")
    must(name in ns.links, f'Cannot find device "{name}"')
    if how == "add":
        must(ns.links[name].up, "RTNETLINK answers: Network is down")
        must(route.via is None or name == everywhere or _reaches(ns, route), "Error: Nexthop has invalid gateway.")
        taken = any((r.dst, r.table) == (route.dst, route.table) for r in ns.routes)
        must(not taken, "RTNETLINK answers: File exists")
        ns.routes.append(route)
    else:
        assert how == "del"
        must(route in ns.routes, "RTNETLINK answers: No such process")
        ns.routes.remove(route)


def change_rule(ns: Namespace, how: str, rule: tuple[str, str]) -> None:
    """`ip rule add` and `del`."""
    if how == "add":
        must(rule not in ns.policy, "RTNETLINK answers: File exists")
        ns.policy.append(rule)
    else:
        assert how == "del"
        must(rule in ns.policy, "RTNETLINK answers: No such file or directory")
        ns.policy.remove(rule)


def _table(words: list[str]) -> str:
    if not words:
        return "main"
    word, table = words
    assert word == "table"
    return table


def _reaches(ns: Namespace, route: Route) -> bool:
    assert route.via is not None
    return any(IPv4Address(route.via) in IPv4Network(r.dst) for r in ns.connected() if r.dev == route.dev)
