"""Steps on connections that the kernel remembers: `conntrack` (conntrack(8))."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from netwrap.steps import Cmd, Probe, Step

TOOL = "conntrack"


def forget_port(port: int, ip: IPv4Address | None, why: str) -> Step:
    """Forgets UDP traffic to a host port: rules of the nat table are asked for the first packet alone (iptables(8))."""
    where = ("--orig-dst", str(ip)) if ip else ()
    return _forget(("-p", "udp", *where, "--orig-port-dst", str(port)), why)


def forget_between(source: IPv4Network, destination: IPv4Network, why: str) -> Step:
    """Forgets the connections from one subnet to another."""
    return _forget(("--orig-src", str(source), "--orig-dst", str(destination)), why)


def _forget(which: tuple[str, ...], why: str) -> Step:
    """What is forgotten begins anew under the rules of the moment; so do and undo are the same."""
    cmd = Cmd((TOOL, "-D", *which), may_find_nothing=True)
    return Step("conntrack", cmd, cmd, Probe("flows", which), why)
