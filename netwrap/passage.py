"""What rules do to packets of a kind, as far as their text shows (iptables(8), iptables-extensions(8))."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from ipaddress import IPv4Network

from netwrap.facts import Facts, Rule

ALL = IPv4Network("0.0.0.0/0")
VERDICTS = frozenset({"ACCEPT", "DROP", "REJECT", "QUEUE", "NFQUEUE"})
REWRITES = frozenset({"DNAT", "REDIRECT", "SNAT", "MASQUERADE", "NETMAP"})


class Meets(IntEnum):
    """How many packets of a kind a rule matches: none, unknown, some, all."""

    NONE = 0
    MAYBE = 1
    SOME = 2
    EVERY = 3


@dataclass(frozen=True)
class Packets:
    """A kind of packet. An empty name stands for any link, protocol or port."""

    comes: str = ""
    leaves: str = ""
    source: IPv4Network = ALL
    destination: IPv4Network = ALL
    protocol: str = ""
    port: int = 0
    states: frozenset[str] = frozenset({"NEW"})
    """Their conntrack states (`--ctstate`)."""
    not_from: str = ""
    """A link by which they do not come in."""
    is_local: bool | None = None
    """Whether the destination is an address of this host (`--dst-type LOCAL`)."""


@dataclass(frozen=True)
class Fate:
    """What a rule does to packets: its place, its verdict, and how many packets it matches."""

    table: str
    chain: str
    rule: Rule
    verdict: str
    meets: Meets
    chains: tuple[str, ...] = field(default=(), compare=False)
    """The chains that led to it, its own chain last."""


def fates(seen: Facts, table: str, chain: str, packets: Packets) -> Iterator[Fate]:
    """Yield what happens to packets in a chain, rule by rule, up to the rule that decides for all of them."""
    for fate in _walk(seen, table, chain, packets, Meets.EVERY, ()):
        if fate.verdict != "RETURN":
            yield fate
        if fate.meets is Meets.EVERY:
            return


def _walk(seen: Facts, table: str, chain: str, packets: Packets, most: Meets, above: tuple[str, ...]) -> Iterator[Fate]:
    """Follow the rules of a chain. Chains cannot form a loop: the kernel refuses that."""
    for rule in seen.rules.get((table, chain), ()):
        meets, to = min(meets_of(rule, packets), most), target(rule)
        if meets is Meets.NONE:
            continue
        chains = (*above, chain)
        if to == "RETURN":
            if meets is Meets.EVERY:
                return
        elif to in VERDICTS or to in REWRITES:
            yield Fate(table, chain, rule, to, meets, chains)
            if meets is Meets.EVERY:
                return
        elif (table, to) in seen.rules:
            for fate in _walk(seen, table, to, packets, meets, chains):
                yield fate
                if fate.meets is Meets.EVERY:
                    return
            if "-g" in rule and meets is Meets.EVERY:  # packets do not return from a -g target
                return


def target(rule: Rule) -> str:
    """Return the target of a rule: a verdict or a chain."""
    for option in ("-j", "-g"):
        if option in rule[:-1]:
            return rule[rule.index(option) + 1]
    return ""


def meets_of(rule: Rule, packets: Packets) -> Meets:
    """Return how many of the packets a rule matches. A condition that is not understood matches an unknown number."""
    found = Meets.EVERY
    for option, value, negated in _conditions(rule):
        one = _met(option, value, packets)
        if negated and one in (Meets.NONE, Meets.EVERY):
            one = Meets.EVERY if one is Meets.NONE else Meets.NONE
        found = min(found, one)
    return found


def _conditions(rule: Rule) -> Iterator[tuple[str, str, bool]]:
    """Yield the conditions of a rule: option, value, and whether it is negated."""
    words = list(rule)
    for stop in ("-j", "-g"):
        if stop in words:
            words = words[: words.index(stop)]
    negated = False
    at = 0
    while at < len(words):
        word = words[at]
        has_value = at + 1 < len(words) and (word == "--comment" or not _starts(words[at + 1]))
        value = words[at + 1] if has_value else ""
        if word == "!":
            negated = True
            at += 1
            continue
        if word not in ("-m", "--comment"):
            yield word, value, negated
        negated = False
        at += 1 + has_value


def _starts(word: str) -> bool:
    return word == "!" or (word.startswith("-") and not word[1:2].isdigit())


def _met(option: str, value: str, packets: Packets) -> Meets:
    match option:
        case "-i":
            return _link(value, packets.comes, packets.not_from)
        case "-o":
            return _link(value, packets.leaves, "")
        case "-s":
            return _within(packets.source, value)
        case "-d":
            return _within(packets.destination, value)
        case "-p":
            return _same(value, packets.protocol)
        case "--dport" | "--dports":
            return _ports(value, packets.port)
        case "--sport" | "--sports":
            return Meets.SOME
        case "--ctstate" | "--state":
            return Meets.EVERY if packets.states & set(value.split(",")) else Meets.NONE
        case "--dst-type" if value == "LOCAL" and packets.is_local is not None:
            return Meets.EVERY if packets.is_local else Meets.NONE
    return Meets.MAYBE


def _link(pattern: str, name: str, never: str) -> Meets:
    if never and _matches(pattern, never) and not pattern.endswith("+"):
        return Meets.NONE
    if not name:
        return Meets.EVERY if pattern == "+" else Meets.SOME
    return Meets.EVERY if _matches(pattern, name) else Meets.NONE


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _within(packets: IPv4Network, text: str) -> Meets:
    try:
        found = IPv4Network(text, strict=False)
    except ValueError:  # a mask that is not contiguous
        return Meets.MAYBE
    if packets.subnet_of(found):
        return Meets.EVERY
    return Meets.SOME if packets.overlaps(found) else Meets.NONE


def _same(wanted: str, value: str) -> Meets:
    if not value:
        return Meets.SOME
    return Meets.EVERY if wanted in (value, "all") else Meets.NONE


def _ports(text: str, port: int) -> Meets:
    if not port:
        return Meets.SOME
    for part in text.split(","):
        first, colon, last = part.partition(":")
        if not first.isdigit() or (colon and not last.isdigit()):
            return Meets.MAYBE
        if int(first) <= port <= int(last or first):
            return Meets.EVERY
    return Meets.NONE


def like(rule: Rule) -> Packets:
    """Return the packets that a rule matches, by its links and addresses."""
    found = Packets()
    for option, value, negated in _conditions(rule):
        match option:
            case "-i":
                found = replace(found, not_from=value) if negated else replace(found, comes=value)
            case "-o" if not negated:
                found = replace(found, leaves=value)
            case "-s" if not negated:
                found = replace(found, source=_network(value))
            case "-d" if not negated:
                found = replace(found, destination=_network(value))
    return found


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        return ALL
