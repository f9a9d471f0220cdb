"""What makes steps hold again that somebody has undone: their own commands, a rule in its place among ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from netwrap import drivers
from netwrap.errors import NetwrapError
from netwrap.facts import Facts, Rule, holds, renamed, same_rule
from netwrap.foresee import after
from netwrap.health import is_gone
from netwrap.model import Container, State
from netwrap.steps import NO_ROW, Plan, Step, link, netns, owned
from netwrap.undo import Entry


def repair(title: str, entries: Sequence[Entry], seen: Facts, state: State) -> Plan:
    """Plans what makes the entries hold again, in the order of their making; those of containers that are gone are not
    among them. Errors: NetwrapError where somebody else has taken a name of ours."""
    steps = list(_names(entries, seen))
    seen = after(seen, steps)
    replaces: list[int] = []
    settings = [e for e in entries if e.step.owner == "host" and _is_of_another_boot(e, seen)]
    if settings:  # what was on before the last boot says nothing about what is on now
        host = drivers.load(next(iter(state.networks.values())).driver).host(seen)
        fresh = owned("host", (s for s in host if s.do.argv[0] == "sysctl"))
        steps += [replace(step, mends=settings[0].id) for step in fresh]
        replaces += [e.id for e in settings]
    for entry in entries:
        if entry.id in replaces or entry.step.probe.kind == "keep" or holds(entry.step.probe, seen) is not False:
            continue
        _refuse_taken(entry.step, seen)
        step = replace(again(entry.step, entries, seen, state), mends=entry.id)
        steps.append(step)
        replaces.append(entry.id)
        seen = after(seen, [step])
    return Plan(title, tuple(steps), replaces=tuple(replaces))


def _is_of_another_boot(entry: Entry, seen: Facts) -> bool:
    return entry.step.do.argv[0] == "sysctl" and entry.boot != seen.boot_id


def _names(entries: Iterable[Entry], seen: Facts) -> Iterator[Step]:
    """Gives links of ours that somebody has renamed their names back."""
    for step in (entry.step for entry in entries if entry.step.probe.kind == "link"):
        name, mac = step.probe.key
        other, space = renamed(step.probe, seen), seen.space(step.probe.ns)
        if other is not None and space is not None and not space.has_name(name):
            why = f"{name} is called {other.name} by now: it gets its name back, for which it has to be down."
            if other.up:
                yield replace(link.set_down(other.name, mac, why, step.probe.ns), owner=step.owner)
            yield replace(link.rename(other.name, name, mac, why, step.probe.ns), owner=step.owner)


def handles(
    steps: Iterable[Step], standing: Iterable[Entry], containers: Iterable[Container], seen: Facts
) -> Iterator[Step]:
    """Handles of ours that somebody has removed from containers that live: without them no step works in there."""
    names = {step.do.ns.name for step in steps if step.do.ns is not None}
    names &= {entry.step.probe.key[0] for entry in standing if entry.step.probe.kind == "netns"}
    for container in containers:
        name = container.name
        if name not in names or container.pid is None or name in seen.handles or is_gone(container, seen):
            continue
        why = f"/run/netns/{name} was removed by somebody: it is made again, to take back what is in there."
        yield replace(netns.attach(container.netns, container.pid, why), owner=container.owner, inverts=NO_ROW)


def _refuse_taken(step: Step, seen: Facts) -> None:
    """Errors: NetwrapError where a link or handle of another's has the name that a step would make."""
    if step.probe.kind == "link":
        space, name = seen.space(step.probe.ns), step.probe.key[0]
        if space is not None and space.has_name(name):
            where = f" in {step.probe.ns.name}" if step.probe.ns else ""
            inside = f"-n {step.probe.ns.name} " if step.probe.ns else ""
            raise NetwrapError(
                f"an interface {name!r} is there{where}, and it is not netwrap's",
                f"ip {inside}link show dev {name}  # whose is it? rename it, then: netwrap repair",
            )
    if step.probe.kind == "netns" and step.probe.key[0] in seen.handles:
        name = step.probe.key[0]
        raise NetwrapError(
            f"/run/netns/{name} leads to a namespace that is not netwrap's",
            f"ip netns pids {name}  # whose is it? ip netns del {name}, then: netwrap repair",
        )


def again(step: Step, entries: Iterable[Entry], seen: Facts, state: State) -> Step:
    """The step with the command that makes it hold again; `entries` are those that stand, in the order of their making.

    A rule that was appended at first would stand behind the DROP at the end of our chain now; `ip netns add` would make
    another namespace than the one in use.
    """
    if step.probe.kind == "netns":
        container = state.containers.get(step.probe.key[0])
        if container is not None and container.pid is not None:
            return replace(netns.attach(container.netns, container.pid, step.why), owner=step.owner)
    if step.probe.kind != "rule":
        return step
    table, chain, *words = step.probe.key
    wanted = _order((table, chain), entries)
    place = wanted.index(tuple(words)) if tuple(words) in wanted else len(wanted)
    there = seen.rules.get((table, chain), ())
    before = [n for n, rule in enumerate(there, 1) if any(same_rule(rule, w) for w in wanted[:place])]
    behind = [n for n, rule in enumerate(there, 1) if any(same_rule(rule, w) for w in wanted[place + 1 :])]
    is_appended = "-A" in step.do.argv
    if (is_appended and not behind) or (not is_appended and not before):
        return step
    number = min(behind) if behind else max(before) + 1
    argv = list(step.do.argv)
    how = argv.index("-A" if is_appended else "-I")
    argv[how : how + 2] = ["-I", chain, str(number)]
    return replace(step, do=replace(step.do, argv=tuple(argv)))


def _order(place: tuple[str, str], entries: Iterable[Entry]) -> list[Rule]:
    """Our rules of a chain in the order in which they have to stand."""
    rules: list[Rule] = []
    for entry in entries:
        probe = entry.step.probe
        if probe.kind == "rule" and probe.key[:2] == place:
            rules.insert(len(rules) if "-A" in entry.step.do.argv else 0, probe.key[2:])
    return rules
