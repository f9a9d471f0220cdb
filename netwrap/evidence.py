"""What a packet has left in the kernel's counters: takes two readings and returns the rules that it has met."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from netwrap import firewall
from netwrap.facts import Rule
from netwrap.steps import shell_line

Place = tuple[str, str, str, int]
"""Program, table, chain, and the number of the rule in it; 0 is the policy."""

TAKES = frozenset({"DROP", "REJECT", "TARPIT", "NFQUEUE", "drop", "reject", "queue"})
"""Verdicts after which a packet does not go on; for a queue, only if no program reads it."""

ORDER = ("raw", "mangle", "nat", "filter", "security")
"""The order in which a hook runs the tables, except nat, which changes the destination or source (iptables(8))."""


@dataclass(frozen=True)
class Counted:
    """A rule that packets have met, or the policy of a chain if `rule` is empty."""

    tool: str
    table: str
    chain: str
    number: int
    rule: Rule
    verdict: str
    grown: int
    place: str = ""
    """The container whose namespace holds it; "" is the host."""
    handle: str = ""
    """For nftables: the handle by which `nft` deletes it."""

    @property
    def takes(self) -> bool:
        """Return whether the packet ends here."""
        return self.verdict in TAKES

    @property
    def is_ours(self) -> bool:
        """Return whether it carries netwrap's mark."""
        return firewall.is_ours(self.rule)

    @property
    def text(self) -> str:
        """The rule as its program prints it."""
        if self.tool == "nft":
            return f"a rule of nftables in {self.table} {self.chain}: {' '.join(self.rule)}"
        table = "" if self.table == "filter" else f"-t {self.table} "
        if not self.rule:
            return f"{table}-P {self.chain} {self.verdict}"
        return f"{table}-A {self.chain} {shell_line(self.rule)}"

    @property
    def removal(self) -> str:
        """The command that removes it."""
        inside = f"ip netns exec {self.place} " if self.place else ""
        if self.tool == "nft":
            return f"{inside}nft delete rule {self.table} {self.chain} handle {self.handle}"
        start = f"{inside}{self.tool} -w -t {self.table}"
        if not self.rule:
            return f"{start} -P {self.chain} ACCEPT"
        return f"{start} -D {self.chain} {shell_line(self.rule)}"


@dataclass(frozen=True)
class Reading:
    """The counters of one namespace at one moment."""

    rules: dict[Place, tuple[int, Rule, str]] = field(default_factory=dict)
    """For each place: packets so far, the rule, and its handle."""
    sums: dict[str, int] = field(default_factory=dict)
    """The kernel's counters of dropped packets, by name."""


def grown(before: Reading, after: Reading, place: str = "", at_least: int = 1) -> list[Counted]:
    """Return the rules that have counted at least that many packets between two readings, in rule order."""
    found = []
    for where, (packets, rule, handle) in after.rules.items():
        old = before.rules.get(where)
        if old is not None and old[1] == rule and packets - old[0] >= at_least:
            tool, table, chain, number = where
            is_policy = number == 0
            verdict = rule[0] if is_policy else _verdict(tool, rule)
            words = () if is_policy else rule
            found.append(Counted(tool, table, chain, number, words, verdict, packets - old[0], place, handle))
    return found


def risen(before: Reading, after: Reading) -> dict[str, int]:
    """Return the kernel's counters that have grown, and by how much."""
    return {name: n - before.sums.get(name, 0) for name, n in after.sums.items() if n > before.sums.get(name, 0)}


def mark_of(counted: Iterable[Counted], link: str, kind: str) -> int:
    """Return the mark of packets of a protocol that came in by a link and met these rules. Marks set by anything other
    than iptables' MARK are not known (iptables-extensions(8))."""
    mark = 0
    for c in counted:
        if c.verdict == "MARK" and c.table == "mangle" and not contradicts(c.rule, {link}, kind, set()):
            value, _, mask = next(
                (v for o, v in zip(c.rule, c.rule[1:], strict=False) if o in ("--set-xmark", "--set-mark")), ""
            ).partition("/")
            with suppress(ValueError):
                mark = (mark & ~int(mask or "0xffffffff", 0)) ^ int(value, 0)
    return mark


def _verdict(tool: str, rule: Rule) -> str:
    if tool == "nft":
        return next((word for word in rule if word in ("drop", "reject", "queue", "accept")), "")
    return firewall.target(rule)


def parse_saved(text: str, tool: str) -> Iterator[tuple[Place, tuple[int, Rule, str]]]:
    """Read `iptables-save -c` (iptables-save(8)); skip unknown lines."""
    table, numbers = "", dict[str, int]()
    for line in _LINE.findall(text):
        words = [re.sub(r"\\(.)", r"\1", quoted) if quoted else bare for quoted, bare in _WORD.findall(line)]
        if line.startswith("*"):
            table, numbers = words[0][1:], {}
        elif line.startswith(":") and len(words) == 3 and words[1] != "-":
            yield (tool, table, words[0][1:], 0), (_packets(words[2]), (words[1],), "")
        elif line.startswith("[") and len(words) > 2 and words[1] == "-A":
            numbers[words[2]] = number = numbers.get(words[2], 0) + 1
            yield (tool, table, words[2], number), (_packets(words[0]), tuple(words[3:]), "")


_LINE = re.compile(r"""(?:[^"\n]|"(?:[^"\\]|\\.)*")*\n""", re.DOTALL)
_WORD = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|([^ "\n]+))""", re.DOTALL)


def _packets(counter: str) -> int:
    digits = counter.strip("[]").partition(":")[0]
    return int(digits) if digits.isdigit() else 0


@dataclass(frozen=True)
class Suspect:
    """A rule or chain of nftables that drops packets and counts none."""

    table: str
    """Address family and name."""
    chain: str
    hook: str
    what: str
    removal: str
    links: tuple[str, ...] = ()
    """The links to which it applies, if it names any."""
    family: str = ""


def parse_nft(text: str) -> tuple[dict[Place, tuple[int, Rule, str]], list[Suspect]]:
    """Read `nft -j list ruleset` (libnftables-json(5)): rules that count, and what drops without counting.

    Raises ValueError or LookupError if the text is something else. Tables of iptables are read with iptables-save.
    """
    rows = json.loads(text or "{}").get("nftables", [])
    bases = {}
    for chain in (row["chain"] for row in rows if "chain" in row):
        bases[chain["family"], chain["table"], chain["name"]] = chain
    found: dict[Place, tuple[int, Rule, str]] = {}
    suspects = []
    for (family, table, name), chain in bases.items():
        if chain.get("policy") == "drop" and not _is_of_iptables(family, table):
            place = f"{family} {table}"
            change = f"nft add chain {place} {name} '{{ policy accept; }}'"
            suspects.append(Suspect(place, name, chain.get("hook", ""), "policy drop", change, (), family))
    for rule in (row["rule"] for row in rows if "rule" in row):
        family, table, name = rule["family"], rule["table"], rule["chain"]
        if _is_of_iptables(family, table):
            continue
        words, counter = _nft_words(rule.get("expr", ())), _counter(rule.get("expr", ()))
        place, handle = f"{family} {table}", str(rule.get("handle", ""))
        if counter is not None:
            found["nft", place, name, int(handle or 0)] = (counter, words, handle)
        elif {"drop", "reject", "queue"} & {*words}:
            hook = bases.get((family, table, name), {}).get("hook", "")
            remove = f"nft delete rule {place} {name} handle {handle}"
            suspects.append(Suspect(place, name, hook, " ".join(words), remove, (), family))
    return found, suspects


def _is_of_iptables(family: str, table: str) -> bool:
    return family == "ip" and table in ORDER


def _counter(expressions: Any) -> int | None:
    for expression in expressions:
        counter = expression.get("counter") if isinstance(expression, dict) else None
        if isinstance(counter, dict):
            return int(counter.get("packets", 0))
    return None


def _nft_words(expressions: Any) -> Rule:
    """Return an nftables rule as words, close to how `nft` prints it."""
    words: list[str] = []
    for expression in expressions:
        for kind, what in expression.items() if isinstance(expression, dict) else ():
            if kind == "match":
                words += [_nft_value(what.get("left")), *([] if what.get("op") == "==" else [what.get("op", "")])]
                words.append(_nft_value(what.get("right")))
            elif kind not in ("counter", "xt"):
                words.append(str(kind))
    return tuple(word for word in words if word)


def _nft_value(what: Any) -> str:
    if isinstance(what, dict):
        for kind, inner in what.items():
            if kind in ("meta", "ct"):
                return str(inner.get("key", kind))
            if kind == "payload":
                return f"{inner.get('protocol', '')} {inner.get('field', '')}".strip()
            if kind == "prefix":
                return f"{inner.get('addr')}/{inner.get('len')}"
            return str(kind)
    return ",".join(map(str, what)) if isinstance(what, list) else str(what)


def parse_sums(text: str) -> dict[str, int]:
    """Read /proc/net/snmp and /proc/net/netstat (proc(5)): pairs of lines, names and numbers."""
    found, lines = {}, text.splitlines()
    for head, row in zip(lines[::2], lines[1::2], strict=False):
        names, numbers = head.split(), row.split()
        for name, number in zip(names[1:], numbers[1:], strict=False):
            if number.lstrip("-").isdigit():
                found[names[0].rstrip(":") + name] = int(number)
    return found


def parse_conntrack(text: str) -> int:
    """Read /proc/net/stat/nf_conntrack: packets dropped because the table was full, summed over all processors."""
    head, *rows = (line.split() for line in text.splitlines()) if text.strip() else ([],)
    if "drop" not in head:
        return 0
    at = head.index("drop")
    return sum(int(row[at], 16) for row in rows if len(row) > at)


def contradicts(rule: Rule, links: set[str], kind: str, ends: set[str], ports: frozenset[int] = frozenset()) -> bool:
    """Return whether an iptables rule cannot have met a packet: it is for other links, another protocol or other
    addresses. Anything unknown counts as possible."""
    inverted = False
    for n, word in enumerate(rule):
        value = rule[n + 1] if n + 1 < len(rule) else ""
        is_it: bool | None = None
        if word in ("-i", "-o") and links:
            is_it = _is_link(value, links)
        elif word == "-p" and kind:
            is_it = value in (kind, "all", "ip")
        elif word == "--dport" and ports:
            first, _, last = value.partition(":")
            is_it = not first.isdigit() or any(int(first) <= port <= int(last or first) for port in ports)
        elif word in ("-s", "-d") and ends:
            is_it = _is_one_of(ends, value)
        if is_it is not None and is_it == inverted and not (inverted and word != "-p"):
            return True
        inverted = word == "!"
    return False


def _is_link(pattern: str, links: set[str]) -> bool:
    return any(link.startswith(pattern[:-1]) if pattern.endswith("+") else link == pattern for link in links)


def _is_one_of(ends: set[str], net: str) -> bool:
    try:
        wanted = IPv4Network(net, strict=False)
    except ValueError:
        return True
    return any(IPv4Address(end) in wanted for end in ends)
