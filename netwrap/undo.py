"""Taking back: which objects go together, and the journal's steps as a Plan of their inverses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from netwrap.facts import Facts, holds, renamed, same_rule
from netwrap.steps import NO_ROW, Plan, Probe, Step, conntrack, iptables, is_undone_last

SHARED = frozenset({"host", "container", "published", "hairpin", "replies"})
"""Kinds of objects that nobody asked for: they stand as long as something needs them."""


@dataclass(frozen=True)
class Operation:
    """A row of the log; `at` is in seconds since the epoch."""

    id: int
    at: float
    title: str
    kind: str
    state: str
    command: str
    removes: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A step as the journal has it; `state` is begun, done, undoing or undone.

    `op` is the operation that ran it, in the boot `boot`; `place` is where it stands among the others, 0 is by its id.
    """

    id: int
    op: int
    state: str
    step: Step
    boot: str = ""
    place: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands among the others."""
        return (self.place or self.id, self.id)


def needs(owner: str) -> tuple[str, ...]:
    """The objects that an object is built upon."""
    kind, _, name = owner.partition(":")
    container, _, rest = name.partition("/")
    network = rest.partition("/")[0]
    match kind:
        case "network":
            return ("host",)
        case "endpoint":
            return (f"network:{network}", f"container:{container}")
        case "published":
            return (f"network:{name}",)
        case "link":
            return (f"network:{container}", f"network:{network}")
        case "hairpin" | "replies":
            return (f"endpoint:{name}",)
        case "port":
            place = f"{container}/{network}"
            return (f"endpoint:{place}", f"hairpin:{place}", f"published:{network}")
    return ()


def closure(targets: Iterable[str], standing: frozenset[str]) -> frozenset[str]:
    """The targets with everything built upon them, and shared objects that nothing needs any more."""
    going = frozenset(targets) & standing
    while True:
        more = {o for o in standing - going if going & frozenset(needs(o))}
        staying = standing - going - more
        needed = {n for o in staying for n in needs(o)}
        needed |= {o for o in staying if o.startswith("replies:") and _has_another(o, staying)}
        more |= {o for o in staying if o.partition(":")[0] in SHARED and o not in needed}
        if not more:
            return going
        going |= more


def _has_another(replies: str, standing: Iterable[str]) -> bool:
    """Says whether the container of a `replies` object is on another network too: that is what it is for."""
    place = replies.partition(":")[2]
    container = place.partition("/")[0]
    return any(o.startswith(f"endpoint:{container}/") and o != f"endpoint:{place}" for o in standing)


def foundation(owners: Iterable[str]) -> frozenset[str]:
    """The objects with everything that they are built upon."""
    found: set[str] = set()
    todo = set(owners)
    while todo:
        found |= todo
        todo = {n for o in todo for n in needs(o)} - found
    return frozenset(found)


def take_back(title: str, entries: Iterable[Entry], seen: Facts, removes: Iterable[str] = ()) -> Plan:
    """Plans the inverses of the entries, last step first; a step that does not hold any more is struck.

    What cannot be seen is taken back on trust: its inverse names only what is ours.
    """
    entries = list(entries)
    ours = {e.step.probe for e in entries}
    steps: list[Step] = []
    already: list[str] = []
    for entry in sorted(entries, key=lambda e: (not is_undone_last(e.step), *e.order), reverse=True):
        if entry.state == "undone" or entry.step.undo is None:
            continue
        if is_undone_last(entry.step) and conntrack.TOOL not in seen.tools:
            already.append(f"conntrack is not installed any more: {entry.step.undo.text()} is left out")
            continue
        if entry.step.do.argv[0] == "sysctl" and entry.boot not in ("", seen.boot_id):
            already.append(f"set before the last boot, and whoever sets it now is not netwrap: {entry.step.do.text()}")
            continue
        if entry.step.kind == "link add" and (other := renamed(entry.step.probe, seen)) is not None:
            steps.append(_under_its_name(inverse(entry), other.name))
            continue
        if holds(entry.step.probe, seen) is False:
            already.append(f"gone already: {entry.step.do.text()}")
            continue
        if entry.step.kind == "chain":
            steps += _strangers_rules(entry.step, ours, seen)
        steps.append(inverse(entry))
    return Plan(title, tuple(steps), tuple(already), removes=tuple(sorted(removes)))


def _strangers_rules(chain: Step, ours: set[Probe], seen: Facts) -> Iterator[Step]:
    """Removes what others have put into a chain of ours: with rules in it, it cannot go."""
    table, name = chain.probe.key
    mine = [probe.key[2:] for probe in ours if probe.kind == "rule" and probe.key[:2] == (table, name)]
    for rule in seen.rules.get((table, name), ()):
        if (known := next((m for m in mine if same_rule(rule, m)), None)) is not None:
            mine.remove(known)  # a second one like it is somebody else's
        else:
            step = iptables.of_a_stranger(table, name, rule)
            yield replace(step, owner=chain.owner, inverts=NO_ROW)


def _under_its_name(step: Step, name: str) -> Step:
    """The removal of a link that somebody has renamed."""
    do = replace(step.do, argv=(*step.do.argv[:-1], name))
    return replace(step, do=do, probe=replace(step.probe, key=(name, *step.probe.key[1:])))


def inverse(entry: Entry) -> Step:
    """The step that takes an entry back."""
    step = entry.step
    assert step.undo is not None
    return Step(step.kind, step.undo, step.do, step.probe, f"Takes back: {step.do.text()}", step.owner, entry.id)
