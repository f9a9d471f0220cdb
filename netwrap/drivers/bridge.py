"""The bridge driver: a Linux bridge on the host, a veth pair for each container, iptables rules for traffic in and out.

The rules, by chain, and what each is for (docs/design.md has the table with reasons):

    filter FORWARD          -> NETWRAP                 decides about our traffic first, whatever the host's policy is
    filter NETWRAP          -o BR -> NETWRAP-BR        to a container;  -i BR ACCEPT: from a container
    filter NETWRAP-BR       accepts replies, published ports and traffic within the bridge; drops the rest

The rules of the nat table are in nat.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from netwrap.drivers import nat
from netwrap.facts import Facts
from netwrap.model import Container, Endpoint, Netns, Network, PublishedPort, mac_of
from netwrap.steps import Step, addr, conntrack, iptables, link, owned, route, sysctl

CHAIN = "NETWRAP"
FORWARDING = "net.ipv4.conf.all.forwarding"
REDIRECTS = "net.ipv4.conf.all.accept_redirects"
_NOT_SYN = ("!", "--tcp-flags", "FIN,SYN,RST,ACK", "SYN")
MIN_MTU_OF_IPV6 = 1280
"""In bytes (RFC 8200, section 5): on a link with a smaller MTU the kernel has neither IPv6 nor its settings."""


def chain_of(bridge: str) -> str:
    """The chain that decides what may be forwarded to a bridge's containers."""
    return f"{CHAIN}-{bridge}"


class Bridge:
    """Networks as Docker's bridge driver and the tutorials make them."""

    def host(self, seen: Facts) -> Iterator[Step]:
        """Forwarding, and the chain that filters the traffic of netwrap's bridges."""
        yield from _forwarding(seen)
        yield iptables.new_chain("filter", CHAIN, "A chain of its own keeps netwrap's rules apart from all others.")
        yield iptables.insert(
            "filter",
            "FORWARD",
            "host",
            (),
            (CHAIN,),
            "Forwarded packets go through netwrap's chain first. The tutorial's `-P FORWARD ACCEPT` would make the "
            "host a router for everybody; this chain accepts traffic of netwrap's bridges only.",
        )

    def create(self, network: Network, seen: Facts) -> Iterator[Step]:
        """The bridge with the gateway's address."""
        br, mac = network.bridge, mac_of("bridge", network.gateway)
        yield link.add_bridge(
            br, mac, f"A bridge is a switch in the kernel: {br} joins the containers of {network.name}."
        )
        if network.mtu != 1500:
            yield link.set_mtu(
                br, mac, network.mtu, 1500, f"Packets on {network.name} are at most {network.mtu} bytes long."
            )
        yield addr.add(
            br, mac, network.gateway_cidr, f"With {network.gateway} on the bridge, the host is the containers' gateway."
        )
        yield from _ipv6_off(
            br,
            network,
            seen,
            f"netwrap is for IPv4. With IPv6 on {br}, a container could become this host's router (CVE-2020-13401).",
        )
        why = f"A link carries no packets until it is up. This also adds the route for {network.subnet}."
        yield link.set_up(br, mac, why)

    def forward(self, network: Network, seen: Facts) -> Iterator[Step]:
        """The forwarding rules, and masquerading unless the network is internal."""
        if seen.sysctls.get(FORWARDING) == "1" and seen.sysctls.get(sysctl.of_link("default", "forwarding")) == "0":
            key = sysctl.of_link(network.bridge, "forwarding")
            why = f"This host forwards, but not on new links: turns forwarding on for {network.bridge}."
            yield sysctl.write(key, "1", "0", why)
        yield iptables.insert(
            "raw",
            "PREROUTING",
            network.name,
            ("-i", network.bridge, "!", "-s", str(network.subnet)),
            ("DROP",),
            f"Drops packets from {network.bridge} whose source is not in {network.subnet}: with CAP_NET_RAW a "
            "container can forge any source address, for example one that --allow-from lets in.",
        )
        yield from (_closed if network.internal else _open)(network)

    def link(self, one: Network, other: Network, seen: Facts) -> Iterator[Step]:
        """Each network's chain accepts packets from the other one; source addresses are kept."""
        mark = f"{one.name}+{other.name}"
        for here, there in ((one, other), (other, one)):
            yield iptables.insert(
                "filter",
                chain_of(here.bridge),
                mark,
                ("-i", there.bridge),
                ("ACCEPT",),
                f"Accepts packets from {there.name} to {here.name}. The host has routes to both already.",
            )
            yield iptables.insert(
                "nat",
                "POSTROUTING",
                mark,
                ("-s", str(here.subnet), "-o", there.bridge, *nat.NOT_DNAT),
                ("ACCEPT",),
                f"{there.name} sees the real addresses of {here.name}: only traffic to the outside is masqueraded.",
            )
        if conntrack.TOOL in seen.tools:
            for source, target in ((one, other), (other, one)):
                yield conntrack.forget_between(
                    source.subnet,
                    target.subnet,
                    f"Forgets connections from {source.name} to {target.name}: the packets of an old connection would "
                    "be accepted as replies, whatever the new rules say.",
                )

    def connect(self, network: Network, endpoint: Endpoint, container: Container, seen: Facts) -> Iterator[Step]:
        """A veth pair with one end in the bridge and the other in the container, which gets an address and a route."""
        e, ns, br = endpoint, container.netns, network.bridge
        yield link.add_veth(
            e.veth,
            e.veth_mac,
            e.peer,
            e.mac,
            network.mtu,
            f"A veth pair is a cable: {e.veth} stays on the host, {e.peer} goes into {e.container}.",
        )
        yield link.set_master(e.veth, e.veth_mac, br, f"The host's end of the cable becomes a port of the bridge {br}.")
        yield from _ipv6_off(e.veth, network, seen, f"The host's end of the cable, {e.veth}, has no IPv6 either.")
        yield sysctl.turn_on(
            e.veth,
            "rp_filter",
            seen.sysctls.get(sysctl.of_link("default", "rp_filter"), "0"),
            f"Frames to some reserved MACs (LLDP, LACP) bypass {br} and its rules: the kernel receives them on "
            f"{e.veth} itself. No route goes through {e.veth}, so its reverse path filter drops them.",
        )
        yield link.set_up(e.veth, e.veth_mac, f"Brings up the host's end, {e.veth}.")
        yield link.move(
            e.peer,
            e.mac,
            ns,
            e.ifname,
            f"The other end moves into {e.container} and is named {e.ifname} there.",
        )
        yield from owned(container.owner, _loopback(ns, seen))
        yield link.set_up(e.ifname, e.mac, f"Brings up {e.ifname} inside {e.container}.", ns)
        yield addr.add(
            e.ifname,
            e.mac,
            f"{e.ip}/{network.subnet.prefixlen}",
            f"{e.container} gets the address {e.ip} in {network.subnet}.",
            ns,
        )
        if e.default_route:
            yield route.add_default(
                str(network.gateway),
                e.ifname,
                e.mac,
                f"{e.container} sends everything outside {network.subnet} to the gateway {network.gateway}.",
                ns,
            )
        elif not network.internal:
            yield from self.replies(network, e, container)

    def replies(self, network: Network, endpoint: Endpoint, container: Container) -> Iterator[Step]:
        """A routing table for packets from the endpoint's address: replies take the network of the request."""
        e, ns = endpoint, container.netns
        yield route.add(
            str(network.subnet),
            None,
            e.ifname,
            e.mac,
            e.table,
            f"{e.container} is on several networks. Routing table {e.table} is for packets from {e.ip}.",
            ns,
        )
        yield route.add(
            "default",
            str(network.gateway),
            e.ifname,
            e.mac,
            e.table,
            f"In that table everything else goes to the gateway of {network.name}.",
            ns,
        )
        yield route.add_rule(
            str(e.ip),
            e.table,
            f"Replies from {e.ip} leave through {network.name}, where the request came from: the client would not "
            "recognize replies that took another way.",
            ns,
        )

    def publishing(self, network: Network, seen: Facts) -> Iterator[Step]:
        """What lets the host reach published ports at 127.0.0.1, and containers at the host's addresses."""
        yield from nat.publishing(network, seen)

    def hairpin(self, endpoint: Endpoint) -> Iterator[Step]:
        """Lets a container reach its own published port on hosts with br_netfilter."""
        yield link.set_hairpin(
            endpoint.veth,
            endpoint.veth_mac,
            f"Lets {endpoint.container} reach its own published port: with br_netfilter the bridge sends the frame "
            "back out of the port where it came in.",
        )

    def to_itself(self, called: Endpoint, calling: Endpoint) -> Iterator[Step]:
        """Lets a container reach, through one of its networks, a port that it publishes on another."""
        yield from nat.to_itself(called, calling)

    def publish(self, endpoint: Endpoint, port: PublishedPort, seen: Facts) -> Iterator[Step]:
        """The tutorial's two DNAT rules; earlier UDP traffic is made to follow them."""
        yield from nat.publish(endpoint, port, seen)


def _ipv6_off(name: str, network: Network, seen: Facts, why: str) -> Iterator[Step]:
    """Disables the host's IPv6 on a new link, unless the kernel has no IPv6, or none on links with that MTU."""
    default = seen.sysctls.get(sysctl.of_link("default", "disable_ipv6", "ipv6"))
    if default is not None and network.mtu >= MIN_MTU_OF_IPV6:
        yield sysctl.turn_on(name, "disable_ipv6", default, why, "ipv6")


def _forwarding(seen: Facts) -> Iterator[Step]:
    """Turns forwarding on if it is off, and first records the settings that the kernel changes with it.

    Source: kernel, Documentation/networking/ip-sysctl.rst, ip_forward: "changing its value resets all
    configuration parameters to their default state"; that is accept_redirects and each link's forwarding.
    """
    if seen.sysctls.get(FORWARDING, "0") == "1":
        return
    if seen.sysctls.get(REDIRECTS, "1") == "0":
        yield sysctl.keep(
            REDIRECTS,
            "0",
            "It is 0 and stays 0. It is set here so that undo can restore it: the kernel sets it to 1 when forwarding "
            "is turned off.",
        )
    for name in sorted([*seen.host.links, "default"]):
        key = sysctl.of_link(name, "forwarding")
        if seen.sysctls.get(key) == "1":
            yield sysctl.keep(
                key,
                "1",
                f"{name} forwards already. It is set here so that undo can restore it: the kernel clears it when "
                "forwarding is turned off.",
            )
    yield sysctl.write(
        FORWARDING,
        "1",
        "0",
        "Lets the host forward packets from one link to another; containers need that.",
    )


def _open(network: Network) -> Iterator[Step]:
    """The forwarding rules and the masquerading of an ordinary network."""
    br, mark, chain = network.bridge, network.name, chain_of(network.bridge)
    yield iptables.new_chain("filter", chain, f"This chain decides what may be forwarded to {network.name}.")
    yield iptables.append(
        "filter",
        chain,
        mark,
        ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT"),
        ("ACCEPT",),
        "Accepts replies to the containers' requests, and connections to published ports.",
    )
    yield iptables.append(
        "filter",
        chain,
        mark,
        ("-i", br),
        ("ACCEPT",),
        "Containers of one network reach each other, also on hosts with br_netfilter.",
    )
    why = f"Drops everything else to {network.name}: from other networks and from the LAN."
    yield iptables.append("filter", chain, mark, (), ("DROP",), why)
    yield iptables.insert(
        "filter", CHAIN, mark, ("-o", br), (chain,), f"Packets to be forwarded to {br} go through {chain}."
    )
    yield iptables.append(
        "filter",
        CHAIN,
        mark,
        ("-i", br, "-p", "tcp", "-m", "tcp", *_NOT_SYN, "-m", "conntrack", "--ctstate", "NEW"),
        ("REJECT", "--reject-with", "tcp-reset"),
        "Resets TCP connections that the kernel has forgotten, for example after `unpublish`. If host port and "
        "container port are the same number, they would continue as connections of the container.",
    )
    yield iptables.append("filter", CHAIN, mark, ("-i", br), ("ACCEPT",), f"Accepts what containers on {br} send.")
    yield from nat.way_out(network)


def _closed(network: Network) -> Iterator[Step]:
    """The forwarding rules of an internal network. Packets pass the mangle table before filter (iptables(8)): no rule
    that anybody adds to filter later can let anything in or out."""
    br, mark = network.bridge, network.name
    yield iptables.append(
        "filter", CHAIN, mark, ("-i", br, "-o", br), ("ACCEPT",), "Containers of one network reach each other."
    )
    yield iptables.insert(
        "mangle",
        "FORWARD",
        mark,
        ("-i", br, "!", "-o", br),
        ("DROP",),
        f"{network.name} is internal: nothing gets out. The mangle table comes before all rules of filter.",
    )
    yield iptables.insert("mangle", "FORWARD", mark, ("!", "-i", br, "-o", br), ("DROP",), "Nothing gets in either.")


def _loopback(ns: Netns, seen: Facts) -> Iterator[Step]:
    """127.0.0.1 inside the container, if lo is down there. The kernel adds the address itself when lo comes
    up but does not remove it when lo goes down; as a step of its own it can be undone."""
    space = seen.space(ns)
    lo = space.links.get("lo") if space else None
    if lo is not None and lo.up:
        return
    if space is None or not any(dev == "lo" for dev, _ in space.addrs):
        yield addr.add(
            "lo",
            link.LOOPBACK_MAC,
            "127.0.0.1/8",
            f"{ns.name} gets 127.0.0.1. The kernel would add it with the next step; as a step of its own it can be "
            "undone.",
            ns,
        )
    yield link.set_up("lo", link.LOOPBACK_MAC, f"Brings up the loopback link of {ns.name}: it can talk to itself.", ns)
