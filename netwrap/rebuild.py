"""Building up again what an operation has taken down: its steps as they were, each rule where it stood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from netwrap import drivers
from netwrap.errors import BadInput
from netwrap.facts import Facts, holds
from netwrap.foresee import after
from netwrap.health import is_gone
from netwrap.mend import again, host_settings, in_place
from netwrap.model import Container, Endpoint, Network, NetworkLink, Publication, State
from netwrap.plan.containers import refuse_full, replies
from netwrap.plan.networks import refuse_overlap
from netwrap.plan.ports import refuse_taken, to_itself
from netwrap.steps import NO_ROW, Object, Plan, Step, conntrack, owned
from netwrap.undo import SHARED, Entry, TakenDown, foundation, has_another, needs, order, spoken, turns_of, whose

_BASES = ("link", "netns", "chain")
"""Kinds of probes of what others are built upon: without it their commands fail."""

_SETTINGS = ("up", "addr", "sysctl", "master", "mtu", "hairpin")
"""Kinds of probes of what is left as it is where it is so already: taking it back is not ours."""


def rebuild(
    title: str, gone: TakenDown, standing: Sequence[Entry], makers: Mapping[str, int], seen: Facts, state: State
) -> Plan:
    """Plans what makes all of it stand again, in the order in which it was made at first.

    `standing` are the steps that stand, `makers` the operations that made what stands. Raises BadInput with the reason
    why it cannot be.
    """
    owners = _coming(gone, makers, state)
    objects = {row: made for row, made in gone.objects.items() if made.owner in owners}
    whole = _with(state, objects.values(), owners)
    _refuse_unfounded(gone.op, owners, standing, makers, seen, whole)
    for made in objects.values():
        _refuse_object(made, seen, state, whole)
    work = _Work(gone, seen, whole, sorted([*standing, *gone.entries], key=lambda e: e.order))
    for owner in order(foundation(owners) - owners - state.owners):
        work.run(owned(owner, _shared(owner, seen, whole)))
    turns = turns_of(gone.entries)
    work.rebuild(sorted((e for e in gone.entries if e.step.owner in owners), key=lambda e: turns[e.id]))
    for network in (made for made in objects.values() if isinstance(made, Network)):
        work.run(owned(network.owner, _told_to_forward(network, seen, gone)))
    for name in sorted({made.container for made in objects.values() if isinstance(made, Endpoint)}):
        work.run(replies(whole.endpoints_of(container=name), whole.container(name), whole))
    for name in sorted({made.container for made in objects.values() if isinstance(made, Endpoint | Publication)}):
        for called in (e for e in whole.endpoints_of(container=name) if whole.ports_of(e)):
            work.run(to_itself(called, whole.endpoints_of(container=name), work.seen, whole))
    return Plan(title, tuple(work.steps), tuple(work.already), restores=tuple(objects))


def _coming(gone: TakenDown, makers: Mapping[str, int], state: State) -> frozenset[str]:
    """The owners that come again: all of them, apart from shared ones that stand, or that nothing needs now.

    Raises BadInput if one of the others stands.
    """
    coming = set(gone.owners)
    for owner in order(gone.owners):
        kind = owner.partition(":")[0]
        if owner in state.owners:
            if kind not in SHARED:
                raise BadInput(f"{spoken(owner)} is there again", "netwrap status")
            coming.discard(owner)
        elif kind in SHARED and needs(owner):
            there = coming | state.owners
            is_stale = any(n not in coming and makers.get(n, 0) > gone.op for n in needs(owner))
            if is_stale or not there.issuperset(needs(owner)) or (kind == "replies" and not has_another(owner, there)):
                coming.discard(owner)
    return frozenset(coming)


def _with(state: State, objects: Iterable[Object], owners: frozenset[str]) -> State:
    """What stands once these objects do."""
    objects = tuple(objects)
    return replace(
        state,
        networks={**state.networks, **{o.name: o for o in _of(Network, objects)}},
        containers={**state.containers, **{o.name: o for o in _of(Container, objects)}},
        endpoints=(*state.endpoints, *_of(Endpoint, objects)),
        publications=(*state.publications, *_of(Publication, objects)),
        links=(*state.links, *_of(NetworkLink, objects)),
        owners=state.owners | owners,
    )


_T = TypeVar("_T", Network, Container, Endpoint, Publication, NetworkLink)


def _of(kind: type[_T], objects: Iterable[Object]) -> Iterator[_T]:
    return (made for made in objects if isinstance(made, kind))


def _refuse_unfounded(
    op: int,
    owners: frozenset[str],
    standing: Iterable[Entry],
    makers: Mapping[str, int],
    seen: Facts,
    whole: State,
) -> None:
    """Raises BadInput if something that it is built upon is gone, made anew, half removed or has drifted."""
    below = foundation(owners)
    for owner in order(below):
        kind, name = owner.partition(":")[::2]
        if owner not in whole.owners and kind not in SHARED - {"container"}:
            raise BadInput(f"{spoken(owner)}, which it needs, is gone", "netwrap log")
        if owner not in owners and kind not in SHARED and makers.get(owner, 0) > op:
            raise BadInput(f"{spoken(owner)}, which it needs, has been made anew since", "netwrap log")
        if owner in whole.half_removed:
            raise BadInput(f"{spoken(owner)}, which it needs, is half removed", "netwrap gc")
        if kind == "container":
            _refuse_gone(whole.container(name), seen)
    for entry in standing:
        if entry.step.owner in below and entry.step.probe.kind in _BASES and holds(entry.step.probe, seen) is False:
            kind, name = whose(entry.step.owner)
            what = f"{spoken(entry.step.owner)}, which it needs, has drifted: missing: {entry.step.do.text()}"
            raise BadInput(what, f"netwrap repair {name if kind in ('network', 'container') else ''}".strip())


def _refuse_gone(container: Container, seen: Facts) -> None:
    name = container.name
    if container.ours and container.pid is None:
        raise BadInput(f"the namespace of {name} went with its handle: no process was in it", "")
    if is_gone(container, seen):
        if container.pid is None:
            raise BadInput(f"the namespace that /run/netns/{name} led to is gone", "")
        found = seen.processes.get(container.pid)
        later = "" if found is None else "; the number is another one's now"
        if found is not None and (found.starttime, container.boot_id) == (container.starttime, seen.boot_id):
            raise BadInput(f"process {container.pid} ({name}) is in another network namespace by now", "")
        raise BadInput(f"process {container.pid} ({name}) has exited{later}", "")


def _refuse_object(made: Object, seen: Facts, state: State, whole: State) -> None:
    """Raises BadInput if another object or something of the host's has its place."""
    if isinstance(made, Network):
        refuse_overlap(made.subnet, seen, state)
    elif isinstance(made, Container):
        for known in state.containers.values():
            if known.name == made.name or (known.boot_id == made.boot_id and known.netns.is_same(made.netns)):
                raise BadInput(f"{made.name} is connected as {known.name!r} by now", f"netwrap disconnect {known.name}")
    elif isinstance(made, Endpoint):
        _refuse_endpoint(made, seen, state, whole)
    elif isinstance(made, Publication):
        endpoint = whole.endpoints_of(container=made.container, network=made.network)[0]
        refuse_taken(made.port, made.port.destination(endpoint.ip), (), seen, state)


def _refuse_endpoint(made: Endpoint, seen: Facts, state: State, whole: State) -> None:
    for other in state.endpoints_of(network=made.network):
        if other.ip == made.ip:
            raise BadInput(f"address {made.ip} is in use by {other.container}", f"netwrap disconnect {other.container}")
        if {other.mac, other.veth_mac} & {made.mac, made.veth_mac}:
            raise BadInput(f"MAC {made.mac} is in use by {other.container}", f"netwrap disconnect {other.container}")
    if made.ip in seen.addresses():
        raise BadInput(f"address {made.ip} is in use by this host", "ip -br addr")
    if seen.host.has_name(made.peer):
        raise BadInput(f"an interface {made.peer!r} is there by now", f"ip link show dev {made.peer}")
    if made.network in state.networks:
        refuse_full(whole.network(made.network), seen)


def _shared(owner: str, seen: Facts, whole: State) -> Iterable[Step]:
    """The steps of a shared object that went later than what needs it now: planned anew."""
    kind, name = owner.partition(":")[::2]
    if kind == "host":
        return drivers.load(next(iter(whole.networks.values())).driver).host(seen)
    if kind == "published":
        network = whole.network(name)
        return drivers.load(network.driver).publishing(network, seen)
    container, network_name = name.split("/")
    driver = drivers.load(whole.network(network_name).driver)
    return driver.hairpin(whole.endpoints_of(container=container, network=network_name)[0])


def _told_to_forward(network: Network, seen: Facts, gone: TakenDown) -> Iterator[Step]:
    """Settings that its bridge needs now, and did not need before: whether the host forwards has changed since."""
    known = {entry.step.probe for entry in gone.entries}
    for step in drivers.load(network.driver).forward(network, seen):
        if step.kind == "sysctl" and step.probe not in known:
            yield step


@dataclass
class _Work:
    """A plan as it grows, and the facts as it leaves them; `order` are all steps, those that come again among them."""

    gone: TakenDown
    seen: Facts
    whole: State
    order: list[Entry]
    steps: list[Step] = field(default_factory=list)
    already: list[str] = field(default_factory=list)

    def run(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self._run(step)

    def rebuild(self, entries: Sequence[Entry]) -> None:
        """Each step again, in the place of its row. What the host's settings are to give back is asked anew: the kernel
        changes some along with others, and they may have changed since."""
        settings = [e for e in entries if e.step.owner == "host" and e.step.do.argv[0] == "sysctl"]
        fresh = host_settings(self.seen, self.whole) if any(e.step.owner == "host" for e in entries) else ()
        rows = {entry.step.probe: entry.id for entry in settings}
        for entry in entries:
            if fresh and entry.step.owner == "host":
                first = settings[0].id if settings else None
                self.run(replace(step, mends=rows.get(step.probe, first)) for step in fresh)
                fresh = ()
            if entry not in settings:
                self._run(replace(entry.step, mends=entry.id))

    def _run(self, step: Step) -> None:
        """One step, unless it is so already. Raises BadInput if somebody has its place."""
        _refuse_place(step, self.seen)
        if step.probe.kind == "flows" and conntrack.TOOL not in self.seen.tools:
            self.already.append(f"conntrack is no longer installed; skipped: {step.do.text()}")
            return
        if step.probe.kind in _SETTINGS and holds(step.probe, self.seen):
            self.already.append(f"it is so already, and stays: {step.do.text()}")
            return
        placed = step
        if step.mends is None:  # planned anew: its row is the last one, so a rule goes where a new one does
            self.order.append(Entry(NO_ROW, self.gone.op, "begun", step))
        else:
            placed = in_place(step, self.gone.chains, self.seen, self.order)
            if placed is step:
                placed = replace(again(step, self.order, self.seen, self.whole), mends=step.mends)
        self.steps.append(placed)
        self.seen = after(self.seen, [placed])


def _refuse_place(step: Step, seen: Facts) -> None:
    probe, space = step.probe, seen.space(step.probe.ns)
    where, inside = (f" in {probe.ns.name}", f"-n {probe.ns.name} ") if probe.ns else ("", "")
    match probe.kind:
        case "link" if space is not None and space.has_name(probe.key[0]):
            raise BadInput(
                f"an interface {probe.key[0]!r} is there{where} by now", f"ip {inside}link show dev {probe.key[0]}"
            )
        case "netns" if probe.key[0] in seen.handles:
            raise BadInput(
                f"/run/netns/{probe.key[0]} is there by now, and it is not netwrap's", f"ip netns pids {probe.key[0]}"
            )
        case "chain" if probe.key in seen.rules:
            table, chain = probe.key
            raise BadInput(
                f"a chain {chain} is there by now in the {table} table", f"iptables -w -t {table} -S {chain}"
            )
        case "route" if space is not None:
            dst, _, table = (*probe.key[2:], "main")[:3]
            if any((route.dst, route.table) == (dst, table) for route in space.routes):
                raise BadInput(
                    f"a route to {dst} is there{where} by now, in table {table}", f"ip {inside}route show table {table}"
                )
        case "ip rule" if space is not None and probe.key in space.policy:
            raise BadInput(f"a rule for packets from {probe.key[0]} is there{where} by now", f"ip {inside}rule show")
