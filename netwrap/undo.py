"""Undoing: which objects depend on which, and the journal's steps as a Plan of their inverses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from netwrap.facts import Facts, Rule, holds, is_husk, options_of, renamed, same_rule
from netwrap.model import digest
from netwrap.steps import NO_ROW, Cmd, Object, Plan, Probe, Step, conntrack, iptables, is_undone_last, link
from netwrap.steps.sysctl import prefixes

SHARED = frozenset({"host", "container", "published", "hairpin", "replies", "self"})
"""Kinds of objects that no user asks for: they exist as long as another object needs them."""


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
    undoes: int | None = None
    """The operation that it undoes."""

    @property
    def is_teardown(self) -> bool:
        """Return whether it takes objects down; what a `gc` takes down cannot be built up again."""
        return self.kind in ("teardown", "gc")


@dataclass(frozen=True)
class Entry:
    """A step in the journal; `state` is begun, done, undoing or undone.

    `op` is the operation that ran it, in the boot `boot`; `place` is its place in the order of steps, 0 means its id.
    """

    id: int
    op: int
    state: str
    step: Step
    boot: str = ""
    place: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Its place in the order of steps."""
        return (self.place or self.id, self.id)

    def is_of_another_boot(self, boot: str) -> bool:
        """Return whether it was run in another boot than that; False if that is not known."""
        return self.boot not in ("", boot)


Chains = Mapping[tuple[str, str], tuple[str, ...]]
"""Chains with the fingerprints of their rules in order."""


@dataclass(frozen=True)
class TakenDown:
    """What an operation has taken down: the steps and, by their row numbers, the objects as they were."""

    op: int
    entries: tuple[Entry, ...] = ()
    objects: dict[int, Object] = field(default_factory=dict)
    chains: Chains = field(default_factory=dict)
    """The chains that it took rules from, as they were before."""

    @property
    def owners(self) -> frozenset[str]:
        """The objects that it took down, shared ones included."""
        return frozenset(e.step.owner for e in self.entries) | {made.owner for made in self.objects.values()}


def fingerprint(rule: Rule) -> str:
    """A digest that is the same for equal rules, however they are printed."""
    return digest(*options_of(rule))


def chains_of(steps: Iterable[Step], seen: Facts) -> Chains:
    """The chains that the steps add rules to or remove rules from, as they are now."""
    places = {step.probe.key[:2] for step in steps if step.probe.kind == "rule"}
    return {place: tuple(map(fingerprint, rules)) for place, rules in seen.rules.items() if place in places}


def needs(owner: str) -> tuple[str, ...]:
    """The objects that an object depends on directly."""
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
        case "self":
            return (f"hairpin:{container}/{network}", f"endpoint:{container}/{rest.partition('/')[2]}")
        case "port":
            place = f"{container}/{network}"
            return (f"endpoint:{place}", f"hairpin:{place}", f"published:{network}")
    return ()


def whose(owner: str) -> tuple[str, str]:
    """Kind and name of the host, network, link or container that an object belongs to."""
    kind, _, name = owner.partition(":")
    match kind:
        case "host" | "network" | "link":
            return (kind, name)
        case "published":
            return ("network", name)
    return ("container", name.partition("/")[0])


_KINDS = ("host", "network", "container", "endpoint", "published", "hairpin", "replies", "self", "link", "port")


def order(owners: Iterable[str]) -> list[str]:
    """The objects, each after those that it depends on."""
    return sorted(owners, key=lambda owner: (_KINDS.index(owner.partition(":")[0]), owner))


def spoken(owner: str) -> str:
    """An object in words."""
    kind, _, name = owner.partition(":")
    one, _, rest = name.partition("/")
    match kind:
        case "host":
            return "the host's settings"
        case "endpoint":
            return f"{one}'s connection to {rest}"
        case "link":
            return f"the link of {one} and {rest}"
        case "port":
            return f"{one}'s port {rest.partition('/')[2]}"
    return f"{kind} {name}"


def closure(targets: Iterable[str], standing: frozenset[str]) -> frozenset[str]:
    """The targets with everything that depends on them, and shared objects that nothing needs any more."""
    going = frozenset(targets) & standing
    while True:
        more = {o for o in standing - going if going & frozenset(needs(o))}
        staying = standing - going - more
        needed = {n for o in staying if not o.startswith("self:") for n in needs(o)}
        needed |= {o for o in staying if o.startswith("replies:") and has_another(o, staying)}
        needed |= {o for o in staying if o.startswith("self:") and needs(o)[0] in needed}
        more |= {o for o in staying if o.partition(":")[0] in SHARED and o not in needed}
        if not more:
            return going
        going |= more


def has_another(replies: str, standing: Iterable[str]) -> bool:
    """Return whether the container of a `replies` object is also on another network: only then it is needed."""
    place = replies.partition(":")[2]
    container = place.partition("/")[0]
    return any(o.startswith(f"endpoint:{container}/") and o != f"endpoint:{place}" for o in standing)


def foundation(owners: Iterable[str]) -> frozenset[str]:
    """The objects with everything that they depend on."""
    found: set[str] = set()
    todo = set(owners)
    while todo:
        found |= todo
        todo = {n for o in todo for n in needs(o)} - found
    return frozenset(found)


def take_back(title: str, entries: Iterable[Entry], seen: Facts, removes: Iterable[str] = ()) -> Plan:
    """Plans the inverses of the entries, last step first, without steps that no longer hold.

    What cannot be seen is undone all the same: its inverse names only what is netwrap's.
    """
    entries = list(entries)
    ours = {e.step.probe for e in entries}
    steps: list[Step] = []
    already: list[str] = []
    warnings: list[str] = []
    lost = {e.step.probe.key[0] for e in entries if e.step.kind == "link add" and is_away(e.step.probe, seen)}
    turns = turns_of(entries)
    for entry in sorted(entries, key=lambda e: (not is_undone_last(e.step), turns[e.id]), reverse=True):
        if entry.state == "undone" or entry.step.undo is None:
            continue
        if is_undone_last(entry.step) and conntrack.TOOL not in seen.tools:
            already.append(f"conntrack is no longer installed; skipped: {entry.step.undo.text()}")
            continue
        if entry.is_of_another_boot(seen.boot_id) and not _outlasts_a_boot(entry.step.probe):
            already.append(f"done before the last boot; what is there now is not netwrap's: {entry.step.do.text()}")
            continue
        if entry.step.kind == "sysctl" and any(entry.step.probe.key[0].startswith(prefixes(n)) for n in lost):
            already.append(f"gone with its link: {entry.step.do.text()}")
            continue
        if entry.step.kind == "link add" and (other := renamed(entry.step.probe, seen)) is not None:
            steps.append(link.called(inverse(entry), other.name))
            continue
        if entry.step.kind == "link add" and (unmarked := _unmarked(entry.step.probe, seen)):
            warnings.append(
                f"{unmarked} stays: its MAC or group is not what netwrap gave it (ip link del dev {unmarked})"
            )
        if holds(entry.step.probe, seen) is False and not is_husk(entry.step.probe, seen):
            already.append(f"already gone: {entry.step.do.text()}")
            continue
        if entry.step.kind == "chain":
            steps += _strangers_rules(entry.step, ours, seen)
        if entry.step.probe.kind == "rule":
            steps += _copies(entry, seen)
        step = inverse(entry)
        steps.append(replace(step, do=inner_end(entry.step)) if _lost_its_other_end(entry, entries, lost) else step)
    return Plan(title, tuple(steps), tuple(already), removes=tuple(sorted(removes)), warnings=tuple(warnings))


def turns_of(entries: Iterable[Entry]) -> dict[int, tuple[object, ...]]:
    """The order of steps, by their rows, in which each chain comes before the rules in it, with all of its object.

    Objects that were built up again are older than a chain that was made anew for them.
    """
    entries = list(entries)
    chains = {e.step.probe.key: e for e in entries if e.step.probe.kind == "chain"}
    first: dict[str, tuple[int, int]] = {}
    for entry in entries:
        chain = chains.get(entry.step.probe.key[:2]) if entry.step.probe.kind == "rule" else None
        if chain is not None and entry.order < chain.order:
            first[chain.step.owner] = min(entry.order, first.get(chain.step.owner, entry.order))
    return {
        e.id: (first[e.step.owner], 0, e.order) if e.order > first.get(e.step.owner, e.order) else (e.order, 1, e.order)
        for e in entries
    }


def is_away(probe: Probe, seen: Facts) -> bool:
    """Return whether a link does not exist, under its name or another."""
    return holds(probe, seen) is False and renamed(probe, seen) is None


def _outlasts_a_boot(probe: Probe) -> bool:
    """Return whether it may exist after a boot: links and rules on the host have netwrap's mark, and may have been
    restored. Settings and namespaces are gone, even if others have the same numbers now."""
    return probe.kind not in ("sysctl", "setting on", "keep", "netns") and probe.ns is None


def _unmarked(probe: Probe, seen: Facts) -> str | None:
    """The link that has netwrap's name for it, but not its MAC and group."""
    space = seen.space(probe.ns)
    there = space is not None and probe.key[0] in space.links and holds(probe, seen) is False
    return probe.key[0] if there else None


def _lost_its_other_end(entry: Entry, entries: list[Entry], lost: set[str]) -> bool:
    """Return whether it put one end of a veth pair into a namespace, and the other end no longer exists."""
    if entry.step.kind != "link netns":
        return False
    return any(
        e.step.owner == entry.step.owner and e.step.probe.key[0] in lost for e in entries if e.step.kind == "link add"
    )


def inner_end(move: Step) -> Cmd:
    """The command that removes the end of a veth pair that a step has moved into a namespace."""
    return Cmd(("ip", "link", "del", "dev", move.probe.key[0]), move.probe.ns)


def _strangers_rules(chain: Step, ours: set[Probe], seen: Facts) -> Iterator[Step]:
    """Removes foreign rules in a chain of netwrap's, and foreign jumps to it: both prevent its removal."""
    table, name = chain.probe.key
    for (where, holder), found in seen.rules.items():
        mine = [probe.key[2:] for probe in ours if probe.kind == "rule" and probe.key[:2] == (where, holder)]
        for rule in found if where == table else ():
            leads_here = any(pair in (("-j", name), ("-g", name)) for pair in pairwise(rule))
            if (holder == name or leads_here) and not any(same_rule(rule, m) for m in mine):
                step = iptables.of_a_stranger(table, holder, rule, name)
                yield replace(step, owner=chain.owner, inverts=NO_ROW)


def _copies(entry: Entry, seen: Facts) -> Iterator[Step]:
    """Removes copies of a rule of netwrap's with its mark, as `iptables-restore` without a flush makes them."""
    table, chain, *words = entry.step.probe.key
    for _ in range(sum(same_rule(rule, tuple(words)) for rule in seen.rules.get((table, chain), ())) - 1):
        why = f"Removes a copy of this rule: {entry.step.do.text()}"
        yield replace(inverse(entry), inverts=NO_ROW, undo=None, why=why)


def inverse(entry: Entry) -> Step:
    """The step that undoes an entry."""
    step = entry.step
    assert step.undo is not None
    return Step(step.kind, step.undo, step.do, step.probe, f"Undoes: {step.do.text()}", step.owner, entry.id)
