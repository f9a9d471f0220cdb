"""What changed between two looks, in the words of the tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from netwrap.facts import Facts, Link, Space

_BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
"""iptables makes these when it first looks into a table, and they stay."""


def diff(before: Facts, after: Facts) -> str:
    """Lines that went (-) and came (+), by namespace; a sentence where nothing did."""
    old, new = Counter(lines(before)), Counter(lines(after))
    gone = [f"  - {line}" for line in (old - new).elements()]
    came = [f"  + {line}" for line in (new - old).elements()]
    return "\n".join([*gone, *came]) or "  (no change that netwrap looks at)"


def lines(seen: Facts) -> Iterator[str]:
    """Everything seen, one line an object. Unlike a diff of `ip` output it has no counters in it."""
    yield from _space("", seen.host)
    names = {inode: name for name, inode in seen.handles.items()}
    for name in seen.handles:
        yield f"netns {name}"
    for inode, space in seen.spaces.items():
        yield from _space(f"[{names.get(inode, inode)}] ", space)
    for (table, chain), rules in seen.rules.items():
        if chain not in _BUILT_IN:
            yield f"{table}: chain {chain}"
        for rule in rules:
            yield f"{table}: -A {chain} {' '.join(rule)}"
    for key, value in seen.sysctls.items():
        yield f"sysctl {key} = {value}"


def _space(where: str, space: Space) -> Iterator[str]:
    for link in space.links.values():
        yield where + _link(link)
    for dev, cidr in sorted(space.addrs):
        yield f"{where}addr {cidr} dev {dev}"
    for route in space.routes:
        if route.table == "main":
            via = f" via {route.via}" if route.via else ""
            yield f"{where}route {route.dst}{via} dev {route.dev}"


def _link(link: Link) -> str:
    master = f" master {link.master}" if link.master else ""
    hairpin = " hairpin on" if link.hairpin else ""
    return f"link {link.name} {link.kind or link.mac} {'up' if link.up else 'down'} mtu {link.mtu}{master}{hairpin}"
