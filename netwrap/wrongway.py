"""Packets that go another way: to another machine, with another address, by another route; or that cannot leave."""

from __future__ import annotations

from netwrap import evidence
from netwrap.cabling import without_arp
from netwrap.evidence import Counted
from netwrap.routing import covers
from netwrap.shot import Point
from netwrap.strangers import BUILT_IN
from netwrap.verdict import REPAIR, Break, Case, Gap


def misdirected(case: Case) -> Break | None:
    """Somebody else got the packet, or it left with an address that it should not have."""
    return _led_elsewhere(case) or _led_away(case) or _wrong_mac(case) or _wrong_source(case)


def _led_away(case: Case) -> Break | None:
    """What is for no port of ours, and yet has got another destination on this host."""
    others = {s.packet.dst for s in case.seen if s.packet.what == "request" and s.packet.kind != "arp"}
    if case.trial.port is not None or not others - {case.trial.ip}:
        return None
    for c in strangers(case, "nat", "PREROUTING" if case.trial.start else "OUTPUT", "DNAT", "NETMAP"):
        return Break("rule", f"{c.text}: it leads what is for {case.trial.ip} elsewhere", c.removal)
    return None


def _led_elsewhere(case: Case) -> Break | None:
    """A published port that leads to somebody else, or to nobody."""
    trial = case.trial
    if trial.port is None or trial.leads_to is None or not trial.goal:
        return None
    arrived = any(
        s.packet.dst == trial.leads_to for s in case.seen if s.packet.kind != "arp" and s.packet.what == "request"
    )
    if arrived:
        return None
    if taken(case, ""):
        return None
    entered = not trial.start or any(case.packets(p, "request") for p in trial.way[:1])
    if not entered:
        return None
    chain = "PREROUTING" if trial.start else "OUTPUT"
    for c in strangers(case, "nat", chain, "DNAT", "REDIRECT", "ACCEPT", "RETURN"):
        one = f" {trial.port.host_port}" if trial.port.count == 1 else ""
        return Break("rule", f"{c.text}: it takes the port{one}", c.removal)
    for c in unseen(case, chain):
        return Break("rule", f"{c.text}: {_SO[_is_zone(c)]} are not translated", c.removal)
    for lost in case.lost:
        key = lost.step.probe.key
        if lost.step.probe.kind == "rule" and key[:2] == ("nat", chain):
            return Break(lost.hop, f"missing: {lost.step.do.text()}", REPAIR)
    local = {cidr.split("/")[0] for _, cidr in case.facts.host.addrs}
    if trial.port.host_ip and str(trial.port.host_ip) not in local and not trial.port.host_ip.is_loopback:
        who = f"; {_who(case)} answers" if case.answered else ""
        link = next((r.dev for r in case.facts.host.routes if r.dev and covers(r.dst, str(trial.port.host_ip))), None)
        fix = f"ip addr add {trial.port.host_ip}/32 dev {link}" if link and not case.answered else None
        return Break("address", f"{trial.port.host_ip} is no address of this host{who}", fix)
    if case.answered or case.refused:
        return Break(
            "unknown",
            f"the packet does not come to {trial.goal}: somebody else {'answers' if case.answered else 'refuses'} it",
            None,
        )
    return None


def _belongs(case: Case, c: Counted, chain: str) -> bool:
    """Return whether a counted rule is in a built-in chain, or in one that rules which counted lead to from there."""
    chains = {chain}
    for other in case.counted.get("", ()):
        if other.table == c.table and other.chain in chains:
            chains.add(other.verdict)
    return c.chain in chains


def _who(case: Case) -> str:
    """Who got the packet, by the MAC address that it left to."""
    last = next(
        (
            s.packet
            for s in reversed(case.seen)
            if s.point.out and s.packet.what == "request" and s.packet.kind != "arp"
        ),
        None,
    )
    return f"who has {last.dst_mac}" if last and last.dst_mac else "somebody else"


def untracked(case: Case, _: Gap) -> Break | None:
    """A rule of somebody's that keeps packets from being tracked: no NAT takes place for them, and no way back."""
    if case.trial.port is None and case.trial.goal is not None:
        return None  # nothing is translated
    for chain in ("PREROUTING", "OUTPUT"):
        for c in unseen(case, chain):
            return Break("rule", f"{c.text}: {_SO[_is_zone(c)]} are not translated back", c.removal)
    return None


_SO = {False: "packets that are not tracked", True: "packets that are tracked in a zone of their own"}


def _is_zone(c: Counted) -> bool:
    return any(word.startswith("--zone") for word in c.rule)


def unseen(case: Case, chain: str) -> list[Counted]:
    """Rules of others that take packets out of the table in which NAT looks for them (`-j CT` may do other things)."""
    found = strangers(case, "raw", chain, "CT", "NOTRACK")
    return [c for c in found if c.verdict == "NOTRACK" or "--notrack" in c.rule or _is_zone(c)]


def taken(case: Case, place: str) -> list[Counted]:
    """The rules of a place that have counted all of the packets, fit them, and let none go on."""
    return [c for c in case.counted.get(place, ()) if c.takes and fits(case, c)]


def fits(case: Case, c: Counted) -> bool:
    """Return whether a rule can have met the trial's packets: others may have counted at the same time."""
    trial = case.trial
    links = {n.bridge for name, n in case.state.networks.items() if name in trial.networks} | {*trial.passes, "lo"}
    links |= {s.point.link for s in case.seen if s.point.place == c.place}
    links |= {p.link for p in trial.way if p.place == c.place}
    ends = {ip for s in case.seen for ip in (s.packet.src, s.packet.dst)} | {trial.ip, trial.leads_to or ""}
    kind = {"ping": "icmp", "isolated": ""}.get(trial.how, trial.how)
    ports: set[int] = set()
    if trial.port is not None:
        for first in (trial.port.host_port, trial.port.port):
            ports |= set(range(first, first + trial.port.count))
    return not evidence.contradicts(c.rule, links - {""}, kind, ends - {""}, frozenset(ports))


def strangers(case: Case, table: str, chain: str, *verdicts: str) -> list[Counted]:
    """Rules of others that the packets have met, in a chain of the host or one that it leads to."""
    return [
        c
        for c in case.counted.get("", ())
        if c.table == table
        and c.rule
        and not c.is_ours
        and ((c.verdict in verdicts and c.verdict != "RETURN") or ("RETURN" in verdicts and leaves_ours(c)))
        and _belongs(case, c, chain)
        and fits(case, c)
    ]


def leaves_ours(c: Counted) -> bool:
    """Return whether a rule leads past what stands behind it in a chain of ours or a built-in one; from a chain of
    their own others may return."""
    ends = c.verdict == "RETURN" or "-g" in c.rule
    return ends and (c.chain in BUILT_IN or c.chain.startswith("NETWRAP"))


def _wrong_mac(case: Case) -> Break | None:
    """A frame that was sent to another MAC address than that of who should get it."""
    wanted = _macs(case)
    for going, way in ((True, case.trial.way), (False, case.trial.back)):
        for n, point in enumerate(way):
            mac = _mac_at(way, n, wanted)
            packets = case.packets(point, "request" if going else "answer")
            wrong = next(
                (p for p in packets if p.dst_mac and mac and p.dst_mac not in (mac, "00:00:00:00:00:00")), None
            )
            if wrong is None or not point.out:
                continue
            if found := _whose_mac(case, point, wrong.dst_mac, mac or ""):
                return found
    return None


def _macs(case: Case) -> dict[str, str]:
    """The MAC addresses of ends: containers by name, bridges by theirs."""
    found = {}
    for e in case.state.endpoints:
        row = case.clues.link(e.container, e.ifname)
        found[f"{e.container}/{e.ifname}"] = row.get("address", e.mac) if row else e.mac
    for network in case.state.networks.values():
        row = case.clues.link("", network.bridge)
        if row is not None:
            found["/" + network.bridge] = row.get("address", "")
    return found


def _mac_at(way: tuple[Point, ...], n: int, macs: dict[str, str]) -> str | None:
    """The MAC address that a frame has to be for at a point: that of the next IP hop on its way."""
    for point in way[n + 1 :]:
        if f"{point.place}/{point.link}" in macs and not point.out:
            return macs[f"{point.place}/{point.link}"]
    return None


def _whose_mac(case: Case, point: Point, mac: str, wanted: str) -> Break | None:
    if found := without_arp(case, point):
        return found
    inside = f"ip -n {point.place}" if point.place else "ip"
    place = point.place or "this host"
    entry = next((row for row in case.clues.neighbours.get(point.place, ()) if row.get("lladdr") == mac), None)
    said = next((p for p in case.arps(point.turned(), "answer") if p.src_mac == mac), None)
    if entry is None and said is None:
        return None  # why it is sent there is not known
    ip = str(entry.get("dst")) if entry else said.src if said else ""
    owner = next((e.container for e in case.state.endpoints if e.mac == mac), None)
    if host_link := next((r for r in case.clues.links.get("", ()) if r.get("address") == mac), None):
        pulled = next((x for x in case.lost if x.step.probe.kind in ("master", "link")), None)
        if pulled is not None:
            return Break(pulled.hop, f"missing: {pulled.step.do.text()}", REPAIR)
        return Break("address", f"{host_link['ifname']} of this host answers for {ip}, in the place of {wanted}", None)
    permanent = entry is not None and "PERMANENT" in entry.get("state", ())
    fix = f"{inside} neigh del {ip} dev {entry['dev']}" if entry and permanent else None
    if permanent:
        return Break(
            "neighbour", f"{place} sends packets for {ip} to {mac} (ip neigh: permanent) instead of {wanted}", fix
        )
    if any(e.mac == mac and str(e.ip) == ip for e in case.state.endpoints):
        return None  # it is for somebody else indeed
    who = f"{owner} ({mac})" if owner else mac
    return Break("address", f"{who} answers for {ip}, which is {wanted}'s: the address is there twice", None)


def _wrong_source(case: Case) -> Break | None:
    """A packet that left for outside with the container's address, or with one that is not this host's."""
    trial = case.trial
    if trial.goal is not None or not trial.is_forwarded:
        return None
    (packet, *_) = [*case.packets(trial.way[-1], "request"), None]
    if packet is None:
        return None
    local = {cidr.split("/")[0] for _, cidr in case.facts.host.addrs}
    if packet.src in local:
        return None
    for c in strangers(case, "nat", "POSTROUTING", "ACCEPT", "RETURN", "SNAT", "MASQUERADE", "NETMAP"):
        what = f"{c.text}: the packet leaves with the source {packet.src}, which outside machines cannot reply to"
        return Break("rule", what, c.removal)
    for c in unseen(case, "PREROUTING"):
        return Break("rule", f"{c.text}: {_SO[_is_zone(c)]} are not masqueraded", c.removal)
    for lost in case.lost:
        if lost.step.probe.kind == "rule" and lost.step.probe.key[:2] == ("nat", "POSTROUTING"):
            return Break(lost.hop, f"missing: {lost.step.do.text()}", REPAIR)
    return Break(
        "unknown",
        f"the packet leaves by {trial.way[-1].link} from {packet.src}, which is no address of this host",
        None,
    )
