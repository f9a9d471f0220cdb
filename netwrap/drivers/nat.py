"""The nat table: masquerading, and published ports with all that they need. For drivers that route through the host.

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
    """What the containers of a network send to the outside gets the host's address."""
    br, mark = network.bridge, network.name
    yield iptables.append(
        "nat",
        "POSTROUTING",
        mark,
        ("-s", str(network.subnet), "!", "-o", br, *NOT_DNAT, *_NOT_LOCAL),
        ("MASQUERADE",),
        f"Outside machines have no route back to {network.subnet}, so outgoing packets get the host's address. "
        "The tutorial prints `-o` without the `!`, which matches the wrong direction. Packets that the host sends to "
        f"itself from {network.gateway} keep their address.",
    )


def publishing(network: Network, seen: Facts) -> Iterator[Step]:
    """What lets the host reach published ports at 127.0.0.1, and containers at the host's addresses."""
    br, mark = network.bridge, network.name
    loopback = ("127.0.0.0/8", "!", "-i", "lo")
    yield iptables.insert(
        "raw",
        "PREROUTING",
        mark,
        ("-d", *loopback),
        ("DROP",),
        "Drops packets from outside to 127.0.0.0/8, which the next setting would let in (CVE-2020-8558).",
    )
    yield iptables.insert(
        "raw",
        "PREROUTING",
        mark,
        ("-s", *loopback),
        ("DROP",),
        "Drops packets from outside that claim to come from 127.0.0.0/8.",
    )
    key = sysctl.of_link(br, "route_localnet")
    if seen.sysctls.get(key, "0") != "1":
        yield sysctl.write(
            key,
            "1",
            "0",
            f"Lets packets from 127.0.0.1 leave through {br}, so that 127.0.0.1:PORT on the host reaches a container.",
        )
    yield iptables.append(
        "nat",
        "POSTROUTING",
        mark,
        ("-s", "127.0.0.0/8", "-o", br, *_DNAT),
        ("MASQUERADE",),
        f"A container cannot reply to 127.0.0.1, so such packets get the bridge's address {network.gateway}.",
    )
    yield iptables.append(
        "nat",
        "POSTROUTING",
        mark,
        ("-s", str(network.subnet), "-o", br, *_DNAT),
        ("MASQUERADE",),
        f"For a container of {network.name} that uses a published port of its own network: the reply must come back "
        "through the host, or the container does not recognize it.",
    )


def to_itself(called: Endpoint, calling: Endpoint) -> Iterator[Step]:
    """Lets a container reach, from its address on one network, a port that it publishes on another."""
    yield iptables.append(
        "nat",
        "POSTROUTING",
        f"{called.container}/{called.network}",
        ("-s", f"{calling.ip}/32", "-d", f"{called.ip}/32", *_DNAT),
        ("MASQUERADE",),
        f"Lets {called.container} reach its port on {called.network} from {calling.network} too: it would drop a "
        f"packet that comes from its own address {calling.ip}.",
    )


def publish(endpoint: Endpoint, port: PublishedPort, seen: Facts) -> Iterator[Step]:
    """The tutorial's two DNAT rules: one for packets that arrive, one for packets from the host itself."""
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
    host, _, inside = port.spec.removesuffix(f"/{port.protocol}").rpartition(":")
    forwards = f"Forwards host port {host}/{port.protocol} to {endpoint.container}:{inside}"
    for source in () if port.host_only else (port.allow_from or (None,)):
        clients = f"clients from {source}" if source else "outside clients"
        yield iptables.append(
            "nat",
            "PREROUTING",
            mark,
            (*(("-s", str(source)) if source else ()), *rule),
            target,
            f"{forwards} for {clients}. Without dst-type LOCAL the rule would also match packets to that port of "
            "other machines.",
        )
    why = f"{forwards} for the host itself, whose own packets do not pass PREROUTING."
    yield iptables.append("nat", "OUTPUT", mark, rule, target, why)
    if port.protocol == "udp" and conntrack.TOOL in seen.tools:
        number = port.host_port if port.count == 1 else None  # conntrack knows no ranges
        for ip in [port.host_ip] if port.host_ip else sorted(seen.addresses()):
            yield conntrack.forget_to(
                ip,
                number,
                f"Forgets earlier UDP traffic to {ip}, so that it follows the new rules: the kernel applies nat rules "
                "to the first packet of a connection only.",
            )
