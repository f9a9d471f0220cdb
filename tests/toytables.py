"""The toy kernel's firewall: tables, chains and rules as iptables(8) has them, and strict about every word."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from ipaddress import IPv4Network

BUILT_IN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
TARGETS = {"ACCEPT", "DROP", "REJECT", "RETURN", "MASQUERADE", "DNAT"}
MATCHES = {"comment", "conntrack", "addrtype", "tcp", "udp", "sctp"}
NEEDS_MATCH = {"--comment": {"comment"}, "--ctstate": {"conntrack"}, "--dst-type": {"addrtype"}}
NO_INPUT, NO_OUTPUT = {"OUTPUT", "POSTROUTING"}, {"PREROUTING", "INPUT"}

Rule = tuple[str, ...]


class Refused(Exception):
    """The kernel, or the tool, says no: exit code and stderr."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Tables:
    """(table, chain) to its rules, in order."""

    def __init__(self) -> None:
        self.policies = {(table, chain): "ACCEPT" for table, chains in BUILT_IN.items() for chain in chains}
        self.chains: dict[tuple[str, str], list[Rule]] = {
            (table, chain): [] for table, chains in BUILT_IN.items() for chain in chains
        }

    def flush(self, table: str) -> None:
        """A table as the kernel has it at first: `iptables -F`, `-X`."""
        for place in [p for p in self.chains if p[0] == table]:
            self.chains[place] = []
            if place[1] not in BUILT_IN[table]:
                del self.chains[place]

    def iptables(self, words: list[str]) -> None:
        """Interprets the words behind `iptables`."""
        assert words[:1] == ["-w"], f"iptables without -w: {words}"
        words = words[1:]
        table = "filter"
        if words[0] == "-t":
            table, words = words[1], words[2:]
        self.change(table, words)

    def change(self, table: str, words: list[str]) -> None:
        """Interprets one command of one table."""
        assert table in BUILT_IN, f"unknown table {table}"
        how, chain, *rule = words
        place = (table, chain)
        match how:
            case "-N":
                assert not rule
                assert len(chain) <= 28, f"chain name of more than 28 characters: {chain}"
                self._must(place not in self.chains, "iptables: Chain already exists.")
                self.chains[place] = []
            case "-E":
                (new,) = rule
                self._must(place in self.chains and (table, new) not in self.chains, "iptables: File exists.")
                self.chains = {(t, new if (t, c) == place else c): rules for (t, c), rules in self.chains.items()}
                for rules in (rules for (t, _), rules in self.chains.items() if t == table):
                    rules[:] = [tuple(new if w == chain else w for w in found) for found in rules]
            case "-X":
                assert not rule
                self._must(place in self.chains, "iptables: No chain/target/match by that name.")
                self._must(chain not in BUILT_IN[table] and not self.chains[place], "iptables: Directory not empty.")
                self._must(not self._is_used(table, chain), "iptables: Too many links.")
                del self.chains[place]
            case "-F":
                assert not rule
                self._must(place in self.chains, "iptables: No chain/target/match by that name.")
                self.chains[place].clear()
            case "-P":
                assert chain in BUILT_IN[table]
                assert rule in (["ACCEPT"], ["DROP"])
                self.policies[place] = rule[0]
            case "-A" | "-I":
                self._must(place in self.chains, "iptables: No chain/target/match by that name.")
                number = len(self.chains[place]) + 1 if how == "-A" else 1
                if how == "-I" and rule[0].isdigit():
                    number = int(rule.pop(0))
                    self._must(1 <= number <= len(self.chains[place]) + 1, "iptables: Index of insertion too big.")
                self._check_rule(table, chain, tuple(rule))
                self.chains[place].insert(number - 1, tuple(rule))
            case "-D":
                self._must(place in self.chains, "iptables: No chain/target/match by that name.")
                self._must(tuple(rule) in self.chains[place], "iptables: Bad rule (does a matching rule exist?)")
                self.chains[place].remove(tuple(rule))
            case _:
                raise AssertionError(f"unknown iptables command {how}")

    def restore(self, text: str, change: Callable[[str, list[str]], None]) -> None:
        """Interprets the input of `iptables-restore -w --noflush`, atomic per table; `change` makes each change."""
        before, table = copy.deepcopy(self.chains), ""
        for line in text.splitlines():
            words = split(line)
            if line.startswith("*"):
                table, before = line[1:], copy.deepcopy(self.chains)
            elif line == "COMMIT":
                table = ""
            else:
                assert table, f"a line outside a table: {line}"
                try:
                    change(table, words)
                except BaseException:
                    self.chains = before
                    raise
        assert not table, "no COMMIT at the end"

    def _is_used(self, table: str, chain: str) -> bool:
        return any(
            rule[rule.index("-j") + 1] == chain for (t, _), rules in self.chains.items() if t == table for rule in rules
        )

    def _check_rule(self, table: str, chain: str, rule: Rule) -> None:
        words, loaded, protocol, target = list(rule), set[str](), "", ""
        while words:
            word = words.pop(0)
            if word == "!":
                word = words.pop(0)
                assert word in ("-i", "-o", "-s", "-d", "--ctstate", "--dst-type", "--tcp-flags"), f"! before {word}"
            value = words.pop(0)
            if word == "--tcp-flags":
                assert (value, words.pop(0), "tcp" in loaded) == ("FIN,SYN,RST,ACK", "SYN", True)
                continue
            assert word not in NEEDS_MATCH or NEEDS_MATCH[word] & loaded, f"{word} without its -m: {rule}"
            match word:
                case "-i" | "-o":
                    wrong = NO_INPUT if word == "-i" else NO_OUTPUT
                    self._must(chain not in wrong, f"iptables: Can't use {word} with {chain}", 2)
                    assert len(value) <= 15, f"interface name too long: {value}"
                case "-s" | "-d":
                    assert str(IPv4Network(value, strict=False)) == value, f"not as iptables-save prints it: {value}"
                case "-p":
                    assert value in ("tcp", "udp", "sctp")
                    protocol = value
                case "-m":
                    assert value in MATCHES, f"unknown match {value}"
                    loaded.add(value)
                case "--comment":
                    assert len(value) <= 255
                case "--ctstate":
                    assert set(value.split(",")) <= {"NEW", "RELATED", "ESTABLISHED", "DNAT"}
                case "--dport":
                    assert protocol in loaded, f"--dport without -p and -m: {rule}"
                    assert all(1 <= int(p) <= 65535 for p in value.split(":"))
                case "--dst-type":
                    assert value == "LOCAL"
                case "--to-destination":
                    assert target == "DNAT"
                case "--reject-with":
                    assert (target, value, protocol) == ("REJECT", "tcp-reset", "tcp")
                case "-j":
                    target = value
                case _:
                    raise AssertionError(f"unknown word {word} in {rule}")
        assert target, f"a rule without a target: {rule}"
        if target not in TARGETS:
            self._must((table, target) in self.chains, f"Chain '{target}' does not exist", 2)
        self._must(target != "DNAT" or (table == "nat" and chain in ("PREROUTING", "OUTPUT")), "DNAT: bad place")
        self._must(target != "REJECT" or table == "filter", "REJECT: bad place")
        self._must(target != "MASQUERADE" or (table, chain) == ("nat", "POSTROUTING"), "MASQUERADE: bad place")

    @staticmethod
    def _must(holds: bool, message: str, code: int = 1) -> None:
        if not holds:
            raise Refused(message, code)


def split(line: str) -> list[str]:
    """A line of a batch or a script as words; what a shell would expand is left as it is."""
    return shlex.split(line)
