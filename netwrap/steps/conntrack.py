"""Steps on connections that the kernel remembers: `conntrack` (conntrack(8))."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from netwrap.steps import Cmd, Probe, Step

TOOL = "conntrack"


def forget_to(ip: IPv4Address, port: int | None, why: str) -> Step:
    """Forgets UDP traffic to an address of the host, to one port or to all: rules of the nat table are asked for the
    first packet alone (iptables(8)). There is nothing to take back."""
    return _forget(("-p", "udp", "--orig-dst", str(ip), *_to(port)), why, back=False)


def forget_led_to(ip: IPv4Address, port: int | None, why: str) -> Step:
    """Forgets UDP traffic that a rule led to a container."""
    return _forget(("-p", "udp", "--dst-nat", str(ip), *_to(port)), why)


def _to(port: int | None) -> tuple[str, ...]:
    return () if port is None else ("--orig-port-dst", str(port))


def forget_between(source: IPv4Network, destination: IPv4Network, why: str) -> Step:
    """Forgets the connections from one subnet to another."""
    return _forget(("--orig-src", str(source), "--orig-dst", str(destination)), why)


def _forget(which: tuple[str, ...], why: str, *, back: bool = True) -> Step:
    """What is forgotten begins anew under the rules of the moment; so do and undo are the same."""
    cmd = Cmd((TOOL, "-D", *which), may_find_nothing=True)
    return Step("conntrack", cmd, cmd if back else None, Probe("flows", which), why)
