"""The bridge driver: a Linux bridge on the host, a veth pair a container, iptables for the way out and in.

The rules, by chain, and what each is for (docs/design.md has the table with reasons):

    filter FORWARD          -> NETWRAP                 ours are decided first, whatever the host's policy
    filter NETWRAP          -o BR -> NETWRAP-BR        to a container;  -i BR ACCEPT: from one
    filter NETWRAP-BR       replies and published ports, the bridge's own, nothing else

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
"""In bytes (RFC 8200, section 5): below it the kernel has no IPv6 on a link, and no settings for it."""


def chain_of(bridge: str) -> str:
    """The chain that decides what may be forwarded to a bridge's containers."""
    return f"{CHAIN}-{bridge}"


class Bridge:
    """Networks as Docker's bridge driver and the tutorials make them."""

    def host(self, seen: Facts) -> Iterator[Step]:
        """Forwarding, and the chain in which our bridges' traffic is decided."""
        yield from _forwarding(seen)
        yield iptables.new_chain("filter", CHAIN, "A chain of netwrap's own: rules of others stay apart from ours.")
        yield iptables.insert(
            "filter",
            "FORWARD",
            "host",
            (),
            (CHAIN,),
            "Forwarded packets meet our chain first. The tutorial's `-P FORWARD ACCEPT` would open the host as "
            "a router for everybody; our chain accepts for our bridges only.",
        )

    def create(self, network: Network, seen: Facts) -> Iterator[Step]:
        """The bridge with the gateway's address."""
        br, mac = network.bridge, mac_of("bridge", network.gateway)
        yield link.add_bridge(
            br, mac, f"A bridge is a switch in the kernel: {br} joins the containers of {network.name}."
        )
        if network.mtu != 1500:
            yield link.set_mtu(
                br, mac, network.mtu, 1500, f"Packets on {network.name} have at most {network.mtu} bytes."
            )
        yield addr.add(
            br, mac, network.gateway_cidr, f"{network.gateway} on the bridge makes the host the containers' gateway."
        )
        yield from _ipv6_off(
            br,
            network,
            seen,
            f"netwrap does IPv4. With IPv6 on {br}, a container could make itself this host's router (CVE-2020-13401).",
        )
        yield link.set_up(br, mac, f"A link carries nothing until it is up; now {network.subnet} is routed to {br}.")

    def forward(self, network: Network, seen: Facts) -> Iterator[Step]:
        """The forwarding rules, and the way out where there is one."""
        if seen.sysctls.get(FORWARDING) == "1" and seen.sysctls.get(sysctl.of_link("default", "forwarding")) == "0":
            key = sysctl.of_link(network.bridge, "forwarding")
            yield sysctl.write(key, "1", "0", "This host forwards, but not on new links: the bridge has to be told.")
        yield iptables.insert(
            "raw",
            "PREROUTING",
            network.name,
            ("-i", network.bridge, "!", "-s", str(network.subnet)),
            ("DROP",),
            f"Only addresses of {network.subnet} may come in from {network.bridge}: with CAP_NET_RAW a container can "
            "forge any source, also one that a published port is open to.",
        )
        yield from (_closed if network.internal else _open)(network)

    def link(self, one: Network, other: Network, seen: Facts) -> Iterator[Step]:
        """Each network's chain lets the other one in, and neither hides its addresses from the other."""
        mark = f"{one.name}+{other.name}"
        for here, there in ((one, other), (other, one)):
            yield iptables.insert(
                "filter",
                chain_of(here.bridge),
                mark,
                ("-i", there.bridge),
                ("ACCEPT",),
                f"What comes from {there.name} may go to {here.name}. The host has a route to both: that is all.",
            )
            yield iptables.insert(
                "nat",
                "POSTROUTING",
                mark,
                ("-s", str(here.subnet), "-o", there.bridge, *nat.NOT_DNAT),
                ("ACCEPT",),
                f"{there.name} sees the addresses of {here.name} as they are: only what goes outside is masqueraded.",
            )
        if conntrack.TOOL in seen.tools:
            for source, target in ((one, other), (other, one)):
                yield conntrack.forget_between(
                    source.subnet,
                    target.subnet,
                    f"Connections from {source.name} to {target.name} begin anew: one that stands passes as a reply, "
                    "whatever the rules say by now.",
                )

    def connect(self, network: Network, endpoint: Endpoint, container: Container, seen: Facts) -> Iterator[Step]:
        """A veth pair: one end into the bridge, the other into the container, which gets address and route."""
        e, ns, br = endpoint, container.netns, network.bridge
        yield link.add_veth(
            e.veth,
            e.veth_mac,
            e.peer,
            e.mac,
            network.mtu,
            f"A veth pair is a cable: {e.veth} stays here, {e.peer} goes to {e.container}.",
        )
        yield link.set_master(e.veth, e.veth_mac, br, f"This end of the cable goes into the bridge {br}.")
        yield from _ipv6_off(e.veth, network, seen, f"No IPv6 on {e.veth} either, the host's end of the cable.")
        yield sysctl.turn_on(
            e.veth,
            "rp_filter",
            seen.sysctls.get(sysctl.of_link("default", "rp_filter"), "0"),
            f"Frames to some reserved MACs (LLDP, LACP) come in past {br} and its rules: the kernel hands them to "
            f"{e.veth} itself. No route leads back by {e.veth}, so its reverse path filter drops them.",
        )
        yield link.set_up(e.veth, e.veth_mac, f"{e.veth} is up on the host's side.")
        yield link.move(
            e.peer,
            e.mac,
            ns,
            e.ifname,
            f"The other end goes into {e.container} and is called {e.ifname} there, as programs expect.",
        )
        yield from owned(container.owner, _loopback(ns, seen))
        yield link.set_up(e.ifname, e.mac, f"{e.ifname} is up inside {e.container}.", ns)
        yield addr.add(
            e.ifname,
            e.mac,
            f"{e.ip}/{network.subnet.prefixlen}",
            f"{e.container} has the address {e.ip} in {network.subnet}.",
            ns,
        )
        if e.default_route:
            yield route.add_default(
                str(network.gateway),
                e.ifname,
                e.mac,
                f"Whatever is not in {network.subnet} leaves {e.container} by the gateway {network.gateway}.",
                ns,
            )
        elif not network.internal:
            yield from self.replies(network, e, container)

    def replies(self, network: Network, endpoint: Endpoint, container: Container) -> Iterator[Step]:
        """A routing table for what the endpoint's address sends: who called by this network is answered by it."""
        e, ns = endpoint, container.netns
        yield route.add(
            str(network.subnet),
            None,
            e.ifname,
            e.mac,
            e.table,
            f"{e.container} is on several networks. A second routing table, {e.table}, is for what {e.ip} sends.",
            ns,
        )
        yield route.add(
            "default",
            str(network.gateway),
            e.ifname,
            e.mac,
            e.table,
            f"By that table everything else goes to the gateway of {network.name}.",
            ns,
        )
        yield route.add_rule(
            str(e.ip),
            e.table,
            f"Replies of {e.ip} leave by {network.name}, where they were asked for: by another way nobody would "
            "recognize them.",
            ns,
        )

    def publishing(self, network: Network, seen: Facts) -> Iterator[Step]:
        """What lets the host reach published ports by 127.0.0.1, and containers by the host's addresses."""
        yield from nat.publishing(network, seen)

    def hairpin(self, endpoint: Endpoint) -> Iterator[Step]:
        """Lets a container call its own published port where bridges are filtered."""
        yield link.set_hairpin(
            endpoint.veth,
            endpoint.veth_mac,
            f"{endpoint.container} may call its own published port: with br_netfilter the frame leaves by the port "
            "that it came in.",
        )

    def to_itself(self, called: Endpoint, calling: Endpoint) -> Iterator[Step]:
        """Lets a container call, by one of its networks, a port that it publishes on another."""
        yield from nat.to_itself(called, calling)

    def publish(self, endpoint: Endpoint, port: PublishedPort, seen: Facts) -> Iterator[Step]:
        """The tutorial's two DNAT rules, and the traffic that began before them."""
        yield from nat.publish(endpoint, port, seen)


def _ipv6_off(name: str, network: Network, seen: Facts, why: str) -> Iterator[Step]:
    """Keeps the host's IPv6 off a new link, unless the kernel has none, or none on links of its MTU."""
    default = seen.sysctls.get(sysctl.of_link("default", "disable_ipv6", "ipv6"))
    if default is not None and network.mtu >= MIN_MTU_OF_IPV6:
        yield sysctl.turn_on(name, "disable_ipv6", default, why, "ipv6")


def _forwarding(seen: Facts) -> Iterator[Step]:
    """Turns forwarding on where it is off, and first holds on to the settings that the kernel changes along.

    Source: kernel, Documentation/networking/ip-sysctl.rst, ip_forward: "changing its value resets all
    configuration parameters to their default state"; that is accept_redirects and each link's forwarding.
    """
    if seen.sysctls.get(FORWARDING, "0") == "1":
        return
    if seen.sysctls.get(REDIRECTS, "1") == "0":
        yield sysctl.keep(
            REDIRECTS,
            "0",
            "It is 0 and stays 0; said here because the kernel sets it to 1 when forwarding goes off again.",
        )
    for name in sorted([*seen.host.links, "default"]):
        key = sysctl.of_link(name, "forwarding")
        if seen.sysctls.get(key) == "1":
            yield sysctl.keep(
                key,
                "1",
                f"{name} forwards already; said here because the kernel clears it when forwarding goes off again.",
            )
    yield sysctl.write(
        FORWARDING,
        "1",
        "0",
        "A host passes packets on from one link to another only when told to; containers need that.",
    )


def _open(network: Network) -> Iterator[Step]:
    """The forwarding rules and the way out of an ordinary network."""
    br, mark, chain = network.bridge, network.name, chain_of(network.bridge)
    yield iptables.new_chain("filter", chain, f"What may be forwarded to {network.name} is decided here.")
    yield iptables.append(
        "filter",
        chain,
        mark,
        ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT"),
        ("ACCEPT",),
        "Replies to what containers asked for may come in, and what comes by a published port.",
    )
    yield iptables.append(
        "filter",
        chain,
        mark,
        ("-i", br),
        ("ACCEPT",),
        "Containers of one network reach each other, also where bridges are filtered.",
    )
    yield iptables.append(
        "filter", chain, mark, (), ("DROP",), f"Nothing else reaches {network.name}: not other networks, not the LAN."
    )
    yield iptables.insert(
        "filter", CHAIN, mark, ("-o", br), (chain,), f"What is about to be forwarded to {br} is decided in {chain}."
    )
    yield iptables.append(
        "filter",
        CHAIN,
        mark,
        ("-i", br, "-p", "tcp", "-m", "tcp", *_NOT_SYN, "-m", "conntrack", "--ctstate", "NEW"),
        ("REJECT", "--reject-with", "tcp-reset"),
        "TCP that the kernel does not know and that does not begin here was cut off, as by `unpublish`: it ends. Where "
        "both ports have one number it would go on as a connection of the container's own.",
    )
    yield iptables.append("filter", CHAIN, mark, ("-i", br), ("ACCEPT",), f"What comes from {br} may go on.")
    yield from nat.way_out(network)


def _closed(network: Network) -> Iterator[Step]:
    """The forwarding rules of an internal network. The mangle table is asked before filter (iptables(8)): no rule
    that comes into filter later, ours or another's, lets anything past."""
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
        f"{network.name} is internal: no way out. In mangle, which is asked before any rule of filter.",
    )
    yield iptables.insert("mangle", "FORWARD", mark, ("!", "-i", br, "-o", br), ("DROP",), "And no way in.")


def _loopback(ns: Netns, seen: Facts) -> Iterator[Step]:
    """127.0.0.1 inside the container, where it is down. The kernel adds the address itself when lo comes
    up but does not take it away again; said as a step, undo can."""
    space = seen.space(ns)
    lo = space.links.get("lo") if space else None
    if lo is not None and lo.up:
        return
    if space is None or not any(dev == "lo" for dev, _ in space.addrs):
        yield addr.add(
            "lo",
            link.LOOPBACK_MAC,
            "127.0.0.1/8",
            f"{ns.name} has 127.0.0.1. The kernel would add it with the next step; said by hand it can be taken back.",
            ns,
        )
    yield link.set_up("lo", link.LOOPBACK_MAC, f"The loopback link of {ns.name}: it can talk to itself.", ns)
