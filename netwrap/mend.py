"""What makes steps hold again that somebody else has undone: their commands, with rules in their place among ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from netwrap import amiss, drivers
from netwrap.errors import NetwrapError
from netwrap.facts import NO_NAMESPACE, Facts, is_husk, netns_of, renamed, same_rule
from netwrap.foresee import after
from netwrap.health import drifted, is_gone
from netwrap.model import Container, State
from netwrap.steps import NO_ROW, Plan, Probe, Step, iptables, link, netns, owned
from netwrap.undo import Chains, Entry, fingerprint, inner_end, is_away, whose


def repair(title: str, entries: Sequence[Entry], standing: Sequence[Entry], seen: Facts, state: State) -> Plan:
    """Plans what makes the entries hold again, in their original order; `standing` are all steps that should hold.

    Raises NetwrapError if somebody else uses a name of ours, or if an object is half removed.
    """
    if half := {whose(e.step.owner) for e in entries if e.step.owner in state.half_removed}:
        raise NetwrapError(f"{title}: its removal has failed half-way", f"netwrap {_removal(*half.pop())}")
    work, replaces = _Work(seen), list[int]()
    settings = [e for e in entries if e.step.owner == "host" and e.step.do.argv[0] == "sysctl"]
    fresh = host_settings(seen, state) if any(e.step.owner == "host" for e in entries) else ()
    if fresh or any(e.is_of_another_boot(seen.boot_id) for e in settings):
        # The old values that they would restore are out of date.
        work.run(replace(step, mends=settings[0].id if settings else None) for step in fresh)
        replaces = [e.id for e in settings]
    handles = [e for e in entries if e.step.probe.kind == "netns"]
    work.run(chain_names(lost_chains(entries, seen), standing, seen))
    work.run(_clearing(e.step.probe, e.step.owner) for e in handles if is_husk(e.step.probe, seen))
    work.mend(handles, standing, state)  # first: other steps need them to enter a namespace
    work.run(amiss.marks(entries, work.seen))
    work.run(_names(entries, work.seen))
    work.run(_broken_cables(entries, work.seen))
    work.run(amiss.sizes(entries, work.seen, state))
    work.connect(amiss.connected(entries, work.seen))
    owners = {e.step.owner for e in entries}
    work.run(step for step in amiss.displaced(standing, work.seen) if step.owner in owners)
    work.run(step for step in list(amiss.overtaken(standing, work.seen, state)) if step.owner in owners)
    work.mend((e for e in entries if e not in handles and e.id not in replaces), standing, state)
    # A bridge that follows the MTU of its ports has IPv6 again, where that was too small before, and it is on.
    new = work.seen.sysctls.keys() - seen.sysctls.keys()
    work.mend(
        (e for e in standing if e.step.probe.kind == "setting on" and e.step.probe.key[0] in new), standing, state
    )
    return Plan(title, tuple(work.steps), replaces=tuple(replaces))


def _removal(kind: str, name: str) -> str:
    return f"disconnect {name}" if kind == "container" else f"network remove --force {name}"


@dataclass
class _Work:
    """A growing plan, and the facts as they will be after it."""

    seen: Facts
    steps: list[Step] = field(default_factory=list)

    def run(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.steps.append(step)
            self.seen = after(self.seen, [step])

    def connect(self, steps: Iterable[Step]) -> None:
        """Adds connected routes; only in containers it removes what is in their way. Raises NetwrapError."""
        for step in list(steps):
            if step.probe.ns is None and (there := amiss.taken_by(step, self.seen)):
                raise NetwrapError(
                    f"another route for {there[0].dst}, to {there[0].dev or there[0].kind}, is not netwrap's",
                    f"ip route show {there[0].dst}  # remove it, then: netwrap repair",
                )
            self.run([*amiss.in_the_way(step, self.seen), step])

    def mend(self, entries: Iterable[Entry], standing: Sequence[Entry], state: State) -> None:
        """Runs the steps again that no longer hold. Raises NetwrapError."""
        for entry in entries:
            if drifted([entry], self.seen):
                _refuse_taken(entry.step, self.seen)
                self.run(amiss.in_the_way(entry.step, self.seen))
                self.run([replace(again(entry.step, standing, self.seen, state), mends=entry.id)])


def host_settings(seen: Facts, state: State) -> tuple[Step, ...]:
    """What turns forwarding on if it is off and networks exist, even if it was on before the networks were made."""
    if not state.networks:
        return ()
    host = drivers.load(next(iter(state.networks.values())).driver).host(seen)
    steps = owned("host", (step for step in host if step.do.argv[0] == "sysctl"))
    return steps if any(step.kind == "sysctl" for step in steps) else ()


def _broken_cables(entries: Iterable[Entry], seen: Facts) -> Iterator[Step]:
    """Removes the remaining end of a veth pair that has lost the other one: the pair is made again."""
    entries = list(entries)
    for move in (e.step for e in entries if e.step.kind == "link netns"):
        outer = next(e.step for e in entries if e.step.kind == "link add" and e.step.owner == move.owner)
        peer = seen.host.links.get(move.do.argv[4])
        is_inside = not is_away(move.probe, seen) or (peer is not None and peer.mac == move.probe.key[1])
        why = f"The other end of this cable is gone: {outer.probe.key[0]} is made again."
        if is_away(outer.probe, seen) and not is_away(move.probe, seen):
            end = inner_end(move)
            yield replace(link.delete(end.argv[-1], move.probe.key[1], outer.do, why, end.ns), owner=move.owner)
        elif not is_away(outer.probe, seen) and not is_inside and seen.space(move.probe.ns) is not None:
            yield replace(link.delete(outer.probe.key[0], outer.probe.key[1], outer.do, why), owner=move.owner)


def in_place(step: Step, before: Chains, now: Facts, entries: Iterable[Entry] = ()) -> Step:
    """The step with the command that puts a rule where it was `before`: right after the rules that preceded it, else
    before those that followed it, foreign rules included. If none of them is left, the step as it is.

    Rules that `entries` added, in the order in which they were run at first, keep that order: some may be newer by now.
    """
    if step.probe.kind != "rule":
        return step
    table, chain, *words = step.probe.key
    mark = fingerprint(tuple(words))
    ranks = {rule: n for n, rule in reversed([*enumerate(before.get((table, chain), ()))])}
    if mark not in ranks:
        return step
    wanted = [fingerprint(rule) for rule in amiss.order((table, chain), entries)]
    place = wanted.index(mark) if mark in wanted else len(wanted)
    there = [(n, fingerprint(rule)) for n, rule in enumerate(now.rules.get((table, chain), ()), 1)]
    first = max((n + 1 for n, rule in there if rule in wanted[:place]), default=1)
    last = min((n for n, rule in there if rule in wanted[place + 1 :] and n >= first), default=len(there) + 1)
    known = [(n, ranks[rule]) for n, rule in there if first <= n < last and rule in ranks and rule not in wanted]
    if front := [n for n, rank in known if rank < ranks[mark]]:
        return _at(front[-1] + 1, step)
    if first > 1:
        return _at(first, step)
    if behind := [n for n, rank in known if rank > ranks[mark]]:
        return _at(behind[0], step)
    return _at(last, step) if last <= len(there) else step


def _at(number: int, step: Step) -> Step:
    """The step with the command that makes its rule number n of its chain."""
    argv = list(step.do.argv)
    how = next(n for n, word in enumerate(argv) if word in ("-A", "-I"))
    has_number = argv[how + 2].isdigit()
    argv[how : how + 2 + has_number] = ["-I", argv[how + 1], str(number)]
    return replace(step, do=replace(step.do, argv=tuple(argv)))


def _names(entries: Iterable[Entry], seen: Facts) -> Iterator[Step]:
    """Restores the names of our links that somebody has renamed."""
    for step in (entry.step for entry in entries if entry.step.probe.kind == "link"):
        name, mac = step.probe.key
        other, space = renamed(step.probe, seen), seen.space(step.probe.ns)
        if other is not None and space is not None and not space.has_name(name):
            why = f"Somebody has renamed {name} to {other.name}: restores its name, for which it has to be down."
            if other.up:
                yield replace(link.set_down(other.name, mac, why, step.probe.ns), owner=step.owner)
            yield replace(link.rename(other.name, name, mac, why, step.probe.ns), owner=step.owner)


def lost_chains(entries: Iterable[Entry], seen: Facts) -> list[tuple[str, ...]]:
    """The chains of the entries, by table and name, that do not exist."""
    places = dict.fromkeys(e.step.probe.key[:2] for e in entries if e.step.probe.kind in ("chain", "rule"))
    return [place for place in places if place not in seen.rules]


def chain_names(lost: Iterable[tuple[str, ...]], standing: Sequence[Entry], seen: Facts) -> Iterator[Step]:
    """Restores the names of those lost chains of ours that somebody has renamed."""
    chains = {e.step.probe.key: e.step.owner for e in standing if e.step.probe.kind == "chain"}
    known = {*chains, *seen.policies}
    for table, name in (place for place in lost if place in chains):
        ours = [e.step.probe.key[2:] for e in standing if e.step.probe.key[:2] == (table, name)]
        alike = {  # by the number of our rules in it, as some rules are in more than one chain
            other: sum(any(same_rule(rule, mine) for mine in ours if mine) for rule in found)
            for (where, other), found in seen.rules.items()
            if where == table and (where, other) not in known
        }
        other = max(alike, key=lambda chain: alike[chain], default="")
        if alike.get(other):
            known.add((table, other))
            why = f"Somebody has renamed {name} ({table}) to {other}: restores its name."
            yield replace(iptables.rename(table, other, name, why), owner=chains[table, name])


def handles(
    steps: Iterable[Step], standing: Iterable[Entry], containers: Iterable[Container], seen: Facts
) -> Iterator[Step]:
    """Restores handles of running containers that somebody has removed: the steps inside need them."""
    names = {step.do.ns.name for step in steps if step.do.ns is not None}
    names &= {entry.step.probe.key[0] for entry in standing if entry.step.probe.kind == "netns"}
    for container in containers:
        name = container.name
        if name not in names or container.pid is None or is_gone(container, seen):
            continue
        why = f"Somebody has removed /run/netns/{name}: it is made again, to undo what is in the namespace."
        made = replace(netns.attach(container.netns, container.pid, why), owner=container.owner, inverts=NO_ROW)
        if is_husk(made.probe, seen):
            yield replace(_clearing(made.probe, made.owner), inverts=NO_ROW)
        if seen.handle(name) is None:
            yield made


def _clearing(handle: Probe, owner: str) -> Step:
    ns = netns_of(handle)
    return replace(netns.clear(ns, f"Removes /run/netns/{ns.name}, which names no namespace any more."), owner=owner)


def _refuse_taken(step: Step, seen: Facts) -> None:
    """Raises NetwrapError if a foreign link or handle has the name that a step would use."""
    if step.probe.kind == "link":
        space, name = seen.space(step.probe.ns), step.probe.key[0]
        if space is not None and space.has_name(name):
            where = f" in {step.probe.ns.name}" if step.probe.ns else ""
            inside = f"-n {step.probe.ns.name} " if step.probe.ns else ""
            raise NetwrapError(
                f"the interface {name!r}{where} exists, and it is not netwrap's",
                f"ip {inside}link show dev {name}  # rename it, then: netwrap repair",
            )
    if step.probe.kind == "netns" and step.probe.key[0] in seen.handles:
        name = step.probe.key[0]
        if seen.handles[name] == NO_NAMESPACE:
            raise NetwrapError(
                f"/run/netns/{name} is no namespace, and it is not netwrap's",
                f"ls -ld /run/netns/{name}  # move it away, then: netwrap repair",
            )
        raise NetwrapError(
            f"/run/netns/{name} is the name of a namespace that is not netwrap's",
            f"ip netns pids {name}  # who uses it? ip netns del {name}, then: netwrap repair",
        )


def again(step: Step, entries: Iterable[Entry], seen: Facts, state: State) -> Step:
    """The step with the command that makes it hold again; `entries` are all steps that should hold, in their order.

    A rule that was appended originally would now come after the DROP at the end of our chain; `ip netns add` would make
    another namespace than the one in use.
    """
    if step.probe.kind == "netns":
        container = state.containers.get(step.probe.key[0])
        if container is not None and container.pid is not None:
            return replace(netns.attach(container.netns, container.pid, step.why), owner=step.owner)
    if step.probe.kind != "rule":
        return step
    table, chain, *words = step.probe.key
    wanted = amiss.order((table, chain), entries)
    place = wanted.index(tuple(words)) if tuple(words) in wanted else len(wanted)
    there = seen.rules.get((table, chain), ())
    before = [n for n, rule in enumerate(there, 1) if any(same_rule(rule, w) for w in wanted[:place])]
    behind = [n for n, rule in enumerate(there, 1) if any(same_rule(rule, w) for w in wanted[place + 1 :])]
    is_appended = "-A" in step.do.argv
    if (is_appended and not behind) or (not is_appended and not before):
        return step
    return _at(min(behind) if behind else max(before) + 1, step)
