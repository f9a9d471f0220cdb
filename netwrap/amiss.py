"""Deviations that no step's probe sees: lost marks of links, the MTU of cables, the connected routes of addresses,
the order of our rules. Each is returned as the step that fixes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface

from netwrap import strangers
from netwrap.facts import Facts, Link, Route, Rule, holds, options_of, same_rule
from netwrap.model import LINK_GROUP, State
from netwrap.steps import Step, iptables, link, route
from netwrap.undo import Entry


def drift(entries: Sequence[Entry], seen: Facts, state: State) -> list[tuple[str, str]]:
    """What is wrong although each step holds, as owners with sentences; lost marks are left out, as probes see them."""
    found = [*sizes(entries, seen, state), *connected(entries, seen)]
    moved = [*displaced(entries, seen), *overtaken(entries, seen, state)]
    return [*((step.owner, step.do.text()) for step in found), *((step.owner, step.why) for step in moved)]


def marks(entries: Iterable[Entry], seen: Facts) -> Iterator[Step]:
    """Restores MAC and group of our links, also of renamed ones.

    A cable is recognized by its other end, a bridge by its gateway's address. A MAC alone proves nothing.
    """
    entries = list(entries)
    made = [e.step for e in entries if e.step.kind == "link add"]
    moves = {e.step.owner: e.step for e in entries if e.step.kind == "link netns"}
    addresses = {e.step.probe.key[:2]: e.step.probe.key[2] for e in entries if e.step.probe.kind == "addr"}
    for step in made:
        name, mac = step.probe.key
        move = moves.get(step.owner)
        if move is not None:
            outer, inner = _ends(step, move, seen)
        else:
            gateway = addresses.get((name, mac))
            bridges = (seen.host.links.get(dev) for dev, cidr in seen.host.addrs if cidr == gateway)
            outer, inner = next((li for li in bridges if li is not None and _is_like(li, name, mac)), None), None
        if outer is not None and outer.mac != mac:
            why = f"Somebody has changed the MAC of {outer.name}: restores it."
            yield replace(link.set_address(outer.name, mac, outer.mac, why), owner=step.owner)
        if outer is not None and outer.group != str(LINK_GROUP):
            why = f"{outer.name} is no longer in netwrap's link group, which marks it: puts it back."
            yield replace(link.set_group(outer.name, mac, outer.group, why), owner=step.owner)
        if inner is not None and move is not None and inner.mac != (own := move.probe.key[1]):
            why = f"Somebody has changed the MAC of {inner.name}: restores it, as its neighbours know that one."
            yield replace(link.set_address(inner.name, own, inner.mac, why, move.probe.ns), owner=step.owner)


def _is_like(found: Link, name: str, mac: str) -> bool:
    """Return whether a bridge with our gateway's address has another sign that it is ours."""
    return found.kind == "bridge" and (found.name == name or found.mac == mac or found.group == str(LINK_GROUP))


def _ends(made: Step, move: Step, seen: Facts) -> tuple[Link | None, Link | None]:
    """Both ends of a cable if one of them has our mark, or both are where they belong."""
    inside = seen.space(move.probe.ns)
    for outer in seen.host.links.values():
        for inner in inside.links.values() if inside is not None and outer.kind == "veth" and outer.peer else ():
            if (outer.peer, inner.peer) == (inner.index, outer.index) and inner.kind == "veth":
                marked = (outer.name, outer.mac) == made.probe.key or (inner.name, inner.mac) == move.probe.key
                if marked or (outer.name, inner.name) == (made.probe.key[0], move.probe.key[0]):
                    return outer, inner
    return None, None


def sizes(entries: Iterable[Entry], seen: Facts, state: State) -> Iterator[Step]:
    """Restores the MTU of the network on both ends of cables: with a smaller one large packets are dropped silently."""
    mtus = {e.owner: state.networks[e.network].mtu for e in state.endpoints if e.network in state.networks}
    for step in (e.step for e in entries if e.step.owner in mtus and e.step.kind in ("link add", "link netns")):
        space, (name, mac), mtu = seen.space(step.probe.ns), step.probe.key, mtus[step.owner]
        found = space.links.get(name) if space is not None and holds(step.probe, seen) else None
        if found is not None and found.mtu != mtu:
            why = f"Somebody has set the MTU of {name} to {found.mtu} bytes: its network has {mtu}."
            yield replace(link.resize(name, mac, mtu, found.mtu, why, step.probe.ns), owner=step.owner)


def connected(entries: Iterable[Entry], seen: Facts) -> Iterator[Step]:
    """Adds connected routes again that somebody has removed; the kernel makes them with an address, and removes them
    with it."""
    for step in (e.step for e in entries if e.step.probe.kind == "addr" and e.step.probe.key[0] != "lo"):
        (name, mac, cidr), space = step.probe.key, seen.space(step.probe.ns)
        if space is None or not holds(step.probe, seen) or not space.links[name].up:
            continue
        address = IPv4Interface(cidr)
        if not any((r.dst, r.dev, r.table) == (str(address.network), name, "main") for r in space.routes):
            why = f"Somebody has removed the connected route to {address.network} of {address.ip}."
            where = step.probe.ns
            made = route.add_connected(str(address.network), str(address.ip), name, mac, why, where)
            yield replace(made, owner=step.owner)


def in_the_way(step: Step, seen: Facts) -> Iterator[Step]:
    """Removes a foreign route in the place of one of ours, in a container."""
    there = taken_by(step, seen)
    if there and step.probe.ns is not None:
        dst, table = step.probe.key[2], (*step.probe.key, "main")[4]
        where = () if table == "main" else ("table", table)
        kind = (there[0].kind,) if there[0].kind else ()
        hops = [_hop(r) for r in there]
        ways = hops[0] if len(hops) == 1 else tuple(word for hop in hops for word in ("nexthop", *hop))
        why = f"Somebody has replaced netwrap's route by {' '.join((*kind, dst, *ways))}."
        of = () if len(hops) > 1 else ways
        yield replace(
            route.remove((*kind, dst, *of, *where), (*kind, dst, *ways, *where), why, step.probe.ns), owner=step.owner
        )


def taken_by(step: Step, seen: Facts) -> list[Route]:
    """The route, by its hops, in the place of a step's route: the kernel takes one for each subnet and metric."""
    space = seen.space(step.probe.ns)
    if step.probe.kind != "route" or space is None:
        return []
    wanted = (step.probe.key[2], (*step.probe.key, "main")[4], 0)
    return [r for r in space.routes if (r.dst, r.table, r.metric) == wanted]


def _hop(found: Route) -> tuple[str, ...]:
    via = ("via", found.via) if found.via else ()
    return (*via, "dev", found.dev) if found.dev and not found.kind else via


def order(place: tuple[str, str], entries: Iterable[Entry]) -> list[Rule]:
    """Our rules of a chain in their proper order."""
    rules: list[Rule] = []
    for entry in entries:
        probe = entry.step.probe
        if probe.kind == "rule" and probe.key[:2] == place:
            rules.insert(len(rules) if "-A" in entry.step.do.argv else 0, probe.key[2:])
    return rules


def displaced(entries: Sequence[Entry], seen: Facts) -> Iterator[Step]:
    """Deletes those of our rules that are out of order, as few as possible: they are added again in their places, as
    steps that no longer hold. A DROP before an ACCEPT lets nothing in; after it, everything."""
    rules = {e.step.probe.key: e.step for e in entries if e.step.probe.kind == "rule"}
    for place in dict.fromkeys((key[0], key[1]) for key in rules):
        ranks = {options_of(rule): n for n, rule in enumerate(order(place, entries))}
        there = dict.fromkeys(options_of(rule) for rule in seen.rules.get(place, ()))
        found = [rule for rule in there if rule in ranks]
        stays = _longest_run([ranks[rule] for rule in found])
        numbers = {options_of(rule): n for n, rule in reversed(list(enumerate(seen.rules.get(place, ()), 1)))}
        for key, step in rules.items():
            rule = options_of(key[2:])
            if key[:2] == place and rule in there and ranks[rule] not in stays:
                why = f"out of order in {place[1]} ({place[0]}): {step.do.text()}"
                yield replace(iptables.take_out(*place, key[2:], numbers[rule], why), owner=step.owner)


def overtaken(entries: Sequence[Entry], seen: Facts, state: State) -> Iterator[Step]:
    """Deletes those of our rules that follow a foreign rule which accepts what ours drop or reject: they are added
    again before it."""
    for step, fate in {step.probe: (step, fate) for step, fate in strangers.in_front(entries, seen, state)}.values():
        (table, chain, *rule), there = step.probe.key, seen.rules[step.probe.key[0], step.probe.key[1]]
        number = next(n for n, other in enumerate(there, 1) if same_rule(other, tuple(rule)))
        why = f"{strangers.line(fate)} comes before it: {step.do.text()}"
        yield replace(iptables.take_out(table, chain, tuple(rule), number, why), owner=step.owner)


def _longest_run(numbers: Sequence[int]) -> set[int]:
    """The longest increasing subsequence of the numbers (patience sorting)."""
    heads: list[int] = []
    piles: list[int] = []
    for number in numbers:
        pile = bisect_left(heads, number)
        heads[pile:] = [number] if pile == len(heads) else [number, *heads[pile + 1 :]]
        piles.append(pile)
    run: set[int] = set()
    wanted = len(heads) - 1
    for number, pile in zip(reversed(numbers), reversed(piles), strict=True):
        if pile == wanted and (not run or number < min(run)):
            run.add(number)
            wanted -= 1
    return run
