"""From a wish, the facts and what stands, to a Plan. Everything is checked here, before the first change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from netwrap import drivers
from netwrap.errors import BadInput, NetwrapError
from netwrap.facts import Facts, Space, holds
from netwrap.ipam import free_subnet, next_address
from netwrap.model import (
    Container,
    Endpoint,
    Network,
    Publication,
    PublishedPort,
    State,
    bridge_name,
    digest,
    is_name,
    mac_of,
    usable,
)
from netwrap.steps import Plan, Step, netns, owned


@dataclass(frozen=True)
class NetworkWish:
    """`network create`: None is "choose for me"; mtu in bytes."""

    name: str
    driver: str = "bridge"
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    mtu: int | None = None
    internal: bool = False


@dataclass(frozen=True)
class ConnectWish:
    """`connect` a process (pid) or a namespace (netns), or `run` in a new one where both are None."""

    network: str
    pid: int | None = None
    netns: str | None = None
    name: str | None = None
    ip: IPv4Address | None = None
    mac: str | None = None
    ifname: str | None = None
    ports: tuple[PublishedPort, ...] = ()


def network_create(wish: NetworkWish, seen: Facts, state: State) -> Plan:
    """Plans a network, and the host's part where it is the first. Errors: BadInput."""
    driver = drivers.load(wish.driver)
    network = _network(wish, seen, state)
    steps = owned(network.owner, driver.create(network, seen))
    already: tuple[str, ...] = ()
    steps += _shared("host", driver.host(seen), seen, state)
    if "host" not in state.owners and not any(s.kind == "sysctl" for s in steps):
        already = ("forwarding is on already; it stays as it is, also afterwards",)
    steps += owned(network.owner, driver.forward(network, seen))
    _refuse_existing_chains(steps, seen)
    return Plan(f"network create {network.name}", steps, already, (network,))


def _shared(owner: str, steps: Iterable[Step], seen: Facts, state: State) -> tuple[Step, ...]:
    """The steps of a shared object; where it stands, those that do not hold: a teardown that failed left the rest."""
    return owned(owner, (s for s in steps if owner not in state.owners or holds(s.probe, seen) is False))


def _network(wish: NetworkWish, seen: Facts, state: State) -> Network:
    if wish.name in state.networks:
        raise BadInput(f"network {wish.name!r} exists", f"netwrap network inspect {wish.name}")
    bridge = bridge_name(wish.name)
    if seen.host.has_name(bridge):
        raise BadInput(
            f"an interface {bridge!r} is there already, and it is not netwrap's",
            f"ip link show dev {bridge}  # whose is it? choose another name",
        )
    subnet = wish.subnet or free_subnet(
        [net for net, _ in seen.occupied()] + [n.subnet for n in state.networks.values()]
    )
    _refuse_overlap(subnet, seen, state)
    gateway = wish.gateway or subnet.network_address + 1
    if not usable(subnet, gateway):
        raise BadInput(
            f"gateway {gateway} is no host's address in {subnet}",
            f"netwrap network create --subnet {subnet} --gateway {subnet.network_address + 1} {wish.name}",
        )
    if wish.ip_range is not None and not wish.ip_range.subnet_of(subnet):
        raise BadInput(
            f"range {wish.ip_range} is not inside {subnet}",
            f"netwrap network create --subnet {subnet} --ip-range {next(subnet.subnets())} {wish.name}",
        )
    if wish.ip_range is not None and all(ip == gateway or not usable(subnet, ip) for ip in islice(wish.ip_range, 4)):
        raise BadInput(
            f"range {wish.ip_range} has no address for a container",
            f"netwrap network create --subnet {subnet} {wish.name}",
        )
    mtu = wish.mtu if wish.mtu is not None else seen.default_mtu()
    if not 68 <= mtu <= 65535:
        raise BadInput(f"MTU {mtu} is not from 68 to 65535", f"netwrap network create --mtu 1500 {wish.name}")
    return Network(wish.name, wish.driver, subnet, gateway, bridge, mtu, wish.internal, wish.ip_range)


def _refuse_overlap(subnet: IPv4Network, seen: Facts, state: State) -> None:
    own = [(n.subnet, f"network {n.name!r} ({n.subnet})") for n in state.networks.values()]
    for net, where in own + seen.occupied():
        if subnet.overlaps(net):
            raise BadInput(
                f"subnet {subnet} overlaps {where}; the kernel would take it and send packets astray",
                "netwrap network create NAME  # without --subnet a free one is chosen",
            )


def _refuse_existing_chains(steps: Iterable[Step], seen: Facts) -> None:
    for step in steps:
        if step.kind == "chain" and step.probe.key in seen.rules:
            table, chain = step.probe.key
            raise BadInput(
                f"a chain {chain} is there already in the {table} table, and not by this state",
                f"iptables -w -t {table} -S {chain}  # what is in it; netwrap --state-dir DIR finds its state",
            )


def connect(wish: ConnectWish, seen: Facts, state: State, made: Container | None = None) -> Plan:
    """Plans one container's place on a network, with its ports; `made` is a new one whose handle is there already.

    Errors: BadInput, NetwrapError.
    """
    network = state.network(wish.network)
    _refuse_down(network, seen)
    taken = {e.ip for e in state.endpoints_of(network=network.name)} | {network.gateway} | seen.addresses()
    ip = _address(wish, network, taken, state)
    container, is_new = (made, True) if made else _container(wish, ip, seen, state)
    space = seen.space(container.netns) if container.inode else Space()
    endpoint = _endpoint(wish, network, container, space or Space(), ip, seen, state)

    driver = drivers.load(network.driver)
    steps: tuple[Step, ...] = ()
    if is_new and container.ours and not made:
        steps += owned(container.owner, (_handle(container),))
    steps += owned(endpoint.owner, driver.connect(network, endpoint, container, seen))
    already: tuple[str, ...] = ()
    if not endpoint.default_route:
        already = (f"{container.name} gets no default route by {network.name}",)
    makes = (container, endpoint) if is_new else (endpoint,)
    plan = Plan(f"connect {container.name} to {network.name}", steps, already, makes)
    if not wish.ports:
        return plan
    published = publish(endpoint, wish.ports, seen, state)
    return replace(plan, steps=steps + published.steps, makes=plan.makes + published.makes)


def publish(endpoint: Endpoint, ports: tuple[PublishedPort, ...], seen: Facts, state: State) -> Plan:
    """Plans ports of an endpoint, with what its network needs for the first of them. Errors: BadInput."""
    network = state.network(endpoint.network)
    if network.internal:
        raise BadInput(
            f"network {network.name!r} is internal: it publishes nothing",
            "netwrap network create NAME, without --internal",
        )
    driver = drivers.load(network.driver)
    place = f"{endpoint.container}/{endpoint.network}"
    steps = _shared(f"published:{network.name}", driver.publishing(network, seen), seen, state)
    steps += _shared(f"hairpin:{place}", driver.hairpin(endpoint), seen, state)
    publications = []
    for number, port in enumerate(ports):
        _refuse_taken(port, ports[:number], seen, state)
        publication = Publication(endpoint.container, endpoint.network, port)
        steps += owned(publication.owner, driver.publish(endpoint, port))
        publications.append(publication)
    title = f"publish {endpoint.container} {' '.join(p.spec for p in ports)}"
    return Plan(title, steps, makes=tuple(publications))


def _refuse_down(network: Network, seen: Facts) -> None:
    if network.bridge not in seen.host.links:
        raise NetwrapError(
            f"network {network.name!r} is down: its bridge {network.bridge} is gone",
            f"netwrap network remove --force {network.name}, then create it again",
        )


def _address(wish: ConnectWish, network: Network, taken: set[IPv4Address], state: State) -> IPv4Address:
    if wish.ip is None:
        return next_address(network.subnet, taken, state.last.get(network.name), network.ip_range)
    hint = f"netwrap connect --net {network.name} --pid PID  # without --ip a free address is chosen"
    if not usable(network.subnet, wish.ip):
        raise BadInput(f"address {wish.ip} is no host's address in {network.subnet}", hint)
    if wish.ip == network.gateway:
        raise BadInput(f"address {wish.ip} is the gateway of {network.name}", hint)
    for endpoint in state.endpoints_of(network=network.name):
        if endpoint.ip == wish.ip:
            raise BadInput(f"address {wish.ip} is in use by {endpoint.container}", hint)
    if wish.ip in taken:
        raise BadInput(f"address {wish.ip} is in use by this host", hint)
    return wish.ip


def _container(wish: ConnectWish, ip: IPv4Address, seen: Facts, state: State) -> tuple[Container, bool]:
    """The container that a wish means, and whether it is a new one."""
    if wish.pid is not None:
        found = _by_pid(wish.pid, wish.name, seen)
    elif wish.netns is not None:
        found = _by_netns(wish.netns, wish.name, seen)
    else:
        name = wish.name or f"c-{digest(seen.boot_id, wish.network, ip)}"
        found = Container(name, 0, ours=True, boot_id=seen.boot_id, started=True)
    if found.inode and found.inode == seen.inode:
        what = f"process {wish.pid}" if wish.pid else f"namespace {wish.netns!r}"
        raise BadInput(
            f"{what} lives in the host's own network namespace",
            f"netwrap run --net {wish.network} -- COMMAND  # or start the process with: unshare --net COMMAND",
        )
    for known in state.containers.values():
        if _is_same(found, known):
            if known.ours and seen.handles.get(known.name) != known.inode:
                raise BadInput(
                    f"{known.name} is half gone: /run/netns/{known.name} is not its namespace any more",
                    f"netwrap disconnect {known.name}",
                )
            if wish.name not in (None, known.name):
                raise BadInput(
                    f"name {wish.name!r}: this process is connected as {known.name!r} already",
                    f"netwrap disconnect {known.name}  # or leave --name out",
                )
            return known, False
    if found.name in state.containers:
        raise BadInput(
            f"a container {found.name!r} exists", f"netwrap disconnect {found.name}  # or choose another --name"
        )
    if found.ours and found.name in seen.handles:
        raise BadInput(
            f"a namespace {found.name!r} is there already in /run/netns, and it is not netwrap's",
            f"netwrap connect --netns {found.name} --net {wish.network}  # or choose another --name",
        )
    return found, True


def _is_same(found: Container, known: Container) -> bool:
    """Says whether both are one container: by namespace, or by process where the namespace cannot be seen."""
    if found.boot_id != known.boot_id:
        return False
    if found.inode:
        return found.inode == known.inode
    return found.pid is not None and (found.pid, found.starttime) == (known.pid, known.starttime)


def _by_pid(pid: int, name: str | None, seen: Facts) -> Container:
    process = seen.processes.get(pid)
    if process is None:
        raise BadInput(f"no process {pid}", "ps -e")
    if process.tgid != pid:
        raise BadInput(f"{pid} is a thread of process {process.tgid}", f"netwrap connect --pid {process.tgid} …")
    name = name or f"c-{digest(seen.boot_id, pid, process.starttime)}"
    return Container(name, process.inode, True, pid, process.starttime, seen.boot_id)


def _by_netns(handle: str, name: str | None, seen: Facts) -> Container:
    if handle not in seen.handles or not is_name(handle):
        raise BadInput(f"no namespace {handle!r} in /run/netns", "ip netns list")
    if name not in (None, handle):
        raise BadInput(
            f"name {name!r}: with --netns the container is called {handle!r}",
            f"netwrap connect --netns {handle} --net NETWORK",
        )
    return Container(handle, seen.handles[handle], ours=False, boot_id=seen.boot_id)


def _handle(container: Container) -> Step:
    if container.pid is None:
        return netns.add(
            container.netns, f"A network namespace of its own for {container.name}: no link, no route yet."
        )
    return netns.attach(
        container.netns,
        container.pid,
        f"Process {container.pid}'s network namespace gets the name {container.name}. The tutorial's link to "
        f"/proc/{container.pid}/ns/net would dangle when the process ends, and lead astray when its number is reused.",
    )


def _endpoint(
    wish: ConnectWish, network: Network, container: Container, space: Space, ip: IPv4Address, seen: Facts, state: State
) -> Endpoint:
    others = state.endpoints_of(container=container.name)
    if any(e.network == network.name for e in others):
        raise BadInput(
            f"{container.name} is connected to {network.name} already",
            f"netwrap disconnect {container.name} --net {network.name}",
        )
    macs = _macs(network, state)
    mac = _mac(wish, ip, macs)
    veth_mac = next(m for n in range(60) if (m := mac_of("veth", ip, n)) not in macs and m != mac)
    has_default = any(r.dst == "default" and r.table == "main" for r in space.routes)
    suffix = next(s for s in _suffixes(network.name, ip) if not _is_taken(s, seen))
    return Endpoint(
        container.name,
        network.name,
        ip,
        mac,
        _ifname(wish, container, space, others),
        f"veth{suffix}",
        veth_mac,
        f"peer{suffix}",
        default_route=not (network.internal or has_default or any(e.default_route for e in others)),
    )


def _macs(network: Network, state: State) -> dict[str, str]:
    """The MACs on a network's bridge, and whose they are."""
    taken = {mac: e.container for e in state.endpoints_of(network=network.name) for mac in (e.mac, e.veth_mac)}
    return taken | {mac_of("bridge", network.gateway): f"the bridge {network.bridge}"}


def _mac(wish: ConnectWish, ip: IPv4Address, taken: dict[str, str]) -> str:
    if wish.mac is None:
        return next(mac for n in range(60) if (mac := mac_of("container", ip, n)) not in taken)
    if wish.mac in taken:
        raise BadInput(
            f"MAC {wish.mac} is in use by {taken[wish.mac]}",
            f"netwrap connect --net {wish.network} --pid PID  # without --mac one is chosen",
        )
    return wish.mac


def _suffixes(network: str, ip: IPv4Address) -> Iterator[str]:
    return (digest(network, ip, attempt, length=7) for attempt in range(1000))


def _is_taken(suffix: str, seen: Facts) -> bool:
    return seen.host.has_name(f"veth{suffix}") or seen.host.has_name(f"peer{suffix}")


def _ifname(wish: ConnectWish, container: Container, space: Space, others: tuple[Endpoint, ...]) -> str:
    taken = {e.ifname for e in others}
    if wish.ifname is None:
        return next(f"eth{n}" for n in range(10_000) if f"eth{n}" not in taken and not space.has_name(f"eth{n}"))
    if wish.ifname in taken or space.has_name(wish.ifname):
        raise BadInput(
            f"{container.name} has an interface {wish.ifname!r} already",
            f"netwrap connect --net {wish.network} --pid PID  # without --ifname one is chosen",
        )
    return wish.ifname


def _refuse_taken(port: PublishedPort, before: tuple[PublishedPort, ...], seen: Facts, state: State) -> None:
    for publication in state.publications:
        if publication.port.clashes(port):
            raise BadInput(
                f"port {port.spec}: {publication.container} publishes {publication.port.spec}",
                f"netwrap unpublish {publication.container} {publication.port.spec}  # or choose another host port",
            )
    if any(port.clashes(other) for other in before):
        raise BadInput(f"port {port.spec}: two ports of this command are for one host port", "netwrap publish --help")
    if port.host_ip is not None and not port.host_ip.is_loopback and port.host_ip not in seen.addresses():
        raise BadInput(f"port {port.spec}: this machine has no address {port.host_ip}", "ip -br addr")
    for listener in seen.listeners:
        taken = PublishedPort(listener.port, listener.port, listener.protocol, 1, listener.ip)
        if port.clashes(taken):
            where = f"{listener.ip or '*'}:{listener.port}/{listener.protocol}"
            raise BadInput(
                f"port {port.spec}: a socket of this host listens on {where}",
                f"ss -lnp 'sport = :{listener.port}'  # who listens; or choose another host port",
            )
