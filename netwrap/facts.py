"""What the machine looks like now: pure parsers from text to Facts, and holds(probe, facts)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from netwrap.listeners import Listener as Listener
from netwrap.listeners import parse_listeners as parse_listeners
from netwrap.model import LINK_GROUP, Netns, Process
from netwrap.nft import Hook
from netwrap.policy import PolicyRule, kind_of, parse_ways, table_of
from netwrap.steps import Probe
from netwrap.wayout import WayOut, mtu_of

Rule = tuple[str, ...]

SPACE = ("ip", "-N", "-j", "-d", "-batch", "-")
QUESTIONS = "addr show\nroute show table all root 0.0.0.0/0\nrule show\n"
"""For SPACE: a JSON array a line. `-N`: groups and tables by number, whatever names /etc/iproute2 has for them. `-4`
would leave out links without IPv4; `root 0.0.0.0/0` is all of IPv4."""
HOOKS = ("nft", "-j", "list", "ruleset")
RULES = ("iptables-save",)  # lists the tables that are there; unlike `iptables -S` it makes none


@dataclass(frozen=True)
class Link:
    """A link as `ip -j -d addr show` shows it; mtu in bytes."""

    name: str
    mac: str
    kind: str = ""
    up: bool = False
    master: str | None = None
    group: str = "0"
    mtu: int = 1500
    hairpin: bool = False
    altnames: tuple[str, ...] = ()
    index: int = 0
    peer: int = 0
    """The index of a veth's other end in the namespace where that is; 0 where it was not said."""


@dataclass(frozen=True)
class Route:
    """A route of any table, or one nexthop of it; dst is `default` or a CIDR; `kind` is set for reject routes."""

    dst: str
    dev: str | None = None
    via: str | None = None
    table: str = "main"
    mtu: int | None = None
    metric: int = 0
    kind: str = ""


@dataclass(frozen=True)
class Space:
    """What is in one network namespace: links by name, addresses as (link, CIDR), routes, and which source
    addresses use which routing table."""

    links: dict[str, Link] = field(default_factory=dict)
    addrs: frozenset[tuple[str, str]] = frozenset()
    routes: tuple[Route, ...] = ()
    policy: frozenset[tuple[str, str]] = frozenset()
    ways: tuple[PolicyRule, ...] = ()
    """All policy routing rules, in their order."""

    def has_name(self, name: str) -> bool:
        """Return whether a link has the name, or has it as an altname."""
        return any(name == link.name or name in link.altnames for link in self.links.values())


HUSK, NO_NAMESPACE = 0, -1
"""In place of a handle's inode: an empty file, as a killed `ip netns` leaves it; any other file, which is foreign."""


@dataclass(frozen=True)
class Facts:
    """One look at the machine."""

    host: Space = Space()
    inode: int = 0
    """The host's own network namespace."""
    boot_id: str = ""
    handles: dict[str, int] = field(default_factory=dict)
    """/run/netns: name to inode; HUSK or NO_NAMESPACE where it leads to none."""
    cookies: dict[int, int] = field(default_factory=dict)
    """Inode to cookie, for the namespaces that were looked into."""
    spaces: dict[int, Space] = field(default_factory=dict)
    """Namespaces that were looked into, by inode."""
    rules: dict[tuple[str, str], tuple[Rule, ...]] = field(default_factory=dict)
    """(table, chain) to its rules; a chain that is there without rules has none."""
    policies: dict[tuple[str, str], str] = field(default_factory=dict)
    """(table, chain) to ACCEPT or DROP, for built-in chains."""
    hooks: tuple[Hook, ...] = ()
    """Base chains of nftables, where they were asked for."""
    tools: frozenset[str] = frozenset()
    """Which of the tools that netwrap can do without are installed."""
    sysctls: dict[str, str] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    listeners: frozenset[Listener] = frozenset()
    """Bound sockets, where they were asked for."""
    way_out: WayOut | None = None
    """None where there is none, or where it was not asked for."""
    unseen: tuple[str, ...] = ()
    """Sentences about what could not be seen without root."""
    rules_seen: bool = True

    def handle(self, name: str) -> Netns | None:
        """The namespace of a handle in /run/netns; None if there is none, or a stale one."""
        return self.namespace(name, self.handles[name]) if self.handles.get(name, HUSK) != HUSK else None

    def namespace(self, name: str, inode: int) -> Netns:
        """A namespace by its inode, with its cookie where that is known."""
        return Netns(name, inode, self.cookies.get(inode, 0))

    def space(self, ns: Netns | None) -> Space | None:
        """What is in a namespace; None if that could not be seen."""
        if ns is None:
            return self.host
        found = self.namespace(ns.name, ns.inode) if ns.inode else self.handle(ns.name)
        return self.spaces.get(found.inode) if found is not None and (not ns.inode or ns.is_same(found)) else None

    def occupied(self) -> list[tuple[IPv4Network, str]]:
        """Subnets that routes and addresses of the host use, each with where it was seen."""
        seen = [(_net(r.dst), f"a route of this machine ({r.dst} dev {r.dev or '-'})") for r in self.host.routes]
        seen += [(_net(cidr), f"an address of this machine ({cidr} dev {dev})") for dev, cidr in self.host.addrs]
        # 0.0.0.0/1 and 128.0.0.0/1 are a VPN's way to write a default route.
        return [(net, where) for net, where in seen if net is not None and net.prefixlen > 1]

    def addresses(self) -> set[IPv4Address]:
        """All IPv4 addresses of the host."""
        return {IPv4Address(cidr.split("/")[0]) for _, cidr in self.host.addrs if ":" not in cidr}

    def default_mtu(self) -> int:
        """The MTU, in bytes, of a packet that is to get outside; 1500 where there is no way out."""
        return self.way_out.mtu if self.way_out is not None else 1500


def holds(probe: Probe, facts: Facts) -> bool | None:
    """Return whether what a step made exists as the step made it; None if that cannot be seen."""
    if probe.kind == "netns":
        found = facts.handle(probe.key[0])
        return found is not None and (probe.key[1] == "0" or netns_of(probe).is_same(found))
    if probe.kind == "sysctl":
        return facts.sysctls.get(probe.key[0]) == probe.key[1]
    if probe.kind == "setting on":
        return facts.sysctls.get(probe.key[0], "0") != "0"
    if probe.kind == "keep":  # writing what it is, is right at any time, as long as it is there
        return probe.key[0] in facts.sysctls
    if probe.kind in ("flows", "passing"):  # forgetting what is not remembered, or bringing up what is up, does no harm
        return True
    if probe.kind in ("chain", "rule"):
        if not facts.rules_seen:
            return None
        table, chain, *words = probe.key
        rules = facts.rules.get((table, chain))
        return rules is not None and (not words or any(same_rule(tuple(words), rule) for rule in rules))
    handle = facts.handle(probe.ns.name) if probe.ns is not None else None
    if probe.ns is not None and probe.ns.inode and handle is not None and not probe.ns.is_same(handle):
        return False  # the handle leads to another namespace now
    space = facts.space(probe.ns)
    if space is None:
        return None if handle is not None else False
    if probe.kind == "ip rule":
        return probe.key in space.policy
    return _holds_on_link(probe, space)


def is_husk(probe: Probe, facts: Facts) -> bool:
    """Return whether a handle exists but names no namespace any more."""
    return probe.kind == "netns" and facts.handles.get(probe.key[0]) == HUSK


def renamed(probe: Probe, facts: Facts) -> Link | None:
    """The link that a probe means, if somebody has renamed it: it has our MAC, and on the host our mark."""
    space, (name, mac) = facts.space(probe.ns), probe.key[:2]
    if space is None or holds(probe, facts):
        return None
    ours = (li for li in space.links.values() if li.mac == mac and li.name != name)
    # A bridge inside takes over the MAC of our end of the cable.
    return next((li for li in ours if (li.kind == "veth" if probe.ns else li.group == str(LINK_GROUP))), None)


def netns_of(probe: Probe) -> Netns:
    """The namespace that a handle's probe means."""
    name, inode, cookie = (*probe.key, "0")[:3]
    return Netns(name, int(inode), int(cookie))


def same_rule(one: Rule, other: Rule) -> bool:
    """Return whether two rules of a chain are the same, however they are printed."""
    return options_of(one) == options_of(other)


def options_of(rule: Rule) -> tuple[Rule, ...]:
    """A rule's options with their values, sorted: versions of iptables print them in different orders."""
    groups: list[list[str]] = []
    for word in rule:
        starts = word == "!" or word.startswith("-")
        if not groups or (starts and groups[-1] != ["!"]):
            groups.append([])
        groups[-1].append(word)
    return tuple(sorted(map(tuple, groups)))


def _holds_on_link(probe: Probe, space: Space) -> bool:
    name, mac, *rest = probe.key
    link = space.links.get(name)
    if link is None or link.mac != mac or (probe.ns is None and link.group != str(LINK_GROUP)):
        return False
    match probe.kind:
        case "link":
            return True
        case "up":
            return link.up
        case "master":
            return link.master == rest[0]
        case "mtu":
            return link.mtu == int(rest[0])
        case "hairpin":
            return link.hairpin
        case "addr":
            return (name, rest[0]) in space.addrs
        case "route":
            dst, via, table = (*rest, "main")[:3]
            return any((r.dst, r.dev, r.via or "", r.table) == (dst, name, via, table) for r in space.routes)
    raise ValueError(f"no probe of kind {probe.kind!r}")


def parse_space(text: str) -> Space:
    """Reads the answers of one namespace to QUESTIONS. Raises ValueError, KeyError, TypeError, AttributeError."""
    objects, routes, policy = (json.loads(line, strict=False) for line in text.split("\n") if line)
    links, addrs = dict[str, Link](), set[tuple[str, str]]()
    for row in objects:
        if not row:  # `ip` prints {} for what a filter left out
            continue
        name = row["ifname"]
        links[name] = _link(row)
        addrs.update((name, f"{a['local']}/{a['prefixlen']}") for a in row.get("addr_info", ()) if "local" in a)
    found = tuple(
        Route(r["dst"], hop.get("dev"), hop.get("gateway"), table_of(r), mtu_of(r), r.get("metric", 0), kind_of(r))
        for r in routes
        for hop in r.get("nexthops", (r,))
    )
    sources = frozenset((r["src"], table_of(r)) for r in policy if "table" in r)
    return Space(links, frozenset(addrs), found, sources, parse_ways(policy))


def _link(row: dict[str, Any]) -> Link:
    info = row.get("linkinfo", {})
    return Link(
        name=row["ifname"],
        mac=row.get("address", ""),
        kind=info.get("info_kind", ""),
        up="UP" in row["flags"],
        master=row.get("master"),
        group=row.get("group", "0"),
        mtu=row.get("mtu", 1500),
        hairpin=bool(info.get("info_slave_data", {}).get("hairpin", False)),
        altnames=tuple(row.get("altnames", ())),
        index=row.get("ifindex", 0),
        peer=row.get("link_index", 0),
    )


def parse_rules(text: str) -> dict[tuple[str, str], tuple[Rule, ...]]:
    """Reads the output of iptables-save (iptables-save(8)): chains and their rules, without counters."""
    rules: dict[tuple[str, str], list[Rule]] = {}
    table = ""
    for first, *words in _saved(text):
        if first.startswith("*"):
            table = first[1:]
        elif first.startswith(":"):
            rules.setdefault((table, first[1:]), [])
        elif first == "-A":
            rules.setdefault((table, words[0]), []).append(tuple(words[1:]))
    return {chain: tuple(found) for chain, found in rules.items()}


def _saved(text: str) -> Iterator[list[str]]:
    """The lines of iptables-save as words; a comment in quotes may hold line ends, and anything else.

    Raises ValueError for a line of another kind: `# Table … is incompatible` comes in place of a table's rules.
    """
    end = 0
    for found in _SAVED_LINE.finditer(text):
        if found.start() != end:
            break
        end = found.end()
        line = found.group()
        if line.startswith("#") and "is incompatible" in line:
            if "`security'" in line:  # no rule of ours is there
                continue
            raise ValueError(line.strip("# \n"))
        if line.startswith("#") or not line.strip():
            continue
        words = [re.sub(r"\\(.)", r"\1", quoted) if quoted else bare for quoted, bare in _SAVED_WORD.findall(line)]
        if not line.startswith(("*", ":", "-A ", "COMMIT")):
            raise ValueError(f"{line.strip()!r}")
        yield words
    if end != len(text):
        raise ValueError(f"{text[end : end + 80]!r}")


_SAVED_LINE = re.compile(r"""(?:[^"\n]|"(?:[^"\\]|\\.)*")*\n""", re.DOTALL)
_SAVED_WORD = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|([^ "\n]+))""", re.DOTALL)


def parse_policies(text: str) -> dict[tuple[str, str], str]:
    """Reads the output of iptables-save: what becomes of packets that no rule of a built-in chain decides."""
    policies, table = {}, ""
    for first, *words in _saved(text):
        if first.startswith("*"):
            table = first[1:]
        elif first.startswith(":") and words[0] != "-":
            policies[table, first[1:]] = words[0]
    return policies


def parse_process(pid: int, stat: str, status: str, inode: int) -> Process:
    """Reads /proc/PID/stat and /proc/PID/status (proc(5)); the comm in stat may hold spaces and brackets."""
    starttime = int(stat.rpartition(")")[2].split()[19])
    tgid = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:"))
    return Process(pid, starttime, inode, tgid)


def _net(cidr: str) -> IPv4Network | None:
    if cidr == "default" or ":" in cidr:
        return None
    return IPv4Network(cidr, strict=False)
