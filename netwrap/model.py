"""netwrap's objects: networks, containers, endpoints, published ports; parse.py reads them from text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network

from netwrap.errors import BadInput, quoted

LINK_GROUP = 28279
"""All of netwrap's links on the host are in this group (0x6e77, "nw"): its mark. Source: ip-link(8), group."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
RESERVED = {"all", "default", "lo"}  # names of sysctl folders, and the loopback link


@dataclass(frozen=True)
class Netns:
    """A network namespace and its handle in /run/netns; inode 0 means that it does not exist yet, cookie 0 unknown.

    The kernel reuses an inode once its namespace is gone, but no cookie until the next boot. Source: kernel,
    include/uapi/asm-generic/socket.h, SO_NETNS_COOKIE.
    """

    name: str
    inode: int
    cookie: int = 0

    def is_same(self, other: Netns | None) -> bool:
        """Return whether both are one namespace, as far as both are known."""
        if other is None or self.inode != other.inode:
            return False
        return 0 in (self.cookie, other.cookie) or self.cookie == other.cookie


@dataclass(frozen=True)
class Network:
    """A subnet with its own bridge."""

    name: str
    driver: str
    subnet: IPv4Network
    gateway: IPv4Address
    bridge: str
    mtu: int
    internal: bool = False
    ip_range: IPv4Network | None = None

    @property
    def owner(self) -> str:
        return f"network:{self.name}"

    @property
    def gateway_cidr(self) -> str:
        return f"{self.gateway}/{self.subnet.prefixlen}"


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it; starttime in clock ticks since boot (proc(5), stat field 22)."""

    pid: int
    starttime: int
    inode: int
    tgid: int


@dataclass(frozen=True)
class Machine:
    """A boot, and the namespaces that identify links and processes; 0 or None: not known.

    A namespace's inode is reused once it is gone. A network namespace's cookie is not, and a pid namespace is as
    old as its first process.
    """

    boot_id: str
    netns: int
    cookie: int = 0
    pidns: int = 0
    began: int | None = None
    """Start time of the pid namespace's first process, as the time namespace shows it."""
    boottime: int | None = None
    """How far the time namespace's boot clock is ahead, in nanoseconds: it is part of every start time."""

    def differs(self, other: Machine) -> tuple[str, ...]:
        """The kinds of namespaces in which two places of one boot differ; empty if the boots differ."""
        if self.boot_id != other.boot_id:
            return ()
        is_time = None in (self.boottime, other.boottime) or self.boottime == other.boottime
        is_pid = 0 in (self.pidns, other.pidns) or self.pidns == other.pidns
        if is_time and None not in (self.began, other.began):
            is_pid = is_pid and self.began == other.began
        cookies = (self.cookie, other.cookie)
        is_net = cookies[0] == cookies[1] if 0 not in cookies else self.netns == other.netns
        same = {"network": is_net, "pid": is_pid, "time": is_time}
        return tuple(kind for kind, is_same in same.items() if not is_same)


@dataclass(frozen=True)
class Container:
    """Any process with its own network namespace; `ours` means that netwrap made the handle."""

    name: str
    inode: int
    ours: bool
    pid: int | None = None
    starttime: int | None = None
    boot_id: str = ""
    cookie: int = 0
    """Of its namespace, as the inode is."""
    started: bool = False
    """True if `netwrap run` started the process, with its own mount, pid and uts namespaces."""
    supervisor: tuple[int, int] | None = None
    """Pid and start time of the `netwrap run` that is about to start it: stands for it until its pid is known."""

    @property
    def owner(self) -> str:
        return f"container:{self.name}"

    @property
    def netns(self) -> Netns:
        return Netns(self.name, self.inode, self.cookie)

    @property
    def watched(self) -> tuple[int, int] | None:
        """Pid and start time of the process whose end is the container's; None if it is only a namespace."""
        if self.pid is None or self.starttime is None:
            return self.supervisor
        return (self.pid, self.starttime)


@dataclass(frozen=True)
class Endpoint:
    """One container's place on one network: a veth pair, an address, a MAC."""

    container: str
    network: str
    ip: IPv4Address
    mac: str
    ifname: str
    veth: str
    veth_mac: str
    peer: str
    """The name of the inner end while it is still on the host."""
    default_route: bool = True
    table: int = 0
    """The routing table for packets from its address, once its container is on a second network."""

    @property
    def owner(self) -> str:
        return f"endpoint:{self.container}/{self.network}"


@dataclass(frozen=True)
class PublishedPort:
    """A host port, or a range of them, that is forwarded to a container's port."""

    host_port: int
    port: int
    protocol: str = "tcp"
    count: int = 1
    host_ip: IPv4Address | None = None
    allow_from: tuple[IPv4Network, ...] = ()
    """The sources that may reach it, apart from the host itself; empty means everybody."""
    typed: str = field(default="", compare=False)
    """As the user typed it, for errors."""

    @property
    def spec(self) -> str:
        """The SPEC of the command line, with its protocol: `8080:80/tcp`."""
        host = f"{self.host_ip}:" if self.host_ip else ""
        return f"{host}{self._span(self.host_port, '-')}:{self._span(self.port, '-')}/{self.protocol}"

    @property
    def said(self) -> str:
        """As the user typed it, in quotes."""
        return quoted(self.typed or self.spec)

    @property
    def dport(self) -> str:
        """The host's ports as iptables writes them: `8080` or `8000:8010`."""
        return self._span(self.host_port, ":")

    def destination(self, ip: IPv4Address) -> str:
        """The DNAT target; a shifted range is `IP:FIRST-LAST/BASE` (iptables-extensions(8), DNAT)."""
        if self.count == 1:
            return f"{ip}:{self.port}"
        return str(ip) if self.host_port == self.port else f"{ip}:{self._span(self.port, '-')}/{self.host_port}"

    @property
    def host_only(self) -> bool:
        """True if only the host itself can reach it: published on a loopback address."""
        return self.host_ip is not None and self.host_ip.is_loopback

    def clashes(self, other: PublishedPort) -> bool:
        """Return whether both need the same port of the same address."""
        return (
            self.protocol == other.protocol
            and self.host_port < other.host_port + other.count
            and other.host_port < self.host_port + self.count
            and (self.host_ip is None or other.host_ip is None or self.host_ip == other.host_ip)
        )

    def _span(self, first: int, dash: str) -> str:
        return str(first) if self.count == 1 else f"{first}{dash}{first + self.count - 1}"


@dataclass(frozen=True)
class Publication:
    """A port published by one endpoint."""

    container: str
    network: str
    port: PublishedPort

    @property
    def owner(self) -> str:
        return f"port:{self.container}/{self.network}/{self.port.spec}"


@dataclass(frozen=True)
class NetworkLink:
    """Two networks whose containers can reach each other; a and b in alphabetical order."""

    a: str
    b: str

    @property
    def owner(self) -> str:
        return f"link:{self.a}/{self.b}"


@dataclass(frozen=True)
class State:
    """What exists according to the store: objects, the owners of steps, each network's last allocated address."""

    networks: dict[str, Network] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    publications: tuple[Publication, ...] = ()
    links: tuple[NetworkLink, ...] = ()
    owners: frozenset[str] = frozenset()
    half_removed: frozenset[str] = frozenset()
    """Owners whose teardown has failed: some of their steps are undone, and some are left."""
    last: dict[str, IPv4Address] = field(default_factory=dict)

    def endpoints_of(self, *, container: str | None = None, network: str | None = None) -> tuple[Endpoint, ...]:
        """The endpoints of a container, of a network, or of both, in the order in which they were made."""
        return tuple(
            e
            for e in self.endpoints
            if (container is None or e.container == container) and (network is None or e.network == network)
        )

    def ports_of(self, endpoint: Endpoint) -> tuple[PublishedPort, ...]:
        """The ports that an endpoint publishes, in the order in which they were published."""
        return tuple(
            p.port for p in self.publications if (p.container, p.network) == (endpoint.container, endpoint.network)
        )

    def linked_to(self, network: str) -> tuple[str, ...]:
        """The networks that a network is linked to."""
        return tuple(li.b if li.a == network else li.a for li in self.links if network in (li.a, li.b))

    def without(self, owners: Iterable[str]) -> State:
        """The state once these objects are gone; each network's last allocated address does not change."""
        gone = frozenset(owners)
        if not gone:
            return self
        return State(
            {name: n for name, n in self.networks.items() if n.owner not in gone},
            {name: c for name, c in self.containers.items() if c.owner not in gone},
            tuple(e for e in self.endpoints if e.owner not in gone),
            tuple(p for p in self.publications if p.owner not in gone),
            tuple(li for li in self.links if li.owner not in gone),
            self.owners - gone,
            self.half_removed - gone,
            self.last,
        )

    def network(self, name: str) -> Network:
        """The network of that name. Raises BadInput if there is none."""
        if name not in self.networks:
            raise BadInput(f"no network {quoted(name)}", "netwrap network list")
        return self.networks[name]

    def container(self, name: str) -> Container:
        """The container of that name. Raises BadInput if there is none."""
        if name not in self.containers:
            raise BadInput(f"no container {quoted(name)}", "netwrap ps")
        return self.containers[name]


def is_name(text: str) -> bool:
    """Return whether this is a valid name for a network, a container or a handle."""
    return _NAME.fullmatch(text) is not None and text not in RESERVED


def bridge_name(network: str) -> str:
    """The bridge of a network: its name, or br-<8 hex> if that is longer than 15 characters."""
    return network if len(network) <= 15 else f"br-{digest(network)}"


def digest(*words: object, length: int = 8) -> str:
    """Hex digits that depend on the words alone, so that a dry run and the real run choose the same names."""
    return sha256("/".join(map(str, words)).encode()).hexdigest()[:length]


def mac_of(kind: str, ip: IPv4Address, attempt: int = 0) -> str:
    """A locally administered MAC that depends on an address; host ends and inner ends differ."""
    first = {"bridge": 0x02, "veth": 0x06, "container": 0x0A}[kind] + 4 * attempt
    return f"{first:02x}:6e" + "".join(f":{byte:02x}" for byte in ip.packed)


def usable(net: IPv4Network, ip: IPv4Address) -> bool:
    """Return whether a host of the subnet may have the address: neither network nor broadcast."""
    return ip in net and ip not in (net.network_address, net.broadcast_address)
