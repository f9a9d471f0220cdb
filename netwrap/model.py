"""What netwrap talks about: networks, containers, endpoints, published ports; valid once built."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network

from netwrap.errors import BadInput

LINK_GROUP = 28279
"""Every host link of netwrap's is in this group (0x6e77, "nw"): its mark. Source: ip-link(8), group."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_LINK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PROTOCOLS = ("tcp", "udp", "sctp")
_RESERVED = {"all", "default", "lo"}  # names of sysctl folders, and the loopback link


@dataclass(frozen=True)
class Netns:
    """A network namespace by its handle in /run/netns; inode 0 is one that does not exist yet."""

    name: str
    inode: int


@dataclass(frozen=True)
class Network:
    """A subnet on a bridge of its own."""

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
class Container:
    """Any process with a network namespace of its own; `ours` says that netwrap made the handle."""

    name: str
    inode: int
    ours: bool
    pid: int | None = None
    starttime: int | None = None
    boot_id: str = ""
    started: bool = False
    """True where `netwrap run` started the process, in mount, pid and uts namespaces of its own."""

    @property
    def owner(self) -> str:
        return f"container:{self.name}"

    @property
    def netns(self) -> Netns:
        return Netns(self.name, self.inode)


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
    """The name of the inner end while it still is on the host."""
    default_route: bool = True
    table: int = 0
    """The routing table for what its address sends, once its container is on a second network."""

    @property
    def owner(self) -> str:
        return f"endpoint:{self.container}/{self.network}"


@dataclass(frozen=True)
class PublishedPort:
    """A host port, or a range of them, that leads to a container's port."""

    host_port: int
    port: int
    protocol: str = "tcp"
    count: int = 1
    host_ip: IPv4Address | None = None
    allow_from: tuple[IPv4Network, ...] = ()
    """Who may reach it, apart from the host itself; empty is everybody."""

    @property
    def spec(self) -> str:
        """The SPEC of the command line, with its protocol: `8080:80/tcp`."""
        host = f"{self.host_ip}:" if self.host_ip else ""
        return f"{host}{self._span(self.host_port, '-')}:{self._span(self.port, '-')}/{self.protocol}"

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
        """True where only the host itself can reach it: published on a loopback address."""
        return self.host_ip is not None and self.host_ip.is_loopback

    def clashes(self, other: PublishedPort) -> bool:
        """Says whether both want one port of one address."""
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
    """Two networks whose containers may reach each other; a and b in alphabetical order."""

    a: str
    b: str

    @property
    def owner(self) -> str:
        return f"link:{self.a}/{self.b}"


@dataclass(frozen=True)
class State:
    """What stands, by the store: objects, the owners of standing steps, where each network's IPAM is."""

    networks: dict[str, Network] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    publications: tuple[Publication, ...] = ()
    links: tuple[NetworkLink, ...] = ()
    owners: frozenset[str] = frozenset()
    last: dict[str, IPv4Address] = field(default_factory=dict)

    def endpoints_of(self, *, container: str | None = None, network: str | None = None) -> tuple[Endpoint, ...]:
        """The endpoints of a container, of a network, or of both, in the order of their making."""
        return tuple(
            e
            for e in self.endpoints
            if (container is None or e.container == container) and (network is None or e.network == network)
        )

    def ports_of(self, endpoint: Endpoint) -> tuple[PublishedPort, ...]:
        """The ports that an endpoint publishes, in the order of their making."""
        return tuple(
            p.port for p in self.publications if (p.container, p.network) == (endpoint.container, endpoint.network)
        )

    def linked_to(self, network: str) -> tuple[str, ...]:
        """The networks that a network is linked to."""
        return tuple(li.b if li.a == network else li.a for li in self.links if network in (li.a, li.b))

    def network(self, name: str) -> Network:
        """The network of that name. Errors: BadInput where there is none."""
        if name not in self.networks:
            raise BadInput(f"no network {name!r}", "netwrap network list")
        return self.networks[name]

    def container(self, name: str) -> Container:
        """The container of that name. Errors: BadInput where there is none."""
        if name not in self.containers:
            raise BadInput(f"no container {name!r}", "netwrap ps")
        return self.containers[name]


def network_name(text: str) -> str:
    """Checks a network's name. Errors: BadInput."""
    return _name(text, "network name", "netwrap network create testbridge")


def container_name(text: str) -> str:
    """Checks a container's name, which is also its handle in /run/netns. Errors: BadInput."""
    if text.isdigit():  # `ip link set … netns 123` takes a handle of that name before a process
        raise BadInput(
            f"container name {text!r} looks like a pid", "netwrap connect --name web --net NETWORK --pid PID"
        )
    return _name(text, "container name", "netwrap connect --name web --net NETWORK --pid PID")


def is_name(text: str) -> bool:
    """Says whether a network, a container or a handle may be called so."""
    return _NAME.fullmatch(text) is not None and text not in _RESERVED


def _name(text: str, what: str, hint: str) -> str:
    if not is_name(text):
        raise BadInput(
            f"{what} {text!r}: 1 to 63 of a-z A-Z 0-9 _ . -, a letter or digit first, and not all, default or lo",
            hint,
        )
    return text


def link_name(text: str) -> str:
    """Checks an interface name: at most 15 characters (IFNAMSIZ, netdevice(7)). Errors: BadInput."""
    if not _LINK.fullmatch(text) or text in _RESERVED:
        raise BadInput(
            f"interface name {text!r}: 1 to 15 of a-z A-Z 0-9 _ . -, letter or digit first, and not all, default, lo",
            "netwrap connect --ifname eth0 --net NETWORK --pid PID",
        )
    return text


def bridge_name(network: str) -> str:
    """The bridge of a network: its name, or br-<8 hex> where that is longer than 15 characters."""
    return network if len(network) <= 15 else f"br-{digest(network)}"


def digest(*words: object, length: int = 8) -> str:
    """Hex digits that follow from the words alone, so that a dry run names what the real run names."""
    return sha256("/".join(map(str, words)).encode()).hexdigest()[:length]


def mac_of(kind: str, ip: IPv4Address, attempt: int = 0) -> str:
    """A locally administered MAC that follows from an address; host ends and inner ends differ."""
    first = {"bridge": 0x02, "veth": 0x06, "container": 0x0A}[kind] + 4 * attempt
    return f"{first:02x}:6e" + "".join(f":{byte:02x}" for byte in ip.packed)


def mac_address(text: str) -> str:
    """Checks a unicast MAC address. Errors: BadInput."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise BadInput(f"MAC {text!r} is no unicast MAC address", "netwrap connect --mac 02:00:00:00:00:07 …")
    return mac


def ip_address(text: str, what: str = "address") -> IPv4Address:
    """Parses an IPv4 address. Errors: BadInput."""
    hint = {
        "address": "netwrap connect --net NETWORK --pid PID --ip 10.0.0.2",
        "gateway": "netwrap network create --subnet 10.0.0.0/24 --gateway 10.0.0.1 NAME",
    }.get(what, "netwrap publish NAME 127.0.0.1:8080:80")
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise BadInput(f"{what} {text!r} is no IP address", hint) from None
    if not isinstance(ip, IPv4Address):
        raise BadInput(f"{what} {text!r} is IPv6, which netwrap does not do yet", hint)
    return ip


def subnet(text: str, what: str = "subnet") -> tuple[IPv4Network, IPv4Address | None]:
    """Parses a CIDR; host bits, as in the tutorial's 10.0.0.1/24, name the gateway. Errors: BadInput."""
    hint = "netwrap network create --subnet 10.0.0.1/24 testbridge"
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise BadInput(f"{what} {text!r} is no CIDR", hint) from None
    if not isinstance(interface, ipaddress.IPv4Interface):
        raise BadInput(f"{what} {text!r} is IPv6, which netwrap does not do yet", hint)
    if "/" not in text:
        raise BadInput(f"{what} {text!r} has no prefix length", hint)
    net = interface.network
    if net.prefixlen > 30:
        raise BadInput(f"{what} {text!r} is too small: /30 is the smallest with room for a container", hint)
    if net.prefixlen < 8:
        raise BadInput(f"{what} {text!r} is too large: /8 is the largest", hint)
    if net.is_loopback or net.is_multicast or net.is_link_local or net.is_unspecified or net[0].is_reserved:
        raise BadInput(f"{what} {text!r} is not for ordinary hosts (loopback, link-local, multicast or reserved)", hint)
    if int(net[0]) >> 24 == 0:
        raise BadInput(f"{what} {text!r} is not for ordinary hosts (0.0.0.0/8 means this network)", hint)
    return net, interface.ip if interface.ip != net.network_address else None


def address_range(text: str) -> IPv4Network:
    """Parses the part of a subnet from which addresses are given out. Errors: BadInput."""
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise BadInput(
            f"range {text!r} is no IPv4 CIDR: {error}",
            "netwrap network create --subnet 10.0.0.0/24 --ip-range 10.0.0.128/25 NAME",
        ) from None


def allowed(text: str) -> IPv4Network:
    """Parses who may reach a published port: a CIDR, or one address. Errors: BadInput."""
    hint = "netwrap publish NAME 8080:80 --allow-from 192.168.50.0/24"
    try:
        net = ipaddress.ip_network(text)
    except ValueError as error:
        raise BadInput(f"--allow-from {text!r} is no CIDR: {error}", hint) from None
    if not isinstance(net, IPv4Network):
        raise BadInput(f"--allow-from {text!r} is IPv6, which netwrap does not do yet", hint)
    if net.is_loopback or net.is_multicast or net == IPv4Network("255.255.255.255"):
        raise BadInput(f"--allow-from {text!r}: nobody else sends from there; this host may use the port anyway", hint)
    return net


def usable(net: IPv4Network, ip: IPv4Address) -> bool:
    """Says whether a host of the subnet may have the address: neither network nor broadcast."""
    return ip in net and ip not in (net.network_address, net.broadcast_address)


def published_port(text: str) -> PublishedPort:
    """Parses [HOSTIP:]HOSTPORT[-END]:PORT[-END][/tcp|/udp|/sctp]. Errors: BadInput."""
    hint = "netwrap publish NAME 127.0.0.1:8080:80/tcp  # a range: 8000-8010:80-90"
    rest, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in _PROTOCOLS:
        raise BadInput(f"port {text!r}: protocol {protocol!r} is none of {', '.join(_PROTOCOLS)}", hint)
    parts = rest.split(":")
    if not 2 <= len(parts) <= 3:
        raise BadInput(f"port {text!r} is not of the form [HOSTIP:]HOSTPORT:PORT[/PROTOCOL]", hint)
    host_ip = ip_address(parts[0], "host address") if len(parts) == 3 else None
    if host_ip is not None and (host_ip.is_multicast or host_ip == IPv4Address("255.255.255.255")):
        raise BadInput(f"port {text!r}: {host_ip} is no address of one host", hint)
    host_first, host_count = _port_range(parts[-2], text, hint)
    first, count = _port_range(parts[-1], text, hint)
    if host_count != count:
        raise BadInput(f"port {text!r}: {host_count} host ports for {count} container ports", hint)
    return PublishedPort(host_first, first, protocol, count, None if host_ip == IPv4Address(0) else host_ip)


def _port_range(text: str, spec: str, hint: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    ports = [first, last] if dash else [first, first]
    if not all(re.fullmatch(r"[0-9]{1,5}", p) and 1 <= int(p) <= 65535 for p in ports):
        raise BadInput(f"port {spec!r}: {text!r} is no port or range from 1 to 65535", hint)
    low, high = map(int, ports)
    if high < low:
        raise BadInput(f"port {spec!r}: the range {text!r} runs backwards", hint)
    return low, high - low + 1
