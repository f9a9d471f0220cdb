"""Which connections the kernel has to forget with ports and addresses: they outlive the rules that they began under."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from netwrap.facts import Facts
from netwrap.model import Endpoint, Network, Publication, State
from netwrap.steps import NO_ROW, Plan, Step, conntrack, neigh, owned

PORT_BY_PORT = 256
"""conntrack(8) has no ranges. For a longer range, all published ports of its protocol and container are forgotten."""


def forget(plan: Plan, going: Collection[str], seen: Facts, state: State) -> Plan:
    """The plan of a teardown with further steps at its end, which forget the connections of the removed objects.

    These steps are not in the journal: there is nothing to undo, and whoever completes a teardown plans them again.
    """
    released = [e for e in state.endpoints if e.owner in going]
    closed = [p for p in state.publications if p.owner in going and _endpoint(p, state) not in released]
    if not released and not closed:
        return plan
    if conntrack.TOOL not in seen.tools:
        return _not_installed(plan, released, closed)
    steps = [step for n in state.networks.values() for step in _of_network(n, released, closed, going, state)]
    return replace(plan, steps=(*plan.steps, *(replace(step, inverts=NO_ROW) for step in steps)))


def lets_connect(step: Step) -> bool:
    """Return whether connections may exist because of a step: it adds an address or a rule."""
    return step.probe.kind in ("addr", "rule")


def _not_installed(plan: Plan, released: list[Endpoint], closed: list[Publication]) -> Plan:
    hint = "conntrack is not installed (sudo apt-get install conntrack)"
    if closed:
        specs = ", ".join(p.port.spec for p in closed)
        plan = replace(plan, warnings=(*plan.warnings, f"{hint}: open connections through {specs} continue"))
    if released:
        ips = ", ".join(str(e.ip) for e in released)
        plan = replace(plan, already=(*plan.already, f"{hint}: packets for {ips} may reach its next owner"))
    return plan


def _of_network(
    network: Network, released: list[Endpoint], closed: list[Publication], going: Collection[str], state: State
) -> Iterator[Step]:
    endpoints = state.endpoints_of(network=network.name)
    gone = [e for e in endpoints if e in released]
    if len(gone) > 1 and network.owner in going:
        yield from _of_all(network, gone, state)
    else:
        for endpoint in gone:
            yield from owned(endpoint.owner, _of_address(endpoint))
            if network.owner not in going:
                why = f"Drops packets that wait for {endpoint.ip}: its next owner would get them."
                yield from owned(endpoint.owner, [neigh.forget(endpoint.ip, network.bridge, why)])
    for endpoint in endpoints:
        ports = [p for p in closed if _endpoint(p, state) == endpoint]
        for protocol in dict.fromkeys(p.port.protocol for p in ports):
            yield from _of_ports(endpoint, [p for p in ports if p.port.protocol == protocol], state)


def _endpoint(publication: Publication, state: State) -> Endpoint:
    (found,) = state.endpoints_of(container=publication.container, network=publication.network)
    return found


def _of_address(endpoint: Endpoint) -> Iterator[Step]:
    ip, name = endpoint.ip, endpoint.container
    yield conntrack.forget_from(
        ip, f"Forgets connections from {ip}: replies to {name} must not reach the next owner of {ip}."
    )
    yield conntrack.forget_reached(ip, f"Forgets connections to {name} at {ip}, direct or through a published port.")


def _of_all(network: Network, gone: list[Endpoint], state: State) -> Iterator[Step]:
    """For a whole network: two commands for all containers, and one for each that has published a port."""
    subnet, name = network.subnet, network.name
    why = f"{name} is removed: replies to {subnet} must not reach the next owners of its addresses."
    steps = [conntrack.forget_from(subnet, why)]
    steps.append(conntrack.forget_into(subnet, f"Forgets connections to addresses of {subnet}."))
    for endpoint in gone:
        if state.ports_of(endpoint):
            why = f"Forgets connections to {endpoint.container} through published ports."
            steps.append(conntrack.forget_reached(endpoint.ip, why))
    yield from owned(gone[0].owner, steps)


def _of_ports(endpoint: Endpoint, closed: list[Publication], state: State) -> Iterator[Step]:
    """For ports of one protocol whose container stays: port by port, or all at once if no other port is left."""
    protocol = closed[0].port.protocol
    standing = [p for p in state.ports_of(endpoint) if p.protocol == protocol]
    count, ip = sum(p.port.count for p in closed), endpoint.ip
    if count > PORT_BY_PORT or (count > 1 and len(standing) == len(closed)):
        named = ", ".join(p.port.spec for p in closed)
        why = f"Ends connections through {named}: the kernel applies nat rules to their first packet only."
        yield from owned(closed[0].owner, [conntrack.forget_published(protocol, None, None, ip, why)])
        return
    for found in closed:
        port = found.port
        why = f"Ends connections through {port.spec}: the kernel applies nat rules to their first packet only."
        numbers = range(port.host_port, port.host_port + port.count)
        steps = [conntrack.forget_published(protocol, port.host_ip, number, ip, why) for number in numbers]
        yield from owned(found.owner, steps)
