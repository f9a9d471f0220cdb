"""Steps on connections that the kernel remembers: `conntrack` (conntrack(8)).

Rules of the nat table are asked for the first packet of a connection alone (iptables(8)): what is to follow new rules
has to be forgotten first.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from netwrap.steps import Cmd, Probe, Step

TOOL = "conntrack"


def forget_to(ip: IPv4Address, port: int | None, why: str) -> Step:
    """Forgets UDP traffic to an address of the host, to one port or to all. There is nothing to take back."""
    return _forget(("-p", "udp", "--orig-dst", str(ip), *_to(port)), why, back=False)


def forget_published(protocol: str, host_ip: IPv4Address | None, port: int | None, ip: IPv4Address, why: str) -> Step:
    """Forgets what a published port of the host, or any, led to a container's address."""
    where = ("--orig-dst", str(host_ip)) if host_ip is not None else ()
    return _forget(("-p", protocol, *where, *_to(port), "--dst-nat", str(ip)), why, back=False)


def forget_from(source: IPv4Address | IPv4Network, why: str) -> Step:
    """Forgets all that an address, or a subnet, has begun."""
    return _forget(("--orig-src", str(source)), why, back=False)


def forget_reached(ip: IPv4Address, why: str) -> Step:
    """Forgets all that reached an address, directly or by a published port."""
    return _forget(("--reply-src", str(ip)), why, back=False)


def forget_into(subnet: IPv4Network, why: str) -> Step:
    """Forgets all that was addressed to a subnet."""
    return _forget(("--orig-dst", str(subnet)), why, back=False)


def forget_between(source: IPv4Network, destination: IPv4Network, why: str) -> Step:
    """Forgets the connections from one subnet to another."""
    return _forget(("--orig-src", str(source), "--orig-dst", str(destination)), why)


def _to(port: int | None) -> tuple[str, ...]:
    return () if port is None else ("--orig-port-dst", str(port))


def _forget(which: tuple[str, ...], why: str, *, back: bool = True) -> Step:
    """What is forgotten begins anew under the rules of the moment; so do and undo are the same."""
    cmd = Cmd((TOOL, "-D", *which), may_find_nothing=True)
    return Step("conntrack", cmd, cmd if back else None, Probe("flows", which), why)
