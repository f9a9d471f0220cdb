"""What foreign rules do to our packets: drop or reject what has to pass, accept what must not, forward ports
elsewhere. Judged by their text; `check` tries with packets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from netwrap import firewall
from netwrap.facts import Facts, Rule, same_rule
from netwrap.model import Network, PublishedPort, State
from netwrap.passage import ALL, REWRITES, Fate, Meets, Packets, fates, like
from netwrap.steps import Step, shell_line
from netwrap.undo import Entry

BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_REPLIES = frozenset({"ESTABLISHED"})
_PUBLISHED = frozenset({"NEW", "DNAT"})


@dataclass(frozen=True)
class Way:
    """Packets that have to pass: what they are, in words, and the chains that they meet, as (table, chain)."""

    what: str
    packets: Packets
    chains: tuple[tuple[str, str], ...]


_FORWARDED = (("mangle", "FORWARD"), ("filter", "FORWARD"), ("mangle", "POSTROUTING"))
_ARRIVES = (("raw", "PREROUTING"), ("mangle", "PREROUTING"))


def ways(seen: Facts, state: State) -> Iterator[Way]:
    """What has to pass for each container, each published port and each pair of linked networks."""
    out = seen.way_out.link if seen.way_out is not None else ""
    for network in state.networks.values():
        if not network.internal:
            to = Packets(network.bridge, out, network.subnet, is_local=False)
            yield Way(f"what {network.name} sends outside", to, (*_ARRIVES, *_FORWARDED))
    for e in state.endpoints:
        network, ip = state.networks[e.network], IPv4Network(e.ip)
        br, name = network.bridge, e.container
        if not network.internal:
            to = Packets(br, out, ip, is_local=False)
            yield Way(f"what {name} sends outside", to, (*_ARRIVES, *_FORWARDED))
            back = Packets(out, br, destination=ip, states=_REPLIES, not_from=br)
            yield Way(f"what answers {name}", back, _FORWARDED)
        here = Packets("", br, destination=ip, is_local=False)
        chains = (("raw", "OUTPUT"), ("mangle", "OUTPUT"), ("filter", "OUTPUT"), ("mangle", "POSTROUTING"))
        yield Way(f"what this host sends to {name}", here, chains)
        answer = Packets(br, "", ip, states=_REPLIES, is_local=True)
        yield Way(f"what {name} answers to this host", answer, (*_ARRIVES, ("mangle", "INPUT"), ("filter", "INPUT")))
    for p in state.publications:
        if p.port.host_only:
            continue
        (e,) = state.endpoints_of(container=p.container, network=p.network)
        bridge = state.networks[p.network].bridge
        for packets in _to_port(p.port):
            way = replace(packets, comes=out, leaves=bridge, not_from=bridge, is_local=False, states=_PUBLISHED)
            way = replace(way, destination=IPv4Network(e.ip), port=p.port.port)
            yield Way(f"what comes to {p.container} by {p.port.spec}", way, _FORWARDED)
            arrives = replace(packets, comes=out, not_from=bridge)
            yield Way(f"what comes to port {p.port.spec} of this host", arrives, _ARRIVES)
    for link in state.links:
        for one, other in ((link.a, link.b), (link.b, link.a)):
            a, b = state.networks[one], state.networks[other]
            packets = Packets(a.bridge, b.bridge, a.subnet, b.subnet, is_local=False)
            yield Way(f"what {one} sends to {other}", packets, (*_ARRIVES, *_FORWARDED))


def _to_port(port: PublishedPort) -> Iterator[Packets]:
    where = IPv4Network(port.host_ip) if port.host_ip else ALL
    for source in port.allow_from or (ALL,):
        yield Packets("", "", source, where, port.protocol, port.host_port, is_local=True)


def turned_away(seen: Facts, state: State) -> dict[Fate, list[str]]:
    """Rules of others that drop what has to pass, each with what it drops; `meets` says whether all of it."""
    found: dict[Fate, list[str]] = {}
    for way in ways(seen, state):
        for table, chain in way.chains:
            for fate in fates(seen, table, chain, way.packets):
                if fate.verdict in ("DROP", "REJECT") and not firewall.is_ours(fate.rule):
                    found.setdefault(fate, []).append(way.what)
    return found


def let_in(entries: Sequence[Entry], seen: Facts, state: State) -> dict[Fate, list[str]]:
    """Foreign rules that accept what only a later DROP of ours would drop; with the networks."""
    found: dict[Fate, list[str]] = {}
    for network in state.networks.values():
        if not network.internal:
            packets = Packets("", network.bridge, destination=network.subnet, not_from=network.bridge, is_local=False)
            for fate in _accepted(seen, "filter", "FORWARD", packets):
                if not _is_dropped_before(seen, fate, packets):
                    found.setdefault(fate, []).append(network.name)
    for step in drops(entries):
        table, chain, *words = step.probe.key
        for fate in _accepted(seen, table, chain, like(tuple(words)), tuple(words)):
            found.setdefault(fate, []).append(step.owner.partition(":")[2])
    return found


def drops(entries: Iterable[Entry]) -> Iterator[Step]:
    """Our DROPs in chains that others use too."""
    for step in (e.step for e in entries if e.step.probe.kind == "rule"):
        if step.probe.key[1] in BUILT_IN and step.probe.key[-1] == "DROP":
            yield step


def _accepted(seen: Facts, table: str, chain: str, packets: Packets, until: Rule = ()) -> Iterator[Fate]:
    """Rules of others that accept some of the packets before a rule of ours decides."""
    for fate in fates(seen, table, chain, packets):
        if firewall.is_ours(fate.rule) and (fate.verdict == "DROP" or (until and same_rule(fate.rule, until))):
            return
        if fate.verdict == "ACCEPT" and not firewall.is_ours(fate.rule):
            yield fate


def _is_dropped_before(seen: Facts, fate: Fate, packets: Packets) -> bool:
    """Return whether the mangle table, which is asked first, drops all that a rule of the filter table would accept."""
    narrow = like(fate.rule)
    comes, source = narrow.comes or packets.comes, narrow.source if narrow.source != ALL else packets.source
    them = replace(packets, comes=comes, source=source, not_from="" if comes else packets.not_from)
    before = fates(seen, "mangle", "FORWARD", them)
    return any(f.meets is Meets.EVERY and f.verdict == "DROP" for f in before)


def in_front(entries: Sequence[Entry], seen: Facts, state: State) -> Iterator[tuple[Step, Fate]]:
    """Steps of ours at the head of chains that others use too, and the rule in front of each that lets in what ours
    would keep out: there, `repair` puts ours first."""
    jump = next(
        (e.step for e in entries if e.step.owner == "host" and e.step.probe.key[:2] == ("filter", "FORWARD")), None
    )
    heads = {("filter", "FORWARD"): [jump] if jump is not None else []}
    for step in drops(entries):
        heads.setdefault((step.probe.key[0], step.probe.key[1]), []).append(step)
    for fate in let_in(entries, seen, state):
        place = (fate.table, fate.chains[0])
        there = seen.rules.get(place, ())
        for step in heads.get(place, []) if fate.meets > Meets.MAYBE else ():
            where = _position(there, step.probe.key[2:])
            theirs = _position(there, _first_of(fate, seen))
            if where is not None and theirs is not None and theirs < where:
                yield step, fate


def _position(rules: Sequence[Rule], rule: Rule) -> int | None:
    return next((n for n, other in enumerate(rules) if same_rule(other, rule)), None)


def _first_of(fate: Fate, seen: Facts) -> Rule:
    """The rule of the built-in chain that leads to the one that decides."""
    if len(fate.chains) == 1:
        return fate.rule
    there = seen.rules.get((fate.table, fate.chains[0]), ())
    return next((rule for rule in there if firewall.target(rule) == fate.chains[1]), ())


def elsewhere(seen: Facts, state: State) -> Iterator[tuple[str, PublishedPort, Fate]]:
    """Published ports that a rule of others leads elsewhere, or keeps from being led to their container."""
    for p in state.publications:
        for chain in ("OUTPUT",) if p.port.host_only else ("PREROUTING", "OUTPUT"):
            for packets in _to_port(p.port):
                for fate in fates(seen, "nat", chain, packets):
                    if firewall.is_ours(fate.rule):
                        break
                    if fate.meets is Meets.EVERY or (fate.verdict in REWRITES and fate.meets is Meets.SOME):
                        yield p.container, p.port, fate
                        break


def unmasked(seen: Facts, state: State) -> Iterator[tuple[Network, Fate]]:
    """Networks whose packets leave with their own addresses, as a rule of others decides before ours."""
    out = seen.way_out.link if seen.way_out is not None else ""
    for network in state.networks.values():
        if not network.internal:
            packets = Packets("", out, network.subnet, is_local=False)
            fate = next((f for f in fates(seen, "nat", "POSTROUTING", packets) if f.meets is Meets.EVERY), None)
            if fate is not None and fate.verdict not in REWRITES and not firewall.is_ours(fate.rule):
                yield network, fate


def names_ours(fate: Fate, state: State) -> bool:
    """Return whether a rule is about one of our networks by name or address: its maker has meant it."""
    packets = like(fate.rule)
    bridges = {n.bridge for n in state.networks.values()}
    nets = [net for net in (packets.source, packets.destination) if net.prefixlen > 0]
    return bool({packets.comes, packets.leaves, packets.not_from} & bridges) or any(
        net.overlaps(n.subnet) for net in nets for n in state.networks.values()
    )


def line(fate: Fate, how: str = "-A") -> str:
    """A rule as iptables takes it."""
    table = "" if fate.table == "filter" else f"-t {fate.table} "
    return f"{table}{how} {fate.chain} {shell_line(fate.rule)}"
