"""Plans published ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from netwrap import drivers, firewall
from netwrap.errors import BadInput, NetwrapError
from netwrap.facts import Facts
from netwrap.model import Endpoint, Publication, PublishedPort, State
from netwrap.plan.common import refuse_down, shared
from netwrap.steps import Plan, Step, conntrack, owned


def publish(endpoint: Endpoint, ports: tuple[PublishedPort, ...], seen: Facts, state: State) -> Plan:
    """Plans ports of an endpoint, with what its network needs for the first of them. Raises BadInput."""
    network = state.network(endpoint.network)
    if network.internal:
        raise BadInput(
            f"network {network.name!r} is internal: its ports cannot be published",
            "netwrap network create NAME  # without --internal",
        )
    refuse_down(network, seen, state)
    if endpoint in state.endpoints and endpoint.veth not in seen.host.links:
        raise NetwrapError(
            f"{endpoint.container} is cut off from {network.name}: its link {endpoint.veth} is gone",
            f"netwrap repair {endpoint.container}",
        )
    driver = drivers.load(network.driver)
    place = f"{endpoint.container}/{endpoint.network}"
    steps = shared(f"published:{network.name}", driver.publishing(network, seen), seen, state)
    steps += shared(f"hairpin:{place}", driver.hairpin(endpoint), seen, state)
    steps += to_itself(endpoint, state.endpoints_of(container=endpoint.container), seen, state)
    publications = []
    for number, port in enumerate(ports):
        refuse_taken(port, port.destination(endpoint.ip), ports[:number], seen, state)
        publication = Publication(endpoint.container, endpoint.network, port)
        steps += owned(publication.owner, driver.publish(endpoint, port, seen))
        publications.append(publication)
    title = f"publish {endpoint.container} {' '.join(p.spec for p in ports)}"
    already: tuple[str, ...] = ()
    if any(p.protocol == "udp" for p in ports) and conntrack.TOOL not in seen.tools:
        already = (
            "conntrack is not installed: clients that have just used this UDP port may be sent to the old destination "
            "for up to three minutes (sudo apt-get install conntrack)",
        )
    return Plan(title, steps, already, tuple(publications), warnings=tuple(_opened(ports, endpoint.ip, seen)))


def to_itself(called: Endpoint, others: Iterable[Endpoint], seen: Facts, state: State) -> tuple[Step, ...]:
    """Plans what lets a container call the ports of one of its endpoints by its other networks. From an internal
    network there is no way there."""
    driver = drivers.load(state.network(called.network).driver)
    steps: tuple[Step, ...] = ()
    for calling in others:
        if calling.network != called.network and not state.network(calling.network).internal:
            owner = f"self:{called.container}/{called.network}/{calling.network}"
            steps += shared(owner, driver.to_itself(called, calling), seen, state)
    return steps


def _opened(ports: tuple[PublishedPort, ...], ip: IPv4Address, seen: Facts) -> Iterator[str]:
    """Warnings about ports: other rules may forward them elsewhere; the host's INPUT rules do not protect them."""
    guard = firewall.guard(seen)
    for port in ports:
        if perhaps := firewall.dnat_perhaps(port, port.destination(ip), seen):
            others = f" and {len(perhaps) - 1} more" if perhaps[1:] else ""
            yield f"{port.spec} may be forwarded elsewhere by a rule that is not netwrap's: {perhaps[0]}{others}"
        if guard and not port.host_only and not port.allow_from:
            who = firewall.by_whom(seen, "INPUT")
            yield (
                f"{port.spec} is open to everybody who reaches this host: INPUT rules do not see forwarded packets "
                f"({guard}; {who}). --allow-from CIDR limits who may use it"
            )


def refuse_taken(
    port: PublishedPort, destination: str, before: tuple[PublishedPort, ...], seen: Facts, state: State
) -> None:
    """Raises BadInput if something else uses a port, or forwards it elsewhere."""
    for publication in state.publications:
        if publication.port.clashes(port):
            raise BadInput(
                f"port {port.said}: {publication.container} publishes {publication.port.spec}",
                f"netwrap unpublish {publication.container} {publication.port.spec}  # or choose another host port",
            )
    if any(port.clashes(other) for other in before):
        raise BadInput(f"port {port.said}: this command publishes a host port twice", "netwrap publish --help")
    if port.host_ip is not None and not port.host_ip.is_loopback and port.host_ip not in seen.addresses():
        raise BadInput(f"port {port.said}: this machine has no address {port.host_ip}", "ip -br addr")
    if port.allow_from and port.host_only:
        raise BadInput(
            f"port {port.said}: only this host can reach {port.host_ip}, so --allow-from has no effect",
            "netwrap publish NAME 8080:80 --allow-from 192.168.50.0/24",
        )
    if rule := firewall.dnat_of_others(port, destination, seen):
        raise BadInput(
            f"port {port.said}: a rule that is not netwrap's forwards it elsewhere: {rule}",
            "iptables-save -t nat  # shows the rule; or choose another host port",
        )
    for listener in seen.listeners:
        taken = PublishedPort(listener.port, listener.port, listener.protocol, 1, listener.ip)
        if port.clashes(taken):
            where = f"{listener.ip or '*'}:{listener.port}/{listener.protocol}"
            raise BadInput(
                f"port {port.said}: a socket of this host listens on {where}",
                f"ss -lnp 'sport = :{listener.port}'  # shows who listens; or choose another host port",
            )
