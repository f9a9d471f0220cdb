"""Steps on firewall rules: `iptables` (iptables(8)). Every rule has a comment that marks it as netwrap's.

Rules are written as iptables-save prints them (with `-m tcp`, hosts as /32), so that a probe can
compare them with the kernel's.
"""

from __future__ import annotations

from netwrap.steps import Cmd, Probe, Step

MARK = "netwrap:"


def new_chain(table: str, chain: str, why: str) -> Step:
    """Makes a chain; its name has at most 28 characters."""
    return Step(
        "chain",
        _iptables(table, "-N", chain),
        _iptables(table, "-X", chain),
        Probe("chain", (table, chain)),
        why,
    )


def rename(table: str, old: str, new: str, why: str) -> Step:
    """Renames a chain of netwrap's; rules that jump to it still do."""
    back = _iptables(table, "-E", new, old)
    return Step("chain name", _iptables(table, "-E", old, new), back, Probe("chain", (table, new)), why)


def append(table: str, chain: str, mark: str, rule: tuple[str, ...], target: tuple[str, ...], why: str) -> Step:
    """Adds a rule at the end of a chain."""
    return _rule("-A", table, chain, mark, rule, target, why)


def insert(table: str, chain: str, mark: str, rule: tuple[str, ...], target: tuple[str, ...], why: str) -> Step:
    """Adds a rule at the head of a chain."""
    return _rule("-I", table, chain, mark, rule, target, why)


def take_out(table: str, chain: str, rule: tuple[str, ...], number: int, why: str) -> Step:
    """Deletes netwrap's rule number n from a chain, so that it can be added again in its place."""
    back = _iptables(table, "-I", chain, str(number), *rule)
    return Step("rule out", _iptables(table, "-D", chain, *rule), back, Probe("passing", (table, chain, *rule)), why)


def of_a_stranger(table: str, chain: str, rule: tuple[str, ...], ours: str) -> Step:
    """Deletes a foreign rule that is in one of netwrap's chains, or jumps there; its inverse adds it again."""
    again = _iptables(table, "-A", chain, *rule)
    return Step(
        "rule",
        _iptables(table, "-D", chain, *rule),
        again,
        Probe("rule", (table, chain, *rule)),
        f"A rule that netwrap did not add is removed with the chain {ours}. To add it again: {again.text()}",
    )


def _rule(
    how: str, table: str, chain: str, mark: str, rule: tuple[str, ...], target: tuple[str, ...], why: str
) -> Step:
    words = (*rule, "-m", "comment", "--comment", MARK + mark, "-j", *target)
    return Step(
        "rule",
        _iptables(table, how, chain, *words),
        _iptables(table, "-D", chain, *words),
        Probe("rule", (table, chain, *words)),
        why,
    )


def _iptables(table: str, *words: str) -> Cmd:
    where = () if table == "filter" else ("-t", table)
    return Cmd(("iptables", "-w", *where, *words))
