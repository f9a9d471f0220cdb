"""The tutorial's tests for what stands: which trials there are, and, where one fails, the first hop that breaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import permutations

from netwrap import firewall
from netwrap.drift import jump_of
from netwrap.facts import Facts, Listener, holds
from netwrap.health import is_gone
from netwrap.mend import again
from netwrap.model import Endpoint, PublishedPort, State
from netwrap.steps import Step, shell_line, sysctl
from netwrap.undo import Entry


@dataclass(frozen=True)
class Trial:
    """A ping, or a connection where there is a port; `path` names the objects that a packet meets, in this order."""

    source: str
    target: str
    ip: str
    path: tuple[str, ...]
    port: PublishedPort | None = None
    containers: tuple[str, ...] = ()
    """Who has to be alive for it: the one that asks first, if it is one."""
    leads_to: IPv4Address | None = None
    """The address in the container that a published port leads to."""
    forwarding: tuple[str, ...] = ()
    """The kernel settings without which it does not pass the host."""

    @property
    def asks(self) -> str | None:
        """The container that asks; None is the host."""
        return None if self.source == HOST else self.source


HOST, OUTSIDE, GATEWAY = "host", "outside", "gateway of "

HOPS = {
    "netns": "handle",
    "link": "link",
    "up": "link",
    "mtu": "link",
    "master": "bridge port",
    "hairpin": "bridge port",
    "addr": "address",
    "route": "route",
    "ip rule": "route",
    "sysctl": "forwarding",
    "chain": "rule",
    "rule": "rule",
}
"""What a step is a hop of, by the kind of its probe; the other kinds (keep, flows) carry no packet."""


def trials(state: State, seen: Facts) -> Iterator[Trial]:
    """Each container to each that it may reach, host to each, each to its gateway and outside, each published port."""
    for one, other in permutations(state.endpoints, 2):
        if one.container != other.container and (path := _between(one, other, state)):
            pair = (one.container, other.container)
            forwarding = _forwarding(*(state.networks[e.network].bridge for e in (one, other)))
            yield Trial(*pair, str(other.ip), path, containers=pair, forwarding=forwarding)
    out = seen.way_out
    for e in state.endpoints:
        network, who = state.networks[e.network], (e.container,)
        yield Trial(HOST, e.container, str(e.ip), (network.owner, *_place(e)), containers=who)
        path = (*_place(e), network.owner)
        yield Trial(e.container, GATEWAY + network.name, str(network.gateway), path, containers=who)
        if out and out.gateway and e.default_route:
            # The next machine knows no way to containers, and answers with masquerading only.
            forwarding = _forwarding(network.bridge, out.link)
            yield Trial(e.container, OUTSIDE, out.gateway, (*path, "host"), containers=who, forwarding=forwarding)
    for p in state.publications:
        (e,) = state.endpoints_of(container=p.container, network=p.network)
        path = (p.owner, f"published:{p.network}", "host", f"network:{p.network}", *_place(e))
        ip = str(p.port.host_ip or "127.0.0.1")
        yield Trial(HOST, f"{p.container} by {p.port.spec}", ip, path, p.port, (p.container,), e.ip)


def _forwarding(*links: str) -> tuple[str, ...]:
    """The settings that let packets pass from one link to another and back; none where they stay on one."""
    names = ("all", *links) if len(set(links)) > 1 else ()
    return tuple(sysctl.of_link(name, "forwarding") for name in names)


def _place(endpoint: Endpoint) -> tuple[str, str]:
    """An endpoint behind what it is built upon."""
    return (f"container:{endpoint.container}", endpoint.owner)


def _between(one: Endpoint, other: Endpoint, state: State) -> tuple[str, ...]:
    """The way from one endpoint to another; empty where there is none by design."""
    networks = (f"network:{one.network}", f"network:{other.network}")
    if one.network == other.network:
        return (*_place(one), networks[0], *_place(other))
    for link in state.links:
        if {link.a, link.b} == {one.network, other.network} and not _shares(one, other, state):
            return (*_place(one), networks[0], "host", link.owner, networks[1], *_place(other))
    return ()


def _shares(one: Endpoint, other: Endpoint, state: State) -> bool:
    """Says whether both containers are on the other's network: then they take that way."""
    return any(e.network == other.network for e in state.endpoints_of(container=one.container))


def heard(trial: Trial, listeners: Iterable[Listener]) -> list[int]:
    """The host ports of a trial that lead to a socket of the container."""
    if trial.port is None:
        return []
    taken = {listener.port for listener in listeners if listener.ip in (None, trial.leads_to)}
    return [trial.port.host_port + n for n in range(trial.port.count) if trial.port.port + n in taken]


@dataclass(frozen=True)
class Break:
    """The first hop that breaks: what kind of hop, what is so, and the command that mends it or tells more."""

    hop: str
    broken: str
    mend: str


def missing(trial: Trial, entries: dict[str, list[Entry]], seen: Facts, state: State) -> Break | None:
    """The first hop on a trial's path that is not as netwrap made it; `entries` are all that stand, by owner."""
    for name in trial.containers:
        if is_gone(state.containers[name], seen):
            return Break("process", f"{name} is gone", f"netwrap disconnect {name}")
    for owner in trial.path:
        for entry in entries.get(owner, ()):
            hop = HOPS.get(entry.step.probe.kind) if _is_on_the_way(entry.step, trial) else None
            if hop is not None and holds(entry.step.probe, seen) is False:
                mend = again(entry.step, _in_order(entries), seen, state)
                return Break(hop, f"missing: {entry.step.do.text()}", mend.do.text())
    return None


def _is_on_the_way(step: Step, trial: Trial) -> bool:
    """Says whether a trial needs a step of the objects on its path: of a network's rules, those that let out and those
    between neighbours are for such trials alone; nobody passes lo, nor what turns packets away."""
    if step.probe.kind != "rule":
        return step.probe.key[0] != "lo"
    table, chain, *words = step.probe.key
    turns_away = {"DROP", "REJECT"} & {*words} != set()
    if not step.owner.startswith("network:") or turns_away:
        return not turns_away
    if table == "nat":
        return trial.target == OUTSIDE
    is_between_neighbours = chain != "NETWRAP" and words[0] == "-i"
    return not is_between_neighbours or (len(trial.containers) == 2 and not trial.forwarding)


def _in_order(entries: dict[str, list[Entry]]) -> list[Entry]:
    """All entries in the order of their making."""
    return sorted((entry for found in entries.values() for entry in found), key=lambda entry: entry.order)


def of_others(trial: Trial, entries: dict[str, list[Entry]], seen: Facts, *, listens: bool) -> Break:
    """What breaks a trial and is no step of netwrap's: the service, settings and rules of others, the world outside."""
    if trial.port is not None and not listens:
        name, service = trial.containers[0], trial.port.spec.rpartition(":")[2]
        broken = f"nothing listens on port {service} in {name} ({trial.leads_to})"
        return Break("service", broken, f"netwrap exec {name} -- ss -lntu")
    for key in trial.forwarding:
        if seen.sysctls.get(key) == "0":
            return Break("forwarding", f"{key} is 0", shell_line(("sysctl", f"{key}=1")))
    place, guard = _guard(trial, entries, seen)
    if guard is not None:
        return Break("rule", f"{place} of this host: {guard} ({firewall.by_whom(seen, place)})", f"iptables -S {place}")
    if trial.target == OUTSIDE:
        return Break("outside", f"{trial.ip} does not answer", f"ping -c 1 {trial.ip}  # does it answer this host?")
    return Break("unknown", "each step of netwrap's holds: a rule, a setting or a program of others", "netwrap doctor")


def _guard(trial: Trial, entries: dict[str, list[Entry]], seen: Facts) -> tuple[str, str | None]:
    """The chain of others that a trial passes, and what turns it away there."""
    if trial.target.startswith(GATEWAY):
        return "INPUT", firewall.guard(seen, "INPUT")
    if trial.asks is None:
        return "OUTPUT", firewall.guard(seen, "OUTPUT")
    jump = jump_of(entries.get("host", ()))
    in_front = firewall.turned_away_before(seen, "FORWARD", jump.probe.key[2:]) if jump else None
    return "FORWARD", in_front or firewall.in_nftables(seen, "FORWARD")
