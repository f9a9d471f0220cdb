"""What `check` tries: who should reach whom, and who must not. Each trial lists the points that its packets pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations

from netwrap.facts import Facts, Listener
from netwrap.model import Endpoint, Network, PublishedPort, State
from netwrap.shot import Frame, Point, Shot

HOST, OUTSIDE, GATEWAY, LAN = "host", "outside", "gateway of ", "LAN"
ISOLATED = "isolated"
NEIGHBOURS = 2
"""How many neighbours of its network each container calls."""


@dataclass(frozen=True)
class Trial:
    """A row of `check`. `start` and `goal` are places, `way` the points to the goal, `path` the objects passed."""

    source: str
    target: str
    ip: str
    how: str
    start: str = ""
    goal: str | None = ""
    way: tuple[Point, ...] = ()
    path: tuple[str, ...] = ()
    port: PublishedPort | None = None
    containers: tuple[str, ...] = ()
    """Containers that must be alive for it."""
    leads_to: str | None = None
    """The address in the container that a published port leads to."""
    networks: tuple[str, ...] = ()
    frame: Frame | None = None
    passes: tuple[str, str] = ("", "")
    """The host's links between which the packet is forwarded; "" if the host is the start or the end, both ""
    if the packet stays in a bridge."""
    vain: str = ""
    """Why there is nothing to try."""

    @property
    def back(self) -> tuple[Point, ...]:
        """The points that the answer passes."""
        return tuple(point.turned() for point in reversed(self.way))

    @property
    def is_forwarded(self) -> bool:
        """Return whether the host forwards its packets."""
        return all(self.passes)


@dataclass(frozen=True)
class NextHop:
    """The next machine outside, and the link to it; or why there is none, and whether that is a fault."""

    ip: str = ""
    link: str = ""
    why: str = ""
    down: str = ""
    """A link that is down but has an address: the default route was lost with it."""


@dataclass(frozen=True)
class Outside:
    """What to try around the host: the way out and, in a sandbox with a LAN, the machines there."""

    way: NextHop
    lan: tuple[tuple[str, str], ...] = ()
    """Names of namespace handles, each with the address from which it calls this host."""
    link: str = ""
    """The host's link to the LAN."""
    address: str = ""
    """The host's own address on the LAN."""
    internet: str = ""
    """An address beyond the next machine."""
    lan_frame: Frame | None = None
    """The frame in which the first LAN machine sends a packet to the host, for any destination behind the host."""


def next_hop(seen: Facts) -> NextHop:
    """Return the next machine outside: it has no route to containers, and answers them only if they are masqueraded."""
    if seen.way_out is not None:
        if seen.way_out.gateway:
            return NextHop(seen.way_out.gateway, seen.way_out.link)
        return NextHop(why=f"the way out, {seen.way_out.link}, has no next machine to ask")
    for name, link in seen.host.links.items():
        cidr = next((cidr for dev, cidr in sorted(seen.host.addrs) if dev == name and ":" not in cidr), None)
        if not link.up and cidr and link.group == "0" and name != "lo":
            return NextHop(why="this host has no default route", down=f"{name} ({cidr})")
    kind = next((r.kind for r in seen.host.routes if r.dst == "default" and r.table == "main" and r.kind), "")
    return NextHop(why=f"the default route of this host is {kind}" if kind else "this host has no default route")


def trials(state: State, outside: Outside, seen: Facts) -> Iterator[Trial]:
    """Yield trials: container to neighbours, gateway and outside; host to container; ports; what must be blocked."""
    for name, network in state.networks.items():
        there = state.endpoints_of(network=name)
        for n, e in enumerate(there):
            yield _from_host(e, network)
            yield _to_gateway(e, network)
            yield from _to_outside(e, network, outside)
            for other in [there[(n + k) % len(there)] for k in range(1, 1 + min(NEIGHBOURS, len(there) - 1))]:
                if other.container != e.container:
                    yield _to_neighbour(e, other, network)
    for link in state.links:
        for one, two in ((link.a, link.b), (link.b, link.a)):
            yield from _to_linked(state, one, two)
    yield from _to_ports(state, outside)
    yield from _isolation(state, outside, seen)


def wanted(found: Iterable[Trial], names: Iterable[str]) -> list[Trial]:
    """Return the trials that involve one of these containers or networks; all trials if none is named."""
    names = set(names)
    return [t for t in found if not names or names & {*t.containers, *t.networks}]


def _out(e: Endpoint) -> Point:
    return Point(e.container, e.ifname, True)


def _veth(e: Endpoint) -> Point:
    return Point("", e.veth, False)


def _bridge(network: Network) -> Point:
    return Point("", network.bridge, False)


def _leave(e: Endpoint, network: Network) -> tuple[Point, ...]:
    """Return the points from inside a container to the host's side of the bridge."""
    return (_out(e), _veth(e), _bridge(network))


def _enter(e: Endpoint, network: Network) -> tuple[Point, ...]:
    return tuple(point.turned() for point in reversed(_leave(e, network)))


def _place(e: Endpoint) -> tuple[str, ...]:
    return (f"container:{e.container}", e.owner)


def _from_host(e: Endpoint, network: Network) -> Trial:
    path = (network.owner, *_place(e))
    return Trial(
        HOST,
        e.container,
        str(e.ip),
        "ping",
        "",
        e.container,
        _enter(e, network),
        path,
        containers=(e.container,),
        networks=(network.name,),
        passes=("", network.bridge),
    )


def _to_gateway(e: Endpoint, network: Network) -> Trial:
    path = (*_place(e), network.owner)
    return Trial(
        e.container,
        GATEWAY + network.name,
        str(network.gateway),
        "ping",
        e.container,
        "",
        _leave(e, network),
        path,
        containers=(e.container,),
        networks=(network.name,),
        passes=(network.bridge, ""),
    )


def _to_outside(e: Endpoint, network: Network, outside: Outside) -> Iterator[Trial]:
    if not e.default_route or network.internal:
        return
    out = outside.way
    found = Trial(
        e.container,
        OUTSIDE,
        out.ip or "-",
        "ping",
        e.container,
        None,
        (*_leave(e, network), Point("", out.link, True)),
        (*_place(e), network.owner, "host"),
        containers=(e.container,),
        networks=(network.name,),
        passes=(network.bridge, out.link or "-"),
        vain="" if out.link else out.why,
    )
    yield found
    if outside.internet and out.link:
        yield replace(found, target="internet", ip=outside.internet)


def _to_neighbour(one: Endpoint, other: Endpoint, network: Network) -> Trial:
    return Trial(
        one.container,
        other.container,
        str(other.ip),
        "ping",
        one.container,
        other.container,
        (_out(one), _veth(one), _veth(other).turned(), _out(other).turned()),
        (*_place(one), network.owner, *_place(other)),
        containers=(one.container, other.container),
        networks=(network.name,),
    )


def _to_linked(state: State, one: str, two: str) -> Iterator[Trial]:
    here, there = state.networks[one], state.networks[two]
    both = {e.container for e in state.endpoints_of(network=one)} & {
        e.container for e in state.endpoints_of(network=two)
    }
    goals = [e for e in state.endpoints_of(network=two) if e.container not in both]
    starts = [e for e in state.endpoints_of(network=one) if e.container not in both and e.default_route]
    for n, e in enumerate(starts if goals else ()):
        other = goals[n % len(goals)]
        yield Trial(
            e.container,
            other.container,
            str(other.ip),
            "ping",
            e.container,
            other.container,
            (*_leave(e, here), *_enter(other, there)),
            (*_place(e), here.owner, "host", f"link:{min(one, two)}/{max(one, two)}", there.owner, *_place(other)),
            containers=(e.container, other.container),
            networks=(one, two),
            passes=(here.bridge, there.bridge),
        )


def _to_ports(state: State, outside: Outside) -> Iterator[Trial]:
    for p in state.publications:
        (e,) = state.endpoints_of(container=p.container, network=p.network)
        network, port = state.networks[p.network], p.port
        base = Trial(
            HOST,
            f"{p.container} by {port.spec}",
            "127.0.0.1",
            port.protocol,
            "",
            p.container,
            _enter(e, network),
            (p.owner, f"published:{p.network}", "host", network.owner, *_place(e)),
            port,
            (p.container,),
            str(e.ip),
            (p.network,),
            passes=("", network.bridge),
        )
        here = [str(port.host_ip)] if port.host_ip else ["127.0.0.1", *filter(None, [outside.address])]
        yield from (replace(base, ip=ip) for ip in here)
        for name, source in outside.lan:
            ip = here[-1] if not port.host_only else outside.address
            way = (Point("", outside.link, False), *base.way)
            lets_in = not port.host_only and (
                not port.allow_from or any(_is_in(source, str(net)) for net in port.allow_from)
            )
            passes = (outside.link, network.bridge)
            found = replace(base, source=name, ip=ip, start=name, way=way, passes=passes)
            if not lets_in:
                yield replace(found, how=ISOLATED)
            elif port.protocol == "tcp":
                yield found
            else:
                yield replace(found, vain=f"no {port.protocol} can be tried from there without harm to the service")


def _is_in(ip: str, net: str) -> bool:
    return bool(ip) and IPv4Address(ip) in IPv4Network(net)


def _isolation(state: State, outside: Outside, seen: Facts) -> Iterator[Trial]:
    """Yield trials that must not get through: between each two networks that are not linked, in both directions; out of
    internal networks; and from the LAN."""
    for a, b in combinations(state.networks, 2):
        if b not in state.linked_to(a):
            for one, two in ((a, b), (b, a)):
                yield from _apart(state, one, two, seen)
    for name, network in state.networks.items():
        there = state.endpoints_of(network=name)
        if network.internal and there and outside.way.link:
            yield _hostile(there[0], network, OUTSIDE, outside.way.ip, None, (Point("", outside.way.link, True),), seen)
        if there and outside.lan and outside.lan_frame:
            e, (source, _) = there[0], outside.lan[0]
            yield Trial(
                source,
                e.container,
                str(e.ip),
                ISOLATED,
                source,
                e.container,
                (Point("", outside.link, False), *_enter(e, network)),
                ("host", network.owner),
                containers=(e.container,),
                networks=(name,),
                frame=outside.lan_frame,
                passes=(outside.link, network.bridge),
            )


def _apart(state: State, one: str, two: str, seen: Facts) -> Iterator[Trial]:
    starts, goals = state.endpoints_of(network=one), state.endpoints_of(network=two)
    both = {e.container for e in starts} & {e.container for e in goals}
    start = next((e for e in starts if e.container not in both), None)
    goal = next((e for e in goals if e.container not in both), None)
    if start is not None and goal is not None:
        here, there = state.networks[one], state.networks[two]
        found = _hostile(start, here, goal.container, str(goal.ip), goal.container, _enter(goal, there), seen)
        yield replace(
            found,
            passes=(here.bridge, there.bridge),
            path=("host", here.owner, there.owner),
            containers=(start.container, goal.container),
            networks=(one, two),
        )


def _hostile(
    e: Endpoint, network: Network, target: str, ip: str, goal: str | None, rest: tuple[Point, ...], seen: Facts
) -> Trial:
    bridge = seen.host.links.get(network.bridge)
    return Trial(
        e.container,
        target,
        ip,
        ISOLATED,
        e.container,
        goal,
        (*_leave(e, network), *rest),
        ("host", network.owner),
        containers=(e.container,),
        networks=(network.name,),
        passes=(network.bridge, rest[-1].link),
        frame=Frame(e.ifname, e.mac, bridge.mac if bridge else "00:00:00:00:00:00", str(e.ip)),
    )


def shots(trial: Trial, listeners: Iterable[Listener], *, size: int = 64) -> list[Shot]:
    """Return what to send for a trial."""
    if trial.how == ISOLATED:
        if trial.frame is None:  # to a port that is not open to the LAN
            assert trial.port is not None
            kind = "udp" if trial.port.protocol != "tcp" else "tcp"
            return [Shot(kind, trial.start, trial.ip, trial.goal, trial.port.host_port, spoilt=False, once=True)]
        port = min((li.port for li in listeners if li.protocol == "tcp"), default=80)
        return [
            Shot(kind, trial.start, trial.ip, trial.goal, n, frame=trial.frame, once=True)
            for kind, n in (("icmp", 0), ("tcp", port), ("udp", DISCARD))
        ]
    if trial.port is None:
        return [Shot("icmp", trial.start, trial.ip, trial.goal, size=size)]
    ports = heard(trial, listeners)[:PORTS] or [trial.port.host_port]
    return [Shot(trial.port.protocol, trial.start, trial.ip, trial.goal, port) for port in ports]


DISCARD = 9

PORTS = 8
"""How many ports of a range are tried: the first ones on which a program listens."""


def heard(trial: Trial, listeners: Iterable[Listener]) -> list[int]:
    """Return the host ports of a trial that lead to a listening socket in the container."""
    if trial.port is None:
        return []
    port = trial.port
    taken = {
        li.port for li in listeners if li.protocol == port.protocol and (li.ip is None or str(li.ip) == trial.leads_to)
    }
    return [port.host_port + n for n in range(port.count) if port.port + n in taken]
