"""The nat table: the way out, and published ports with all that they need. For drivers that route through the host.

    nat    POSTROUTING      from the subnet to the outside: MASQUERADE
    nat    PREROUTING       a published port, for traffic from other machines and containers
    nat    OUTPUT           the same port, for the host's own traffic

docs/design.md has the table with reasons.
"""

from __future__ import annotations

from collections.abc import Iterator

from netwrap.facts import Facts
from netwrap.model import Endpoint, Network, PublishedPort
from netwrap.steps import Step, conntrack, iptables, sysctl

_DNAT = ("-m", "conntrack", "--ctstate", "DNAT")
NOT_DNAT = ("-m", "conntrack", "!", "--ctstate", "DNAT")
_NOT_LOCAL = ("-m", "addrtype", "!", "--dst-type", "LOCAL")


def way_out(network: Network) -> Iterator[Step]:
    """What a network's containers send to the outside has the host's address."""
    br, mark = network.bridge, network.name
    yield iptables.append(
        "nat",
        "POSTROUTING",
        mark,
        ("-s", str(network.subnet), "!", "-o", br, *NOT_DNAT, *_NOT_LOCAL),
        ("MASQUERADE",),
        f"Nobody outside knows {network.subnet}: packets from there leave with the host's address. "
        "The tutorial prints `-o` without the `!`, which matches the wrong direction. What the host sends to itself "
        f"from {network.gateway} keeps its address.",
    )


def publishing(network: Network, seen: Facts) -> Iterator[Step]:
    """What lets the host reach published ports by 127.0.0.1, and containers by the host's addresses."""
    br, mark = network.bridge, network.name
    loopback = ("127.0.0.0/8", "!", "-i", "lo")
    yield iptables.insert(
        "raw",
        "PREROUTING",
        mark,
        ("-d", *loopback),
        ("DROP",),
        "Nothing from outside may be addressed to 127.0.0.0/8; the next setting would open that door (CVE-2020-8558).",
    )
    yield iptables.insert(
        "raw",
        "PREROUTING",
        mark,
        ("-s", *loopback),
        ("DROP",),
        "Nor may anything from outside claim to come from there.",
    )
    key = sysctl.of_link(br, "route_localnet")
    if seen.sysctls.get(key, "0") != "1":
        yield sysctl.write(
            key,
            "1",
            "0",
            f"Lets the host's packets from 127.0.0.1 leave by {br}: `127.0.0.1:PORT` reaches a container.",
        )
    yield iptables.append(
        "nat",
        "POSTROUTING",
        mark,
        ("-s", "127.0.0.0/8", "-o", br, *_DNAT),
        ("MASQUERADE",),
        f"A container cannot answer 127.0.0.1: such packets get the bridge's address {network.gateway}.",
    )
    yield iptables.append(
        "nat",
        "POSTROUTING",
        mark,
        ("-s", str(network.subnet), "-o", br, *_DNAT),
        ("MASQUERADE",),
        f"A container of {network.name} that calls a port published by another, or by itself: the answer must "
        "come back through the host, or it is not recognized.",
    )


def to_itself(called: Endpoint, calling: Endpoint) -> Iterator[Step]:
    """A container that calls, with its address on one network, the port that it publishes on another."""
    yield iptables.append(
        "nat",
        "POSTROUTING",
        f"{called.container}/{called.network}",
        ("-s", f"{calling.ip}/32", "-d", f"{called.ip}/32", *_DNAT),
        ("MASQUERADE",),
        f"{called.container} may call its port on {called.network} from {calling.network}, too: it would drop a packet "
        f"that comes from its own address {calling.ip}.",
    )


def publish(endpoint: Endpoint, port: PublishedPort, seen: Facts) -> Iterator[Step]:
    """The tutorial's two DNAT rules: one for traffic that arrives, one for the host's own."""
    where = ("-d", f"{port.host_ip}/32") if port.host_ip else ()
    rule = (
        *where,
        "-p",
        port.protocol,
        "-m",
        port.protocol,
        "--dport",
        port.dport,
        "-m",
        "addrtype",
        "--dst-type",
        "LOCAL",
    )
    target = ("DNAT", "--to-destination", port.destination(endpoint.ip))
    mark = f"{endpoint.container}/{endpoint.network}"
    named = f"{port.spec} leads to {endpoint.container}"
    for source in () if port.host_only else (port.allow_from or (None,)):
        who = f"who comes from {source}" if source else "who comes from outside"
        yield iptables.append(
            "nat",
            "PREROUTING",
            mark,
            (*(("-s", str(source)) if source else ()), *rule),
            target,
            f"{named}, for {who}. Only for addresses of this host: without dst-type LOCAL "
            "the rule would catch traffic to other machines' ports too.",
        )
    yield iptables.append(
        "nat", "OUTPUT", mark, rule, target, f"{named}, for the host itself: its own packets never pass PREROUTING."
    )
    if port.protocol == "udp" and conntrack.TOOL in seen.tools:
        number = port.host_port if port.count == 1 else None  # conntrack knows no ranges
        for ip in [port.host_ip] if port.host_ip else sorted(seen.addresses()):
            yield conntrack.forget_to(
                ip,
                number,
                f"Who has sent UDP to {ip} before is led by the new rules too: the kernel asks them for the first "
                "packet alone, and remembers.",
            )
