"""The tutorial's tests for what stands: which trials there are, and, where one fails, the first hop that breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from netwrap import firewall
from netwrap.facts import Facts, holds
from netwrap.health import is_gone
from netwrap.model import Endpoint, PublishedPort, State
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
"""What a step is a hop of, by the kind of its probe."""


def trials(state: State, seen: Facts) -> Iterator[Trial]:
    """Each container to each that it may reach, host to each, each to its gateway and outside, each published port."""
    for one, other in permutations(state.endpoints, 2):
        if one.container != other.container and (path := _between(one, other, state)):
            yield Trial(
                one.container, other.container, str(other.ip), path, containers=(one.container, other.container)
            )
    outside = outside_address(seen)
    for e in state.endpoints:
        network, who = state.networks[e.network], (e.container,)
        yield Trial(HOST, e.container, str(e.ip), (network.owner, e.owner), containers=who)
        yield Trial(e.container, GATEWAY + network.name, str(network.gateway), (e.owner, network.owner), containers=who)
        if outside and e.default_route:
            yield Trial(e.container, OUTSIDE, outside, (e.owner, network.owner, "host"), containers=who)
    for p in state.publications:
        place = f"{p.container}/{p.network}"
        path = (p.owner, f"published:{p.network}", "host", f"network:{p.network}", f"endpoint:{place}")
        for ip in [str(p.port.host_ip)] if p.port.host_ip else ["127.0.0.1"]:
            yield Trial(HOST, f"{p.container} by {p.port.spec}", ip, path, p.port, (p.container,))


def outside_address(seen: Facts) -> str | None:
    """The next machine on the way out: it answers with masquerading only, as it knows no way to containers."""
    return next((r.via for r in seen.host.routes if r.dst == "default" and r.via and ":" not in r.via), None)


def _between(one: Endpoint, other: Endpoint, state: State) -> tuple[str, ...]:
    """The way from one endpoint to another; empty where there is none by design."""
    networks = (f"network:{one.network}", f"network:{other.network}")
    if one.network == other.network:
        return (one.owner, networks[0], other.owner)
    for link in state.links:
        if {link.a, link.b} == {one.network, other.network} and not _shares(one, other, state):
            return (one.owner, networks[0], "host", link.owner, networks[1], other.owner)
    return ()


def _shares(one: Endpoint, other: Endpoint, state: State) -> bool:
    """Says whether both containers are on the other's network: then they take that way."""
    return any(e.network == other.network for e in state.endpoints_of(container=one.container))


@dataclass(frozen=True)
class Break:
    """The first hop that breaks: what kind of hop, what is so, and the command that mends it or tells more."""

    hop: str
    broken: str
    mend: str


def missing(trial: Trial, entries: dict[str, list[Entry]], seen: Facts, state: State) -> Break | None:
    """The first hop on a trial's path that is not as netwrap made it."""
    for name in trial.containers:
        if is_gone(state.containers[name], seen):
            return Break("process", f"{name} is gone", f"netwrap disconnect {name}")
    for owner in trial.path:
        for entry in entries.get(owner, ()):
            if holds(entry.step.probe, seen) is False:
                return Break(HOPS[entry.step.probe.kind], f"missing: {entry.step.do.text()}", entry.step.do.text())
    return None


def of_others(trial: Trial, seen: Facts, *, listens: bool) -> Break:
    """What breaks a trial and is no step of netwrap's: the service, the rules of others, the world outside."""
    if trial.port is not None and not listens:
        name, service = trial.containers[0], f"{trial.port.port}/{trial.port.protocol}"
        return Break("service", f"nothing listens on port {service} in {name}", f"netwrap exec {name} -- ss -lntu")
    chain = "INPUT" if trial.target.startswith(GATEWAY) else "FORWARD"
    if guard := firewall.guard(seen, chain):
        return Break("rule", f"{chain} of this host: {guard} ({firewall.by_whom(seen, chain)})", f"iptables -S {chain}")
    if trial.target == OUTSIDE:
        return Break("outside", f"{trial.ip} does not answer", f"ping -c 1 {trial.ip}  # does it answer this host?")
    return Break("unknown", "each step of netwrap's holds: a rule, a setting or a program of others", "netwrap doctor")
