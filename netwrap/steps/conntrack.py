"""Steps on connections that the kernel tracks: `conntrack` (conntrack(8)).

The kernel applies the nat table to the first packet of a connection only (iptables(8)): a connection follows new rules
only after it has been forgotten.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from netwrap.steps import Cmd, Probe, Step

TOOL = "conntrack"


def forget_to(ip: IPv4Address, port: int | None, why: str) -> Step:
    """Forgets UDP traffic to an address of the host, to one port or to all. There is nothing to undo."""
    return _forget(("-p", "udp", "--orig-dst", str(ip), *_to(port)), why, back=False)


def forget_published(protocol: str, host_ip: IPv4Address | None, port: int | None, ip: IPv4Address, why: str) -> Step:
    """Forgets what a published port of the host, or any of them, forwarded to a container's address."""
    where = ("--orig-dst", str(host_ip)) if host_ip is not None else ()
    return _forget(("-p", protocol, *where, *_to(port), "--dst-nat", str(ip)), why, back=False)


def forget_from(source: IPv4Address | IPv4Network, why: str) -> Step:
    """Forgets all connections that an address, or a subnet, has opened."""
    return _forget(("--orig-src", str(source)), why, back=False)


def forget_reached(ip: IPv4Address, why: str) -> Step:
    """Forgets all connections that reached an address, directly or through a published port."""
    return _forget(("--reply-src", str(ip)), why, back=False)


def forget_into(subnet: IPv4Network, why: str) -> Step:
    """Forgets all connections to addresses of a subnet."""
    return _forget(("--orig-dst", str(subnet)), why, back=False)


def forget_between(source: IPv4Network, destination: IPv4Network, why: str) -> Step:
    """Forgets the connections from one subnet to another."""
    return _forget(("--orig-src", str(source), "--orig-dst", str(destination)), why)


def _to(port: int | None) -> tuple[str, ...]:
    return () if port is None else ("--orig-port-dst", str(port))


def _forget(which: tuple[str, ...], why: str, *, back: bool = True) -> Step:
    """A forgotten connection begins anew under the present rules, so do and undo are the same."""
    cmd = Cmd((TOOL, "-D", *which), may_find_nothing=True)
    return Step("conntrack", cmd, cmd if back else None, Probe("flows", which), why)
