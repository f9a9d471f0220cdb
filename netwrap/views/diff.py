"""What changed between two looks at the machine, in the words of the tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from netwrap.facts import Facts, Link, Route, Space

_BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
"""iptables creates these chains when it first reads a table, and they stay."""


def diff(before: Facts, after: Facts) -> str:
    """Lines that were removed (-) and added (+), by namespace; a sentence if nothing changed."""
    old, new = Counter(lines(before)), Counter(lines(after))
    gone = [f"  - {line}" for line in (old - new).elements()]
    came = [f"  + {line}" for line in (new - old).elements()]
    return "\n".join([*gone, *came]) or "  (no change in anything that netwrap looks at)"


def lines(seen: Facts) -> Iterator[str]:
    """Everything seen, one line per object. Unlike the output of `ip`, it contains no counters."""
    yield from _space("", seen.host)
    names = {inode: name for name, inode in seen.handles.items()}
    for name in seen.handles:
        yield f"netns {name}"
    for inode, space in seen.spaces.items():
        if inode == seen.inode:  # the host's namespace, which is listed already
            continue
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
        if route.table != "local":  # the kernel's own, one or more for each address
            yield f"{where}route {_route(route)}"
    for source, table in sorted(space.policy):
        if (source, table) not in _POLICY:
            yield f"{where}rule from {source} table {table}"


_POLICY = {("all", table) for table in ("local", "main", "default")}
"""The rules that each namespace begins with (ip-rule(8))."""


def _route(route: Route) -> str:
    via = f" via {route.via}" if route.via else ""
    dev = f" dev {route.dev}" if route.dev else ""
    table = f" table {route.table}" if route.table != "main" else ""
    kind = f"{route.kind} " if route.kind else ""
    return f"{kind}{route.dst}{via}{dev}{table}"


def _link(link: Link) -> str:
    words = [f"link {link.name} {link.kind or link.mac} {'up' if link.up else 'down'} mtu {link.mtu}"]
    words += [f"master {link.master}"] if link.master else []
    words += ["hairpin on"] if link.hairpin else []
    words += [f"group {link.group}"] if link.group != "0" else []
    words += [f"altname {name}" for name in link.altnames]
    return " ".join(words)
