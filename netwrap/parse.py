"""Parses what users type into the values of model.py: names, addresses, subnets, MACs, ports.

Every error is a BadInput that quotes the whole value as it was typed.
"""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Network

from netwrap.errors import BadInput, quoted
from netwrap.model import RESERVED, PublishedPort, is_name

_LINK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PROTOCOLS = ("tcp", "udp", "sctp")


def network_name(text: str) -> str:
    """Checks a network's name. Raises BadInput."""
    return _name(text, "network name", "netwrap network create testbridge")


def container_name(text: str) -> str:
    """Checks a container's name, which is also its handle in /run/netns. Raises BadInput."""
    if text.isdigit():  # `ip link set … netns 123` prefers a handle named 123 to process 123
        raise BadInput(
            f"container name {quoted(text)} looks like a pid", "netwrap connect --name web --net NETWORK --pid PID"
        )
    return _name(text, "container name", "netwrap connect --name web --net NETWORK --pid PID")


def _name(text: str, what: str, hint: str) -> str:
    if not is_name(text):
        raise BadInput(
            f"{what} {quoted(text)} is not valid: it must be 1 to 63 of a-z A-Z 0-9 _ . -, start with a letter or "
            "digit, and not be all, default or lo",
            hint,
        )
    return text


def link_name(text: str) -> str:
    """Checks an interface name: at most 15 characters (IFNAMSIZ, netdevice(7)). Raises BadInput."""
    if not _LINK.fullmatch(text) or text in RESERVED:
        raise BadInput(
            f"interface name {quoted(text)} is not valid: it must be 1 to 15 of a-z A-Z 0-9 _ . -, start with a "
            "letter or digit, and not be all, default or lo",
            "netwrap connect --ifname eth0 --net NETWORK --pid PID",
        )
    return text


def mac_address(text: str) -> str:
    """Checks a unicast MAC address. Raises BadInput."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise BadInput(f"MAC {quoted(text)} is not a unicast MAC address", "netwrap connect --mac 02:00:00:00:00:07 …")
    return mac


def ip_address(text: str, what: str = "address") -> IPv4Address:
    """Parses an IPv4 address. Raises BadInput."""
    hint = {
        "address": "netwrap connect --net NETWORK --pid PID --ip 10.0.0.2",
        "name server": "netwrap run --net NETWORK --dns 192.0.2.53 -- COMMAND…",
        "gateway": "netwrap network create --subnet 10.0.0.0/24 --gateway 10.0.0.1 NAME",
    }[what]
    return _ipv4(text, f"{what} {quoted(text)}", hint)


def _ipv4(text: str, named: str, hint: str) -> IPv4Address:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise BadInput(f"{named} is not an IPv4 address", hint) from None
    if not isinstance(ip, IPv4Address):
        raise BadInput(f"{named} is IPv6, which netwrap does not support yet", hint)
    return ip


def subnet(text: str, what: str = "subnet") -> tuple[IPv4Network, IPv4Address | None]:
    """Parses a CIDR; host bits, as in the tutorial's 10.0.0.1/24, give the gateway. Raises BadInput."""
    hint = "netwrap network create --subnet 10.0.0.1/24 testbridge"
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise BadInput(f"{what} {quoted(text)} is not a CIDR", hint) from None
    if not isinstance(interface, ipaddress.IPv4Interface):
        raise BadInput(f"{what} {quoted(text)} is IPv6, which netwrap does not support yet", hint)
    if "/" not in text:
        raise BadInput(f"{what} {quoted(text)} has no prefix length", hint)
    net = interface.network
    if net.prefixlen > 30:
        raise BadInput(f"{what} {quoted(text)} is too small: /30 is the smallest with room for a container", hint)
    if net.prefixlen < 8:
        raise BadInput(f"{what} {quoted(text)} is too large: /8 is the largest", hint)
    if net.is_loopback or net.is_multicast or net.is_link_local or net.is_unspecified or net[0].is_reserved:
        raise BadInput(
            f"{what} {quoted(text)} is not for ordinary hosts (loopback, link-local, multicast, reserved)", hint
        )
    if int(net[0]) >> 24 == 0:
        raise BadInput(f"{what} {quoted(text)} is not for ordinary hosts (0.0.0.0/8 means this network)", hint)
    return net, interface.ip if interface.ip != net.network_address else None


def address_range(text: str) -> IPv4Network:
    """Parses the part of a subnet from which addresses are allocated. Raises BadInput."""
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise BadInput(
            f"range {quoted(text)} is not an IPv4 CIDR{_why(error)}",
            "netwrap network create --subnet 10.0.0.0/24 --ip-range 10.0.0.128/25 NAME",
        ) from None


def _why(error: ValueError) -> str:
    """The standard library's reason, without the value."""
    return ": it has host bits set" if "host bits" in str(error) else ""


def allowed(text: str) -> IPv4Network:
    """Parses who may reach a published port: a CIDR or one address. Raises BadInput."""
    hint = "netwrap publish NAME 8080:80 --allow-from 192.168.50.0/24"
    try:
        net = ipaddress.ip_network(text)
    except ValueError as error:
        raise BadInput(f"--allow-from {quoted(text)} is not a CIDR{_why(error)}", hint) from None
    if not isinstance(net, IPv4Network):
        raise BadInput(f"--allow-from {quoted(text)} is IPv6, which netwrap does not support yet", hint)
    if net.is_loopback or net.is_multicast or net == IPv4Network("255.255.255.255"):
        raise BadInput(
            f"--allow-from {quoted(text)} is not an outside address; this host may use the port anyway", hint
        )
    return net


def published_port(text: str) -> PublishedPort:
    """Parses [HOSTIP:]HOSTPORT[-END]:PORT[-END][/tcp|/udp|/sctp]. Raises BadInput."""
    hint = "netwrap publish NAME 127.0.0.1:8080:80/tcp  # a range: 8000-8010:80-90"
    rest, slash, protocol = text.partition("/")
    protocol = protocol if slash else "tcp"
    if protocol.lower() not in _PROTOCOLS:
        raise BadInput(f"port {quoted(text)}: protocol {quoted(protocol)} is not one of {', '.join(_PROTOCOLS)}", hint)
    parts = rest.split(":")
    if not 2 <= len(parts) <= 3:
        raise BadInput(f"port {quoted(text)} is not of the form [HOSTIP:]HOSTPORT:PORT[/PROTOCOL]", hint)
    host_ip = _ipv4(parts[0], f"port {quoted(text)}: {quoted(parts[0])}", hint) if len(parts) == 3 else None
    if host_ip is not None and (host_ip.is_multicast or host_ip == IPv4Address("255.255.255.255")):
        raise BadInput(f"port {quoted(text)}: {host_ip} is not the address of a host", hint)
    host_first, host_count = _port_range(parts[-2], text, hint)
    first, count = _port_range(parts[-1], text, hint)
    if host_count != count:
        raise BadInput(f"port {quoted(text)}: {host_count} host ports for {count} container ports", hint)
    host_ip = None if host_ip == IPv4Address(0) else host_ip
    return PublishedPort(host_first, first, protocol.lower(), count, host_ip, typed=text)


def _port_range(text: str, spec: str, hint: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    ports = [first, last] if dash else [first, first]
    if not all(re.fullmatch(r"[0-9]{1,5}", p) and 1 <= int(p) <= 65535 for p in ports):
        raise BadInput(f"port {quoted(spec)}: {quoted(text)} is not a valid port or range (1-65535)", hint)
    low, high = map(int, ports)
    if high < low:
        raise BadInput(f"port {quoted(spec)}: the range {quoted(text)} ends before it begins", hint)
    return low, high - low + 1
