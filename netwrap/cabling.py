"""Links, cables and bridges that carry no packets, or carry them elsewhere."""

from __future__ import annotations

from itertools import pairwise

from netwrap.shot import Point
from netwrap.steps import shell_line
from netwrap.verdict import BRIDGE, Break, Case, Gap, locate, missing


def by_link(case: Case, gap: Gap) -> Break | None:
    """Find a link that is missing, down or in another bridge."""
    bridges = [case.state.networks[name].bridge for name in case.trial.networks]
    inside = [Point("", bridge, False) for bridge in bridges] if gap.kind == BRIDGE else []
    for point in (*inside, *filter(None, (gap.last, gap.next))):
        if found := broken_link(case, point) or _without_carrier(case, point):
            return found
    return None


def _without_carrier(case: Case, point: Point) -> Break | None:
    """Find a link that is up but has no carrier because the other end of its cable is down."""
    row = case.clues.link(point.place, point.link)
    if row is None or "NO-CARRIER" not in row.get("flags", ()):
        return None
    for one, other in pairwise(case.trial.way):
        if one.place != other.place and point.link in (one.link, other.link):
            far = other if (one.place, one.link) == (point.place, point.link) else one
            if found := broken_link(case, far):
                return found
    return None


def broken_link(case: Case, point: Point) -> Break | None:
    """Find a link that is missing or down."""
    name, place = point.link, point.place
    if place and place not in case.clues.links:
        return None
    row = case.clues.link(place, name)
    where = f" of {place}" if place else ""
    tool = f"ip -n {place}" if place else "ip"
    if row is None:
        lost = next((x for x in case.lost if x.step.probe.kind in ("link", "netns")), None)
        return missing(lost.step.do.text(), lost.hop) if lost else Break("link", f"{name}{where} is not there", None)
    if "UP" not in row.get("flags", ()):
        lost = next((x for x in case.lost if x.step.probe.kind == "up" and x.step.probe.key[0] == name), None)
        if lost is not None:
            return missing(lost.step.do.text(), lost.hop)
        return Break("link", f"{name}{where} is down", f"{tool} link set dev {name} up")
    return None


def without_arp(case: Case, point: Point) -> Break | None:
    """Find a link that neither sends nor answers ARP requests."""
    row = case.clues.link(point.place, point.link)
    if row is None or "NOARP" not in row.get("flags", ()):
        return None
    tool = f"ip -n {point.place}" if point.place else "ip"
    return Break("link", f"ARP is off on {point}", f"{tool} link set dev {point.link} arp on")


def by_arp(case: Case, gap: Gap) -> Break | None:
    """Nothing answers ARP because ARP is off where the request arrived."""
    return without_arp(case, gap.last) if gap.arp and gap.last is not None else None


def by_bridge(case: Case, gap: Gap) -> Break | None:
    """Find a bridge port that has left the bridge, or is blocked, isolated or filtered."""
    bridges = {n.bridge for n in case.state.networks.values()}
    for point in filter(None, (gap.last, gap.next)):
        row = case.clues.link(point.place, point.link)
        if row is None or point.place or point.link in bridges:
            continue
        if row.get("master") not in bridges:
            lost = next(
                (x for x in case.lost if x.step.probe.kind == "master" and x.step.probe.key[0] == point.link), None
            )
            if lost is not None:
                return missing(lost.step.do.text(), lost.hop)
        port = row.get("linkinfo", {}).get("info_slave_data", {})
        if port.get("state") not in (None, "forwarding") and "NO-CARRIER" not in row.get("flags", ()):
            return Break(
                "bridge port",
                f"{point.link} is {port['state']} in {row.get('master')}",
                f"bridge link set dev {point.link} state 3",
            )
    ports = [case.clues.link("", p.link) for p in (gap.last, gap.next) if p is not None and p.link not in bridges]
    if len(ports) == 2 and all(p and p.get("linkinfo", {}).get("info_slave_data", {}).get("isolated") for p in ports):
        names = [p["ifname"] for p in ports if p]
        fix = " && ".join(f"bridge link set dev {name} isolated off" for name in names)
        return Break("bridge port", f"{' and '.join(names)} are isolated from each other in their bridge", fix)
    return None


def by_vlan(case: Case, gap: Gap) -> Break | None:
    """Find a bridge that filters VLANs, if nothing else explains the loss."""
    for point in filter(None, (gap.last, gap.next)):
        port_row = case.clues.link(point.place, point.link) or {}
        bridge = case.clues.link("", port_row.get("master", ""))
        if bridge and bridge.get("linkinfo", {}).get("info_data", {}).get("vlan_filtering"):
            name = bridge["ifname"]
            return Break("bridge", f"{name} filters VLANs", f"ip link set dev {name} type bridge vlan_filtering 0")
    return None


def by_mtu(case: Case, gap: Gap) -> Break | None:
    """Find the link that the packets never reached because they are bigger than its MTU."""
    if gap.next is None or gap.last is None:
        return None
    row = case.clues.link(gap.next.place, gap.next.link)
    packets = case.packets(gap.last, "request" if gap.going else "answer")
    if row is None or not any(p.size > row.get("mtu", p.size) for p in packets):
        return None
    return too_big(case, max(p.size for p in packets))


def too_big(case: Case, size: int) -> Break:
    """Find a link on the way that silently drops packets as big as the first link allows."""
    network = case.state.networks[case.trial.networks[0]]
    rows = [(p, row) for p in case.trial.way if (row := case.clues.link(p.place, p.link)) is not None]
    bridges = {n.bridge for n in case.state.networks.values()}
    for point, row in sorted(rows, key=lambda found: found[0].link in bridges):  # a bridge has the MTU of its ports
        if row.get("mtu") != network.mtu:
            tool = ("ip", "-n", point.place) if point.place else ("ip",)
            mtu = f"{point} has an MTU of {row.get('mtu')}, its network one of {network.mtu}"
            fix = shell_line((*tool, "link", "set", "dev", point.link, "mtu", str(network.mtu)))
            return Break("mtu", f"packets of {size} bytes are lost: {mtu}", fix)
    return Break(
        "unknown", f"packets of {size} bytes are lost, small ones are not; {locate(case).seen(case.trial)}", None
    )
