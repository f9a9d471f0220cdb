"""Taking back: which objects go together, and the journal's steps as a Plan of their inverses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netwrap.facts import Facts, holds
from netwrap.steps import Plan, Step

SHARED = frozenset({"host", "container", "published", "hairpin"})
"""Kinds of objects that nobody asked for: they stand as long as something needs them."""


@dataclass(frozen=True)
class Entry:
    """A step as the journal has it; `state` is begun, done, undoing or undone."""

    id: int
    op: int
    state: str
    step: Step


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
        case "hairpin":
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
        more |= {o for o in staying if o.partition(":")[0] in SHARED and o not in needed}
        if not more:
            return going
        going |= more


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
    steps, already = [], []
    for entry in sorted(entries, key=lambda e: -e.id):
        if entry.state == "undone" or entry.step.undo is None:
            continue
        if holds(entry.step.probe, seen) is False:
            already.append(f"gone already: {entry.step.do.text()}")
        else:
            steps.append(inverse(entry))
    return Plan(title, tuple(steps), tuple(already), removes=tuple(sorted(removes)))


def inverse(entry: Entry) -> Step:
    """The step that takes an entry back."""
    step = entry.step
    assert step.undo is not None
    return Step(step.kind, step.undo, step.do, step.probe, f"Takes back: {step.do.text()}", step.owner, entry.id)
