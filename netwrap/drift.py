"""Where machine and journal differ: steps that no longer hold, and what bears our mark and no journal knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from netwrap import firewall, health
from netwrap.facts import Facts, Rule, same_rule
from netwrap.foresee import after
from netwrap.mend import again
from netwrap.model import LINK_GROUP, State
from netwrap.steps import Step, shell_line
from netwrap.undo import Entry, whose


@dataclass(frozen=True)
class Finding:
    """One thing: what is so, why it matters, and the command that mends it. A note needs no mending."""

    name: str
    what: str
    why: str
    mend: str
    wrong: bool = True


def jump_of(standing: Iterable[Entry]) -> Step | None:
    """The step that leads from FORWARD to our chain."""
    of_host = (e.step for e in standing if e.step.owner == "host")
    return next((step for step in of_host if step.probe.key[:2] == ("filter", "FORWARD")), None)


def drifted(standing: list[Entry], seen: Facts, state: State, covered: Collection[str]) -> Iterator[Finding]:
    """Steps that no longer hold, apart from those of containers that are gone and the `covered` kernel settings.

    In the order of their making, and each command for the machine as those before it leave it: a rule has a place.
    """
    gone = {("container", name) for name, container in state.containers.items() if health.is_gone(container, seen)}
    jump = jump_of(standing)
    for entry in health.drifted(standing, seen):
        step = entry.step
        if step.probe.key[0] in covered or whose(step.owner) in gone:
            continue
        mended = again(step, standing, seen, state)
        seen = after(seen, [mended])
        if step is jump:
            policy = seen.policies.get(("filter", "FORWARD"), "ACCEPT")
            yield Finding(
                "FORWARD",
                f"the rule that leads from FORWARD to netwrap's chain is gone; FORWARD has policy {policy} "
                f"({firewall.by_whom(seen, 'FORWARD')})",
                "Nobody is let in or kept out by netwrap any more: containers reach nothing, or everybody reaches "
                "them.",
                mended.do.text(),
            )
        else:
            yield Finding("drifted", f"missing: {step.do.text()}", step.why, mended.do.text())


def left_over(standing: list[Entry], seen: Facts, state: State) -> Iterator[Finding]:
    """What containers that are gone have left, and what no journal of this state knows; rules before their chains."""
    for container in state.containers.values():
        if health.is_gone(container, seen):
            who = f"process {container.pid}" if container.pid else "its namespace"
            yield Finding(
                "leftover",
                f"container {container.name!r} is gone ({who} has ended); its address, link and rules are still there",
                "The address is not given out again, and a port that it published leads nowhere.",
                f"netwrap disconnect {container.name}",
            )
    known = {e.step.probe.key[0] for e in standing if e.step.probe.kind == "link" and e.step.probe.ns is None}
    for name, link in seen.host.links.items():
        if link.group == str(LINK_GROUP) and name not in known:
            yield Finding(
                "leftover", f"link {name} is nobody's", _NOBODYS, shell_line(("ip", "link", "del", "dev", name))
            )
    chains = _lost_chains(standing, seen)
    for table, chain, rule in _lost_rules(standing, seen, chains):
        line = shell_line(("iptables", "-w", "-t", table, "-D", chain, *rule))
        why = _NOBODYS if firewall.is_ours(rule) else "It keeps a chain that is nobody's from being removed."
        yield Finding("leftover", f"a rule in {chain} ({table}) is nobody's: {' '.join(rule)}", why, line)
    for table, chain in chains:
        what = f"chain {chain} ({table}) is nobody's"
        yield Finding("leftover", what, _NOBODYS, f"iptables -w -t {table} -X {chain}")


_NOBODYS = "It bears netwrap's mark, and this state does not know it: another one (--state-dir) may, or a lost one did."


def _lost_chains(standing: list[Entry], seen: Facts) -> list[tuple[str, str]]:
    known = [e.step.probe.key for e in standing if e.step.probe.kind == "chain"]
    named = [(table, chain) for table, chain in seen.rules if chain == _CHAIN or chain.startswith(f"{_CHAIN}-")]
    return [place for place in named if place not in known]


_CHAIN = "NETWRAP"  # and NETWRAP-BRIDGE: drivers/bridge.py


def _lost_rules(
    standing: list[Entry], seen: Facts, chains: Collection[tuple[str, str]]
) -> Iterator[tuple[str, str, Rule]]:
    """Rules with our mark that no journal knows, and whatever is in such chains or leads there."""
    rules = [e.step.probe.key for e in standing if e.step.probe.kind == "rule"]
    for (table, chain), found in seen.rules.items():
        ours = [key[2:] for key in rules if key[:2] == (table, chain)]
        for rule in found:
            lost = firewall.is_ours(rule) or (table, chain) in chains or (table, firewall.target(rule)) in chains
            if lost and not any(same_rule(rule, known) for known in ours):
                yield table, chain, rule
