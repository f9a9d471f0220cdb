"""Why a packet was lost: the kernel's counters, settings and routes at the place where it was lost.

Nothing is guessed: a named cause has counted the packets, or is a fact that alone explains the loss. Otherwise the
cause is unknown.
"""

from __future__ import annotations

from collections.abc import Callable

from netwrap.cabling import broken_link, by_arp, by_bridge, by_link, by_mtu, by_vlan
from netwrap.check import OUTSIDE
from netwrap.evidence import Counted
from netwrap.packet import CODES, EXCEEDED
from netwrap.routing import cannot_leave, wrong_gateway, wrong_route
from netwrap.shot import Point
from netwrap.steps import shell_line
from netwrap.verdict import (
    BEYOND,
    BRIDGE,
    CABLE,
    FORWARDING,
    RECEIVING,
    REPAIR,
    SENDING,
    Break,
    Case,
    Gap,
    locate,
    missing,
)
from netwrap.wrongway import misdirected, strangers, taken, untracked

HOOKS = {
    SENDING: ("output", "postrouting", "egress"),
    FORWARDING: ("prerouting", "forward", "postrouting", "ingress", "egress"),
    RECEIVING: ("prerouting", "input", "ingress", "output", "postrouting", "egress"),
    BRIDGE: ("prerouting", "input", "forward", "output", "postrouting", "ingress", "egress"),
    CABLE: ("ingress", "egress"),
}
"""The nftables hooks that a packet passes at each kind of place where it can be lost."""


def explain(case: Case) -> Break:
    """Return the first hop that breaks."""
    if found := misdirected(case):
        return found
    gap = locate(case)
    for ask in (*_ASK[gap.kind], untracked):
        if found := ask(case, gap):
            return found
    return _suspected(case, gap) or unknown(case, gap)


def unknown(case: Case, gap: Gap) -> Break:
    """Return what is known if no cause is found: where the packet was last seen, and what has been ruled out."""
    if case.answered and case.arrived:
        return Break("unknown", "some packets get an answer and others do not", None)
    if gap.kind == BEYOND:
        return Break("unknown", f"{gap.seen(case.trial)}; what happens outside this host is not seen", None)
    ruled_out = ["rules of iptables that drop", "routes", "reverse path filters"]
    if case.clues.has_nft:
        ruled_out.append("rules of nftables that drop")
    more = "" if case.clues.has_nft else "; nft is not installed, so rules of nftables could not be seen"
    return Break("unknown", f"{gap.seen(case.trial)}; ruled out: {', '.join(ruled_out)}{more}", None)


# ---- what counted


def _by_rule(case: Case, gap: Gap) -> Break | None:
    """Find a rule that has taken the packets: another program's or user's, or ours because another is missing."""
    places = [gap.place or ""]
    if gap.kind == RECEIVING and not gap.going and gap.place is not None:
        places = [gap.place]
    if gap.kind == BRIDGE:
        places = [""]
    for place in places:
        for c in taken(case, place):
            return blame(case, c)
    return None


def blame(case: Case, c: Counted) -> Break:
    """Return the cause to name for a rule that takes packets which should not reach it."""
    where = f" in {c.place}" if c.place else ""
    if not c.rule or c.is_ours:
        if not c.place and (lost := _lost_rule(case, c)):
            return lost
        if not c.place and (stranger := _leads_past(case, c)):
            return Break(
                "rule",
                f"{stranger.text}: it bypasses netwrap's rules, so that {c.text} takes the packets",
                stranger.removal,
            )
        if c.is_ours and case.order:
            return Break("rule", f"{c.text} takes the packets: {case.order}", REPAIR)
        return Break("rule", f"{c.text}{where}", _opening(case, c))
    return Break("rule", f"{c.text}{where}", c.removal)


def _lost_rule(case: Case, c: Counted) -> Break | None:
    """Find a rule or chain of ours that is missing in the table of the rule that takes the packets."""
    for lost in case.lost:
        probe = lost.step.probe
        if probe.kind in ("rule", "chain") and probe.key[0] == c.table and not {"DROP", "REJECT"} & {*probe.key}:
            return missing(lost.step.do.text(), lost.hop)
    return None


def _leads_past(case: Case, c: Counted) -> Counted | None:
    """Find a foreign rule that leaves one of our chains too early."""
    ours = {step.chain for step in case.counted.get("", ()) if step.is_ours} | {c.chain}
    for other in case.counted.get("", ()):
        ends = other.verdict in ("RETURN",) or "-g" in other.rule
        if (
            ends
            and other.rule
            and not other.is_ours
            and other.table == c.table
            and (other.chain in ours or other.chain == "FORWARD" or other.chain.startswith("NETWRAP"))
        ):
            return other
    return None


def _opening(case: Case, c: Counted) -> str | None:
    """Return the command that lets our links in if a policy takes their packets; the policy is the host's."""
    if c.rule:
        return c.removal if c.place else None
    inside = f"ip netns exec {c.place} " if c.place else ""
    if c.place:
        return f"{inside}{c.tool} -w -t {c.table} -P {c.chain} ACCEPT"
    link = case.trial.passes[0] or case.trial.passes[1]
    option = {"INPUT": "-i", "OUTPUT": "-o"}.get(c.chain)
    if not link or option is None or case.trial.is_forwarded:
        return None
    return shell_line((c.tool, "-w", "-t", c.table, "-I", c.chain, option, link, "-j", "ACCEPT"))


def _by_sum(case: Case, gap: Gap) -> Break | None:
    """Find the cause in the kernel's counters of dropped packets: reverse path filter, full tables, IPsec, queues."""
    place = gap.place or ""
    sums = case.sums.get(place, {})
    inside = f"ip netns exec {place} " if place else ""
    where = f" in {place}" if place else ""
    if sums.get("TcpExtIPReversePathFilter", 0) >= case.shots:
        links = sorted({p.link for p in (*case.trial.way,) if p.place == place})
        strict = [x for x in (*links, "all") if case.clues.setting(place, f"net/ipv4/conf/{x}/rp_filter") == "1"]
        fixes = [f"{inside}sysctl net/ipv4/conf/{x}/rp_filter=0" for x in strict]
        what = f"the reverse path filter{where} drops the packets: answers would leave by another link"
        route = wrong_route(case, Gap(FORWARDING, place, gap.last, gap.next, not gap.going)) or wrong_route(case, gap)
        if route is not None and "route get" not in (route.fix or ""):  # the kernel refuses due to the filter itself
            return Break("rp_filter", f"{what} ({route.broken})", route.fix)
        return Break("rp_filter", what, " && ".join(fixes) or None)
    if sums.get("conntrack full", 0) >= case.shots:
        limit = case.clues.setting(place, "net/netfilter/nf_conntrack_max")
        return Break(
            "conntrack",
            f"the table of connections is full (nf_conntrack_max={limit})",
            f"sysctl net.netfilter.nf_conntrack_max={2 * int(limit or 65536)}",
        )
    for name, n in sums.items():
        if name.startswith("qdisc ") and n >= case.shots and name.split()[1] in _links_of(gap, place):
            link = name.split()[1]
            return Break(
                "queue",
                f"the queue of {link}{where} drops packets ({name.split()[-1]})",
                f"{inside}tc qdisc del dev {link} root",
            )
        if name.startswith("Xfrm") and n >= case.shots:
            return Break("ipsec", f"IPsec{where} drops the packets ({name}): see `{inside}ip xfrm policy`")
    return None


def _links_of(gap: Gap, place: str) -> set[str]:
    return {p.link for p in (gap.last, gap.next) if p is not None and p.place == place}


# ---- who gets it


def _by_address(case: Case, gap: Gap) -> Break | None:
    """Find why nothing answers ARP or IP: the address is not where it should be."""
    place = gap.place
    if place is None or place not in case.clues.addresses:
        return None
    trial, ip = case.trial, gap.arp or (case.trial.leads_to or case.trial.ip)
    have = {
        (row.get("ifname"), a.get("local")) for row in case.clues.addresses[place] for a in row.get("addr_info", ())
    }
    if gap.kind == RECEIVING and ip not in {a for _, a in have}:
        lost = next(
            (x for x in case.lost if x.step.probe.kind == "addr" and x.step.probe.key[2].startswith(f"{ip}/")), None
        )
        if lost is not None:
            return missing(lost.step.do.text(), lost.hop)
        if gap.going and ip in (trial.leads_to, trial.ip):
            return Break("address", f"{place or 'this host'} does not have the address {ip}", None)
    return None


def _by_service(case: Case, gap: Gap) -> Break | None:
    """The container got the packet: check whether a program listens for it."""
    trial = case.trial
    if not gap.going or gap.arp or not trial.goal:
        return None
    if trial.port is not None and trial.how in ("tcp", "udp"):
        there = [li for li in case.clues.listeners if li.protocol == trial.how]
        ports = range(trial.port.port, trial.port.port + trial.port.count)
        fits = [li for li in there if li.port in ports]
        if not any(li.ip is None or str(li.ip) == trial.leads_to for li in fits):
            service = trial.port.spec.rpartition(":")[2]
            where = f", only on {', '.join(sorted({str(li.ip) for li in fits}))}" if fits else ""
            return Break(
                "service",
                f"nothing listens on port {service} in {trial.goal} ({trial.leads_to}){where}",
                f"netwrap exec {trial.goal} -- ss -lntu",
            )
        if case.sums.get(trial.goal, {}).get("TcpExtListenOverflows", 0) >= 1:
            return Break(
                "service",
                f"the service in {trial.goal} does not accept connections: its queue is full",
                f"netwrap exec {trial.goal} -- ss -lnt",
            )
    return None


def _by_echo(case: Case, gap: Gap) -> Break | None:
    if case.trial.how != "ping" or not gap.going or gap.arp or gap.place is None:
        return None
    if case.clues.setting(gap.place, "net/ipv4/icmp_echo_ignore_all") != "1":
        return None
    inside = f"ip netns exec {gap.place} " if gap.place else ""
    what = f"net.ipv4.icmp_echo_ignore_all is 1: {gap.place or 'this host'} gets pings and answers none"
    return Break("setting", what, f"{inside}sysctl net.ipv4.icmp_echo_ignore_all=0")


# ---- forwarding


def _by_forwarding(case: Case, gap: Gap) -> Break | None:
    """Find a link that receives the packet but does not forward."""
    if gap.kind != FORWARDING or gap.last is None or gap.arp:
        return None
    every, own = "net/ipv4/conf/all/forwarding", f"net/ipv4/conf/{gap.last.link}/forwarding"
    if case.clues.setting("", own) != "0":
        return None
    if case.clues.setting("", every) == "0":
        return Break(
            "forwarding",
            "net.ipv4.conf.all.forwarding is 0 (net.ipv4.ip_forward)",
            REPAIR if _has_lost_sysctl(case) else "sysctl net.ipv4.conf.all.forwarding=1",
        )
    key = own if "." in gap.last.link else own.replace("/", ".")
    return Break("forwarding", f"{key} is 0", f"sysctl {key}=1")


def _has_lost_sysctl(case: Case) -> bool:
    return any(x.step.probe.kind == "sysctl" for x in case.lost)


def _by_words(case: Case, _: Gap) -> Break | None:
    """Use ICMP errors from routers on the way; errors from our own addresses are explained by other checks."""
    for said in case.errors_seen():
        if said.port == EXCEEDED:
            return Break("route", f"{said.src} says: time exceeded (the packet's TTL has run out)", None)
        ours = {
            a.get("local") for rows in case.clues.addresses.values() for row in rows for a in row.get("addr_info", ())
        }
        if said.src not in ours:
            return Break("outside", f"{said.src} says: {CODES.get(said.port, f'unreachable ({said.port})')}", None)
    return None


def _by_outside(case: Case, gap: Gap) -> Break | None:
    """The packet has left this host correctly, and nothing answers."""
    if gap.arp and gap.going:
        link = gap.last.link if gap.last else "-"
        return Break(
            "outside",
            f"no machine on {link} answers ARP requests for {gap.arp}",
            f"ping -c 1 {gap.arp}  # does it answer this host?",
        )
    if case.trial.target in (OUTSIDE, "internet") and gap.going and gap.last is not None:
        return _unanswered(case, gap.last)
    if gap.next is not None and case.trial.start and case.trial.start not in case.trial.containers:
        row = case.clues.link("", gap.next.link)
        if row is not None and "UP" not in row.get("flags", ()):
            return Break("link", f"{gap.next.link} is down", f"ip link set dev {gap.next.link} up")
        if found := broken_link(case, gap.next):
            return found
    return None


def _unanswered(case: Case, last: Point) -> Break:
    """Explain a packet that has left for outside correctly and got no answer. If this host gets no answer either, that
    says nothing about containers."""
    ip, link = case.trial.ip, last.link
    source = next((p.src for p in case.packets(last, "request")), "")
    said = f"no answer from {ip}: the packet has left by {link}, from {source}"
    rows = case.clues.neighbours.get("", ())
    via = next((r for r in rows if r.get("dst") == ip and "PERMANENT" in r.get("state", ())), None)
    if case.host_hears is False and via is not None:
        entry = f"for {ip} stands {via.get('lladdr')} (ip neigh: permanent)"
        return Break("neighbour", f"{said}; {entry}: if that is wrong, this is why", None)
    if case.host_hears is False and case.trial.target == OUTSIDE:
        return Break(None, f"{said}; it answers this host no pings either")
    more = {None: "", True: "; it answers this host", False: "; it does not answer this host either"}[case.host_hears]
    return Break("outside", said + more)


LOW = 8
"""A lower TTL does not carry a packet far: hosts start with 64 or more (RFC 1700)."""


def _by_change(case: Case, gap: Gap) -> Break | None:
    """Find a foreign rule that has changed the TTL, if the packets were lost because of that."""
    packets = case.packets(gap.last, "request" if gap.going else "answer") if gap.last is not None else []
    is_short = any(0 < p.ttl < LOW for p in packets) and not (case.trial.target == OUTSIDE and gap.kind == BEYOND)
    ended = case.sums.get("", {}).get("IpInHdrErrors", 0) >= case.shots
    if not is_short and not ended and not any(said.port == EXCEEDED for said in case.errors_seen()):
        return None
    for chain in ("PREROUTING", "OUTPUT", "FORWARD", "POSTROUTING"):
        for c in strangers(case, "mangle", chain, "TTL"):
            return Break("rule", f"{c.text}: it changes how far the packets get", c.removal)
    return None


def _by_missing(case: Case, gap: Gap) -> Break | None:
    """Find a setting of ours that is missing, and needed, at the place where the packet is lost."""
    for lost in case.lost:
        key = lost.step.probe.key[0]
        if lost.step.probe.kind == "sysctl" and key.endswith("route_localnet") and gap.kind in (SENDING, FORWARDING):
            return missing(lost.step.do.text(), lost.hop)
    return None


def _suspected(case: Case, gap: Gap) -> Break | None:
    """Find a rule that drops without counting: named if the packet passes its hook and everything else is ruled out."""
    place = gap.place or ""
    family = {BRIDGE: ("bridge", "netdev"), CABLE: ("netdev",)}.get(gap.kind, ("ip", "inet", "netdev"))
    families = ("arp", "netdev", "bridge") if gap.arp else family
    if gap.kind == BRIDGE and case.clues.setting("", "net/bridge/bridge-nf-call-iptables") == "1":
        families = (*families, "ip", "inet")
    found = [
        s
        for s in case.clues.suspects.get(place, ())
        if s.family in families and (s.hook in HOOKS.get(gap.kind, ()) or not s.hook)
    ]
    if not found:
        return None
    first = found[0]
    inside = f"ip netns exec {place} " if place else ""
    what = (
        f"nftables: {first.what} in {first.table} {first.chain}"
        if len(found) == 1
        else "one of these of nftables: " + ", ".join(f"{s.what} in {s.table} {s.chain}" for s in found)
    )
    return Break(
        "rule",
        f"{what} ({gap.seen(case.trial)}, and nothing else drops it)",
        inside + first.removal if len(found) == 1 else None,
    )


_ASK: dict[str, tuple[Callable[[Case, Gap], Break | None], ...]] = {
    SENDING: (by_link, _by_missing, wrong_gateway, cannot_leave, _by_rule, _by_sum, wrong_route),
    CABLE: (by_link, _by_sum, by_mtu),
    BRIDGE: (by_link, by_bridge, _by_rule, _by_sum, by_vlan),
    FORWARDING: (_by_rule, _by_sum, _by_forwarding, wrong_route, by_link, _by_change, _by_words, _by_missing),
    RECEIVING: (by_arp, wrong_gateway, _by_address, _by_rule, _by_sum, _by_service, _by_echo, wrong_route, _by_change),
    BEYOND: (_by_change, _by_words, _by_outside),
}


def lets_through(case: Case) -> Break:
    """Return what let a forbidden packet through: a missing rule of ours, or a foreign rule in front of ours."""
    nets = [case.state.networks[name] for name in case.trial.networks]
    table = "mangle" if any(n.internal for n in nets) else "filter"
    for lost in case.lost:
        probe = lost.step.probe
        decides = probe.kind == "chain" or {"DROP", "REJECT"} & {*probe.key} or probe.key[-1].startswith("NETWRAP")
        if probe.kind in ("rule", "chain") and probe.key[0] == table and decides:
            return Break("isolation", f"missing: {lost.step.do.text()}", REPAIR)
    if case.trial.port is not None:
        for c in strangers(case, "nat", "PREROUTING", "DNAT", "REDIRECT"):
            return Break("isolation", f"{c.text} lets it through", c.removal)
    for c in strangers(case, table, "FORWARD", "ACCEPT", "RETURN"):
        return Break("isolation", f"{c.text} lets it through", c.removal)
    if case.order:
        return Break("isolation", case.order, REPAIR)
    return Break("isolation", "the packet has arrived, and no rule of iptables that has counted it explains why", None)
