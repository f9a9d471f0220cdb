"""Where packets of ours would be sent by routes, rules for routes and addresses of others: findings for the doctor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Interface, IPv4Network

from netwrap import amiss
from netwrap.drift import Finding
from netwrap.facts import Facts, renamed
from netwrap.foresee import after
from netwrap.model import State
from netwrap.undo import Entry

_ALWAYS = frozenset({"local", "main", "default"})


def findings(seen: Facts, state: State, standing: Iterable[Entry]) -> Iterator[Finding]:
    """What is wrong with the ways of our packets."""
    standing = list(standing)
    seen = after(seen, amiss.marks(standing, seen))
    links = [e.step.probe for e in standing if e.step.probe.kind == "link" and e.step.probe.ns is None]
    ours = {other.name for probe in links if (other := renamed(probe, seen)) is not None}
    ours |= {network.bridge for network in state.networks.values()}
    yield from _overlaps(seen, state, ours)
    yield from _caught(seen, state)
    yield from _twice(seen, state, ours)
    yield from _no_way_out(seen, state)


def _tables(seen: Facts) -> frozenset[str]:
    """The tables that some rule has asked; a route in any other one is for nobody."""
    return frozenset(way.table for way in seen.host.ways) or _ALWAYS


def _overlaps(seen: Facts, state: State, ours: Collection[str]) -> Iterator[Finding]:
    tables = _tables(seen)
    for network in state.networks.values():
        for route in seen.host.routes:
            if route.dst == "default" or route.dev in ours or ":" in route.dst or route.table not in tables:
                continue
            if route.table == "local":  # an address: those that are ours too are a finding of their own
                continue
            net = IPv4Network(route.dst, strict=False)
            if net.prefixlen > 1 and net.overlaps(network.subnet):
                table = "" if route.table == "main" else f" table {route.table}"
                yield Finding(
                    "overlap",
                    f"network {network.name!r} ({network.subnet}) overlaps a route of this machine: {route.dst} dev "
                    f"{route.dev or '-'}{table}",
                    "The more specific route wins: either the containers or that LAN or VPN cannot be reached. One "
                    f"of them has to move: `netwrap network remove --force {network.name}` and create it again without "
                    "--subnet, or remove that route. Which one?",
                    None,
                )


def _caught(seen: Facts, state: State) -> Iterator[Finding]:
    """Rules for routes that end packets of ours before the main table is asked."""
    ends = {
        route.table: route.kind
        for route in seen.host.routes
        if route.dst == "default" and route.kind and route.table not in ("local", "default")
    }
    for way in seen.host.ways:
        does = way.action or ends.get(way.table, "")
        if not does or way.table == "main":
            continue
        for network in state.networks.values():
            of = way.source.prefixlen > 0 and way.source.overlaps(network.subnet)
            to = way.destination.prefixlen > 0 and way.destination.overlaps(network.subnet)
            is_for_all = way.source.prefixlen == way.destination.prefixlen == 0
            if not (of or to or is_for_all):
                continue
            every = not way.is_narrower and (to or way.destination.prefixlen == 0)
            said = f"ip rule {way.priority}: from {way.source} to {way.destination}" + (
                f" table {way.table}" if way.table else ""
            )
            yield Finding(
                "ip rule",
                f"{said}: {does}: {'' if every else 'some '}packets of {network.name} end there",
                "Policy routing rules precede the main table (ip-rule(8)): packets that they end are lost. Whose is "
                f"it? `ip rule show`; to remove it: `ip rule del priority {way.priority}`.",
                None,
                wrong=every,
            )
    for route in seen.host.routes:
        if route.dst == "default" and route.kind and route.table == "main" and route.metric == 0 and state.networks:
            yield Finding(
                "way out",
                f"the default route of this machine is {route.kind}",
                f"Nothing gets outside, nor do containers. To remove it: `ip route del {route.kind} default`.",
                None,
            )


def _twice(seen: Facts, state: State, links: Collection[str]) -> Iterator[Finding]:
    """Addresses of our endpoints and gateways that somebody else on this machine has too."""
    names = {inode: name for name, inode in seen.handles.items()}
    ours = {str(e.ip): (e.container, e.ifname) for e in state.endpoints}
    ours |= {str(n.gateway): ("this host", n.bridge) for n in state.networks.values()}
    for inode, space in seen.spaces.items():
        where = "this host" if inode == seen.inode else names.get(inode, str(inode))
        for dev, cidr in sorted(space.addrs):
            address = cidr.partition("/")[0]
            if address in ours and ours[address] != (where, dev) and not (inode == seen.inode and dev in links):
                who, link = ours[address]
                yield Finding(
                    "address",
                    f"{address} of {who} ({link}) is also on {dev} of {where}",
                    "Whichever answers first gets the packets (arp(7)). Whose is it? To remove it there: `"
                    + ("" if inode == seen.inode else f"ip netns exec {where} ")
                    + f"ip addr del {cidr} dev {dev}`.",
                    None,
                )


def _no_way_out(seen: Facts, state: State) -> Iterator[Finding]:
    if seen.way_out is not None or not any(not n.internal for n in state.networks.values()):
        return
    bridges = {n.bridge for n in state.networks.values()}
    down = [
        name
        for name, link in sorted(seen.host.links.items())
        if not link.up
        and name != "lo"
        and name not in bridges
        and link.master is None
        and any(
            dev == name and IPv4Interface(cidr).ip.is_loopback is False
            for dev, cidr in seen.host.addrs
            if ":" not in cidr
        )
    ]
    yield Finding(
        "way out",
        "this machine has no route to the outside" + (f"; {', '.join(down)} is down" if down else ""),
        "Containers reach no more than this machine does. "
        + (
            "The kernel removes a link's routes when it goes down; DHCP or a network manager has to add them again."
            if down
            else "Where that is as it should be, there is nothing to mend."
        ),
        " && ".join(f"ip link set dev {name} up" for name in down) or None,
        wrong=bool(down),
    )
