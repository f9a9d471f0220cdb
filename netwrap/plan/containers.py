"""Plans a container's place on a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import count

from netwrap import drivers
from netwrap.errors import BadInput, NetwrapError, quoted
from netwrap.facts import HUSK, NO_NAMESPACE, Facts, Space
from netwrap.ipam import next_address
from netwrap.model import Container, Endpoint, Network, PublishedPort, State, digest, is_name, mac_of, usable
from netwrap.plan.common import refuse_down
from netwrap.plan.ports import publish, to_itself
from netwrap.steps import Plan, Step, netns, owned

BRIDGE_PORTS = 1023
"""The most ports that a bridge can have: BR_MAX_PORTS in net/bridge/br_private.h of the kernel, without port 0."""


@dataclass(frozen=True)
class ConnectWish:
    """A request to `connect` a process (pid) or a namespace (netns), or to `run` in a new one if both are None."""

    network: str
    pid: int | None = None
    netns: str | None = None
    name: str | None = None
    ip: IPv4Address | None = None
    mac: str | None = None
    mac_typed: str | None = field(default=None, compare=False)
    ifname: str | None = None
    ports: tuple[PublishedPort, ...] = ()


def connect(wish: ConnectWish, seen: Facts, state: State, made: Container | None = None) -> Plan:
    """Plans one container's place on a network, with its ports; `made` is a new one whose handle exists already.

    Raises BadInput, NetwrapError.
    """
    network = state.network(wish.network)
    refuse_down(network, seen, state)
    refuse_full(network, seen)
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
    steps += replies((*state.endpoints_of(container=container.name), endpoint), container, state)
    for other in state.endpoints_of(container=container.name):
        if state.ports_of(other):
            steps += to_itself(other, (endpoint,), seen, state)
    already: tuple[str, ...] = ()
    if not endpoint.default_route:
        already = (f"{container.name} gets no default route through {network.name}",)
    makes = (container, endpoint) if is_new else (endpoint,)
    plan = Plan(f"connect {container.name} to {network.name}", steps, already, makes)
    if not wish.ports:
        return plan
    published = publish(endpoint, wish.ports, seen, state)
    return replace(
        plan,
        steps=steps + published.steps,
        already=already + published.already,
        makes=plan.makes + published.makes,
        warnings=published.warnings,
    )


def replies(endpoints: tuple[Endpoint, ...], container: Container, state: State) -> tuple[Step, ...]:
    """The steps that the endpoint with the default route needs once its container is on a second network."""
    steps: tuple[Step, ...] = ()
    for found in endpoints if len(endpoints) > 1 else ():
        owner = f"replies:{found.container}/{found.network}"
        if found.default_route and owner not in state.owners:
            network = state.network(found.network)
            steps += owned(owner, drivers.load(network.driver).replies(network, found, container))
    return steps


def refuse_full(network: Network, seen: Facts) -> None:
    """Raises NetwrapError if a bridge cannot have more ports."""
    ports = sum(link.master == network.bridge for link in seen.host.links.values())
    if ports >= BRIDGE_PORTS:
        raise NetwrapError(
            f"network {network.name!r} is full: its bridge {network.bridge} has {ports} ports, and the kernel's limit "
            f"is {BRIDGE_PORTS}",
            "netwrap network create NAME  # another network; `netwrap network link` joins the two",
        )


def _address(wish: ConnectWish, network: Network, taken: set[IPv4Address], state: State) -> IPv4Address:
    if wish.ip is None:
        return next_address(network.subnet, taken, state.last.get(network.name), network.ip_range)
    hint = f"netwrap connect --net {network.name} --pid PID  # without --ip a free address is chosen"
    if not usable(network.subnet, wish.ip):
        raise BadInput(f"address {wish.ip} is not a host address in {network.subnet}", hint)
    if wish.ip == network.gateway:
        raise BadInput(f"address {wish.ip} is the gateway of {network.name}", hint)
    for endpoint in state.endpoints_of(network=network.name):
        if endpoint.ip == wish.ip:
            raise BadInput(f"address {wish.ip} is in use by {endpoint.container}", hint)
    if wish.ip in taken:
        raise BadInput(f"address {wish.ip} is in use by this host", hint)
    return wish.ip


def _container(wish: ConnectWish, ip: IPv4Address, seen: Facts, state: State) -> tuple[Container, bool]:
    """The container that a request means, and whether it is a new one."""
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
            f"{what} is in the host's own network namespace",
            f"netwrap run --net {wish.network} -- COMMAND  # or start the process with: unshare --net COMMAND",
        )
    for known in state.containers.values():
        if _is_same(found, known):
            if known.ours and not known.netns.is_same(seen.handle(known.name)):
                raise NetwrapError(
                    f"/run/netns/{known.name} is no longer the namespace of {known.name}",
                    f"netwrap repair {known.name}",
                )
            if wish.name not in (None, known.name):
                raise BadInput(
                    f"name {wish.name!r}: this process is already connected as {known.name!r}",
                    f"netwrap disconnect {known.name}  # or leave --name out",
                )
            return known, False
    if found.name in state.containers:
        raise BadInput(
            f"container {found.name!r} already exists", f"netwrap disconnect {found.name}  # or choose another --name"
        )
    if found.ours and found.name in seen.handles:
        raise BadInput(
            f"namespace {found.name!r} already exists in /run/netns, and it is not netwrap's",
            f"netwrap connect --netns {found.name} --net {wish.network}  # or choose another --name",
        )
    return found, True


def _is_same(found: Container, known: Container) -> bool:
    """Return whether both are one container: by namespace, or by process if the namespace cannot be seen."""
    if found.boot_id != known.boot_id:
        return False
    if found.inode:
        return found.netns.is_same(known.netns)
    return found.pid is not None and (found.pid, found.starttime) == (known.pid, known.starttime)


def _by_pid(pid: int, name: str | None, seen: Facts) -> Container:
    process = seen.processes.get(pid)
    if process is None:
        raise BadInput(f"no process {pid}", "ps -e")
    if process.tgid != pid:
        raise BadInput(f"{pid} is a thread of process {process.tgid}", f"netwrap connect --pid {process.tgid} …")
    name = name or f"c-{digest(seen.boot_id, pid, process.starttime)}"
    cookie = seen.cookies.get(process.inode, 0)
    return Container(name, process.inode, True, pid, process.starttime, seen.boot_id, cookie)


def _by_netns(handle: str, name: str | None, seen: Facts) -> Container:
    if seen.handles.get(handle, NO_NAMESPACE) in (HUSK, NO_NAMESPACE) or not is_name(handle):
        raise BadInput(f"no namespace {quoted(handle)} in /run/netns", "ip netns list")
    if name not in (None, handle):
        raise BadInput(
            f"name {quoted(name)}: with --netns the container is called {quoted(handle)}",
            f"netwrap connect --netns {handle} --net NETWORK",
        )
    inode = seen.handles[handle]
    return Container(handle, inode, ours=False, boot_id=seen.boot_id, cookie=seen.cookies.get(inode, 0))


def _handle(container: Container) -> Step:
    if container.pid is None:
        return netns.add(
            container.netns, f"Makes a network namespace for {container.name}; nothing in it is connected yet."
        )
    return netns.attach(
        container.netns,
        container.pid,
        f"Names the network namespace of process {container.pid}: {container.name}. The tutorial's symlink to "
        f"/proc/{container.pid}/ns/net would break when the process ends, and mean another one if its pid is reused.",
    )


def _endpoint(
    wish: ConnectWish, network: Network, container: Container, space: Space, ip: IPv4Address, seen: Facts, state: State
) -> Endpoint:
    others = state.endpoints_of(container=container.name)
    if any(e.network == network.name for e in others):
        raise BadInput(
            f"{container.name} is already connected to {network.name}",
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
        table=_free_table(space, others),
    )


def _free_table(space: Space, others: tuple[Endpoint, ...]) -> int:
    """The number of a routing table that is not in use in a container."""
    taken = {r.table for r in space.routes} | {table for _, table in space.policy} | {str(e.table) for e in others}
    return next(n for n in count(101) if str(n) not in taken)


def _macs(network: Network, state: State) -> dict[str, str]:
    """The MACs on a network's bridge, and who uses them."""
    taken = {mac: e.container for e in state.endpoints_of(network=network.name) for mac in (e.mac, e.veth_mac)}
    return taken | {mac_of("bridge", network.gateway): f"the bridge {network.bridge}"}


def _mac(wish: ConnectWish, ip: IPv4Address, taken: dict[str, str]) -> str:
    if wish.mac is None:
        return next(mac for n in range(60) if (mac := mac_of("container", ip, n)) not in taken)
    if wish.mac in taken:
        raise BadInput(
            f"MAC {wish.mac_typed or wish.mac} is in use by {taken[wish.mac]}",
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
            f"{container.name} already has an interface {wish.ifname!r}",
            f"netwrap connect --net {wish.network} --pid PID  # without --ifname one is chosen",
        )
    return wish.ifname
