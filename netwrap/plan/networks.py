"""Plans networks and the links between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from netwrap import drivers
from netwrap.errors import BadInput, quoted
from netwrap.facts import Facts
from netwrap.ipam import free_subnet
from netwrap.model import Network, NetworkLink, State, bridge_name, usable
from netwrap.plan import leftovers
from netwrap.plan.common import refuse_down, shared
from netwrap.steps import Plan, conntrack, owned


@dataclass(frozen=True)
class NetworkWish:
    """A request to create a network: None is "choose for me"; mtu in bytes."""

    name: str
    driver: str = "bridge"
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    mtu: int | None = None
    internal: bool = False
    typed: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What the user typed for a field, if that differs from its value as text."""

    def said(self, name: str, value: object) -> str:
        """A field's value as the user typed it, in quotes; without quotes if netwrap has chosen it."""
        return quoted(self.typed[name]) if name in self.typed else str(value)


def network_create(wish: NetworkWish, seen: Facts, state: State) -> Plan:
    """Plans a network, with the host's own settings if it is the first. Raises BadInput."""
    driver = drivers.load(wish.driver)
    network = _network(wish, seen, state)
    steps = owned(network.owner, driver.create(network, seen))
    already: tuple[str, ...] = ()
    host = shared("host", driver.host(seen), seen, state)
    steps += host
    if "host" not in state.owners and not any(s.kind == "sysctl" for s in host):
        already = ("forwarding is already on: netwrap does not change it, and leaves it on",)
    steps += owned(network.owner, driver.forward(network, seen))
    leftovers.refuse(network, steps, seen, state)
    _refuse_taken(network, wish.said("subnet", network.subnet), seen, state)
    return Plan(f"network create {network.name}", steps, already, (network,))


def network_link(names: tuple[str, str], seen: Facts, state: State) -> Plan:
    """Plans a link: the containers of two networks can reach each other. Raises BadInput, NetwrapError."""
    one, other = sorted((state.network(name) for name in names), key=lambda n: n.name)
    if one == other:
        raise BadInput(f"network {one.name!r} cannot be linked to itself", "netwrap network link A B")
    if other.name in state.linked_to(one.name):
        raise BadInput(f"{one.name} and {other.name} are already linked", f"netwrap network inspect {one.name}")
    for network in (one, other):
        refuse_down(network, seen, state)
        if network.internal:
            raise BadInput(
                f"network {network.name!r} is internal: it cannot be linked",
                "netwrap network create NAME  # without --internal",
            )
        if network.driver != one.driver:
            raise BadInput(
                f"{one.name} uses driver {one.driver}, {network.name} uses {network.driver}: they cannot be linked",
                "netwrap network list",
            )
    link = NetworkLink(one.name, other.name)
    steps = owned(link.owner, drivers.load(one.driver).link(one, other, seen))
    warnings: tuple[str, ...] = ()
    if conntrack.TOOL not in seen.tools:
        warnings = (
            f"conntrack is not installed: connections between {one.name} and {other.name} that are open when the "
            "networks are unlinked stay open (sudo apt-get install conntrack)",
        )
    return Plan(f"network link {one.name} {other.name}", steps, makes=(link,), warnings=warnings)


def _network(wish: NetworkWish, seen: Facts, state: State) -> Network:
    if wish.name in state.networks:
        raise BadInput(f"network {quoted(wish.name)} exists", f"netwrap network inspect {wish.name}")
    subnet = wish.subnet or free_subnet(
        [net for net, _ in seen.occupied()] + [n.subnet for n in state.networks.values()]
    )
    gateway = wish.gateway or subnet.network_address + 1
    if not usable(subnet, gateway):
        raise BadInput(
            _no_gateway(wish, gateway, subnet),
            f"netwrap network create --subnet {subnet} --gateway {subnet.network_address + 1} {wish.name}",
        )
    if wish.ip_range is not None and not wish.ip_range.subnet_of(subnet):
        raise BadInput(
            f"range {wish.said('ip_range', wish.ip_range)} is not inside {wish.said('subnet', subnet)}",
            f"netwrap network create --subnet {subnet} --ip-range {next(subnet.subnets())} {wish.name}",
        )
    if wish.ip_range is not None and all(ip == gateway or not usable(subnet, ip) for ip in islice(wish.ip_range, 4)):
        raise BadInput(
            f"range {wish.said('ip_range', wish.ip_range)} has no address for a container",
            f"netwrap network create --subnet {subnet} {wish.name}",
        )
    mtu = wish.mtu if wish.mtu is not None else seen.default_mtu()
    if not 68 <= mtu <= 65535:
        raise BadInput(f"MTU {mtu} is not valid (68-65535)", f"netwrap network create --mtu 1500 {wish.name}")
    return Network(wish.name, wish.driver, subnet, gateway, bridge_name(wish.name), mtu, wish.internal, wish.ip_range)


def _no_gateway(wish: NetworkWish, gateway: IPv4Address, subnet: IPv4Network) -> str:
    """What is wrong with the gateway, given by itself or by the host bits of the subnet."""
    said = wish.said("subnet", subnet)
    if "gateway" in wish.typed:
        return f"gateway {quoted(wish.typed['gateway'])} is not a host address in {said}"
    return f"subnet {said}: its gateway {gateway} is not a host address"


def _refuse_taken(network: Network, named: str, seen: Facts, state: State) -> None:
    bridge = network.bridge
    if seen.host.has_name(bridge):
        raise BadInput(
            f"interface {quoted(bridge)} already exists, and it is not netwrap's",
            f"ip link show dev {bridge}  # shows it; or choose another name",
        )
    refuse_overlap(network.subnet, seen, state, named)


def refuse_overlap(subnet: IPv4Network, seen: Facts, state: State, named: str = "") -> None:
    """Raises BadInput if another network, or the machine itself, uses addresses of a subnet."""
    own = [(n.subnet, f"network {n.name!r} ({n.subnet})") for n in state.networks.values()]
    for net, where in own + seen.occupied():
        if subnet.overlaps(net):
            raise BadInput(
                f"subnet {named or subnet} overlaps {where}; the kernel would accept it and misroute packets",
                "netwrap network create NAME  # without --subnet a free one is chosen",
            )
