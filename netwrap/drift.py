"""Where machine and journal differ: steps that no longer hold, and what bears our mark and no journal knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from netwrap import amiss, firewall, health
from netwrap.errors import NetwrapError
from netwrap.facts import Facts, Rule, renamed, same_rule
from netwrap.foresee import after
from netwrap.mend import chain_names, lost_chains, repair
from netwrap.model import LINK_GROUP, State
from netwrap.steps import Step, shell_line
from netwrap.undo import Entry, whose


@dataclass(frozen=True)
class Finding:
    """One thing: what is so, why it matters, and the command that mends it; None where there is none that may be run
    without a question. A note is not wrong."""

    name: str
    what: str
    why: str
    fix: str | None
    wrong: bool = True


def jump_of(standing: Iterable[Entry]) -> Step | None:
    """The step that leads from FORWARD to our chain."""
    of_host = (e.step for e in standing if e.step.owner == "host")
    return next((step for step in of_host if step.probe.key[:2] == ("filter", "FORWARD")), None)


REPAIR = "netwrap repair"


def drifted(standing: list[Entry], seen: Facts, state: State, covered: Collection[str]) -> Iterator[Finding]:
    """Steps that no longer hold, apart from those of containers that are gone and the `covered` kernel settings: one
    finding for all that `repair` runs again, and one for each part that it cannot."""
    jump = jump_of(standing)
    lost = _lost(standing, seen, state)
    others = [pair for pair in amiss.drift(standing, seen, state) if whose(pair[0]) not in _gone(state, seen)]
    named = {step.why for step in amiss.overtaken(standing, seen, state)}  # a finding of their own
    parts = {whose(step.owner) for step in lost} | {whose(owner) for owner, _ in others}
    refused = dict(_refused(parts, standing, seen, state))
    yield from refused.values()
    lost = [s for s in lost if s.probe.key[0] not in covered and whose(s.owner) not in refused]
    disordered = [text for owner, text in others if whose(owner) not in refused and text not in named]
    if jump is not None and jump in lost:
        policy = seen.policies.get(("filter", "FORWARD"), "ACCEPT")
        yield Finding(
            "FORWARD",
            f"the rule that jumps from FORWARD to netwrap's chain is gone; FORWARD has policy {policy} "
            f"({firewall.by_whom(seen, 'FORWARD')})",
            "netwrap's rules have no effect: containers reach nothing, or everybody reaches them.",
            REPAIR,
        )
    missing = [step for step in lost if step is not jump]
    if len(missing) == 1 and not disordered:
        yield Finding("drifted", f"missing: {missing[0].do.text()}", missing[0].why, REPAIR)
    elif texts := [*(step.do.text() for step in missing), *disordered]:
        yield Finding(
            "drifted",
            f"{len(texts)} step{'' if len(texts) == 1 else 's'} of netwrap's no longer hold"
            f"{'s' if len(texts) == 1 else ''}: {some_of(texts)}",
            "Somebody has undone them: containers may be cut off, or open to others. `netwrap status` lists them.",
            REPAIR,
        )


def _lost(standing: list[Entry], seen: Facts, state: State) -> list[Step]:
    gone = _gone(state, seen)
    return [e.step for e in health.drifted(standing, seen) if whose(e.step.owner) not in gone]


def _gone(state: State, seen: Facts) -> set[tuple[str, str]]:
    return {("container", name) for name, container in state.containers.items() if health.is_gone(container, seen)}


def some_of(texts: Iterable[str], most: int = 3) -> str:
    """The first of the texts, each once, and how many more there are."""
    texts = list(dict.fromkeys(texts))
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return "; ".join([*texts[:most], *more])


def _refused(
    parts: set[tuple[str, str]], standing: list[Entry], seen: Facts, state: State
) -> Iterator[tuple[tuple[str, str], Finding]]:
    """The parts that `repair` would not mend, each with its reason."""
    for part in sorted(parts):
        entries = [entry for entry in standing if whose(entry.step.owner) == part]
        try:
            repair(f"repair {part[1] or part[0]}", entries, standing, seen, state)
        except NetwrapError as error:
            yield part, Finding("drifted", error.message, f"`{REPAIR}` cannot fix that: {error.hint}", None)


def once(found: Iterable[Finding]) -> list[Finding]:
    """The findings with one for all that `repair` mends: it is run once."""
    found = list(found)
    mended = [f for f in found if f.fix == REPAIR]
    if len(mended) < 2:
        return found
    names = list(dict.fromkeys(f.name for f in mended))
    one = Finding(
        names[0] if len(names) == 1 else "drifted",
        "; ".join(f.what for f in mended),
        " ".join(dict.fromkeys(f.why for f in mended)),
        REPAIR,
    )
    return [one if f is mended[0] else f for f in found if f is mended[0] or f not in mended]


def left_over(standing: list[Entry], seen: Facts, state: State) -> Iterator[Finding]:
    """What containers that are gone have left, and what no journal of this state knows; rules before their chains.

    What `repair` gives its name and mark back is none of it.
    """
    for container in state.containers.values():
        if health.is_gone(container, seen):
            who = f"process {container.pid}" if container.pid else "its namespace"
            yield Finding(
                "leftover",
                f"container {container.name!r} is gone ({who} has exited); its address, link and rules are still there",
                "Its address cannot be used again, and its published ports do not work.",
                f"netwrap disconnect {container.name}",
            )
    seen = after(seen, amiss.marks(standing, seen))
    links = [e.step.probe for e in standing if e.step.probe.kind == "link" and e.step.probe.ns is None]
    known = {probe.key[0] for probe in links} | {other.name for p in links if (other := renamed(p, seen)) is not None}
    for name, link in seen.host.links.items():
        if link.group == str(LINK_GROUP) and name not in known:
            yield Finding(
                "leftover", f"link {name} is a leftover", _NOBODYS, shell_line(("ip", "link", "del", "dev", name))
            )
    seen = after(seen, chain_names(lost_chains(standing, seen), standing, seen))
    chains = _lost_chains(standing, seen)
    for table, chain, rule in _lost_rules(standing, seen, chains):
        line = shell_line(("iptables", "-w", "-t", table, "-D", chain, *rule))
        why = _NOBODYS if firewall.is_ours(rule) else "It keeps an unused chain from being removed."
        yield Finding("leftover", f"a rule in {chain} ({table}) is a leftover: {' '.join(rule)}", why, line)
    for table, chain in chains:
        what = f"chain {chain} ({table}) is a leftover"
        yield Finding("leftover", what, _NOBODYS, f"iptables -w -t {table} -X {chain}")


_NOBODYS = (
    "It has netwrap's mark, but is not in this state: it may belong to another one (--state-dir), or to a lost one."
)


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
