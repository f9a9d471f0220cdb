"""Routes, and rules for routes, that lead a packet elsewhere or nowhere."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from netwrap.steps import shell_line
from netwrap.verdict import FORWARDING, RECEIVING, REPAIR, SENDING, Break, Case, Gap

_SAYS = {
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "unreachable by a route",
    errno.EACCES: "prohibited by a route",
    errno.EINVAL: "no valid route",
    errno.ENETDOWN: "the link is down",
}


_NOWHERE = ("unreachable", "prohibit", "blackhole")


def cannot_leave(case: Case, gap: Gap) -> Break | None:
    """What the kernel says at once to who sends."""
    for number in sorted(case.errors & set(_SAYS)):
        if found := wrong_route(case, gap):
            return found
        says = f"{gap.place or 'this host'} cannot send to {case.trial.ip}: {_SAYS[number]}"
        return Break("route", says, shell_line((*_ip(gap.place or ""), "route", "get", case.trial.ip)))
    return None


def _ip(place: str) -> tuple[str, ...]:
    return ("ip", "-n", place) if place else ("ip",)


def wrong_gateway(case: Case, gap: Gap) -> Break | None:
    """A container's default route that leads to somebody who is not the gateway of its network."""
    for place in (case.trial.start, case.trial.goal):
        endpoint = next((e for e in case.state.endpoints if e.container == place and e.default_route), None)
        if endpoint is None or not place or (gap.arp and gap.arp in case.trial.ip):
            continue
        gateway = str(case.state.networks[endpoint.network].gateway)
        for row in case.clues.routes.get(place, ()):
            via = row.get("gateway", gateway)
            if (
                row.get("dst") == "default"
                and row.get("table") in (None, "main")
                and gap.arp in ("", via)
                and via != gateway
            ):
                return Break("route", f"the default route of {place} goes to {via}; its gateway is {gateway}", REPAIR)
    return None


def wrong_route(case: Case, gap: Gap) -> Break | None:
    """A route or a rule for routes that leads the packet, or its answer, elsewhere or nowhere."""
    trial = case.trial
    place = gap.place or ""
    if gap.kind == SENDING and gap.going:
        way, ip = case.clues.ways.get("host" if not place else "start"), trial.leads_to or trial.ip
    elif gap.kind == FORWARDING:
        name = "forward" if gap.going else "return"
        way = case.clues.ways.get(name)
        ip = (trial.leads_to or trial.ip) if gap.going else case.clues.source
    elif gap.kind in (RECEIVING, SENDING) and (gap.place == trial.goal):
        way, ip = case.clues.ways.get("answer"), _asker(case)
    else:
        return None
    if way is None or not ip:
        return None
    link = gap.next.link if gap.next is not None else trial.back[0].link if trial.back else ""
    expected = {link} if gap.kind != FORWARDING else {*trial.passes} - {gap.last.link if gap.last else ""}
    if not way.error and way.kind not in _NOWHERE and (way.dev in expected or not way.dev):
        return None
    return _why(case, place, ip, way.error or (way.kind if way.kind in _NOWHERE else ""), way.dev, way.via, gap)


def _asker(case: Case) -> str:
    """The address under which the packets came to their goal."""
    points = [p for p in case.trial.way if p.place == case.trial.goal]
    return next((p.src for point in points for p in case.packets(point, "request")), "")


def _why(case: Case, place: str, ip: str, error: str, dev: str, via: str, gap: Gap) -> Break | None:
    tool = f"ip -n {place}" if place else "ip"
    where = place or "this host"
    source = case.clues.source if gap.going else case.trial.leads_to or case.trial.ip
    asked = {"main", "default"}
    routes = [(row, str(row.get("table") or "main")) for row in case.clues.routes.get(place, ())]
    for rule in case.clues.policy.get(place, ()):
        if not _rule_fits(rule, ip, source):
            continue
        if rule.get("action") in _NOWHERE and error:
            what = f"ip rule {_rule_text(rule)} in {where}: {ip} is {rule['action']}"
            return Break("route", what, f"{tool} rule del {_rule_text(rule)}")
        table = str(rule.get("table", ""))
        asked.add(table)
        is_plain = rule.get("priority") in (0, 32766, 32767) or _is_of_ours(case, rule)
        leads = any(t == table and r.get("dev") == dev and _is_for(r, ip) for r, t in routes)
        if dev and leads and not is_plain and table not in ("main", "local", "default"):
            what = f"ip rule {_rule_text(rule)} in {where} sends packets for {ip} to {dev}"
            return Break("route", what, f"{tool} rule del {_rule_text(rule)}")
    for row, table in routes:
        if row.get("type") in _NOWHERE and error and table in asked and _is_for(row, ip):
            which = f"{row['type']} {row['dst']}" + ("" if table == "main" else f" table {table}")
            return Break("route", f"route {which} in {where}", f"{tool} route del {which}")
    for row in case.clues.addresses.get(place, ()) if dev == "lo" else ():
        for own in row.get("addr_info", ()):
            if own.get("local") == ip and row.get("ifname") != "lo":
                cidr, link = f"{ip}/{own.get('prefixlen', 32)}", row["ifname"]
                line = shell_line((*_ip(place), "addr", "del", cidr, "dev", link))
                return Break("address", f"{where} has the address {ip} itself, on {link}", line)
    lost = [x for x in case.lost if x.step.probe.kind in ("addr", "route", "up", "link", "ip rule")]
    if lost and (place == "" or any(x.step.probe.ns is not None for x in lost)):
        return Break(lost[0].hop, f"missing: {lost[0].step.do.text()}", REPAIR)
    network = next((n for n in case.state.networks.values() if IPv4Address(ip) in n.subnet), None)
    if network is not None:
        endpoint = next((e for e in case.state.endpoints if e.container == place and e.network == network.name), None)
        link = endpoint.ifname if endpoint else network.bridge
        if dev != link and (endpoint or not place):
            other = _narrower(case, place, ip, dev)
            if other:
                return Break(
                    "route", f"route {other} in {where} sends packets for {ip} to {dev}", f"{tool} route del {other}"
                )
            connected = any(
                _cidr(r.get("dst", "")) == str(network.subnet) and r.get("dev") == link
                for r in case.clues.routes.get(place, ())
            )
            if not connected:
                return Break("route", f"{where} has no route to {network.subnet}", REPAIR)
    if error:
        return Break("route", f"{where} has no route to {ip}: {error}", f"{tool} route get {ip}")
    other = _narrower(case, place, ip, dev)
    fix = f"{tool} route del {other}" if other else None
    to = f"{dev} via {via}" if via else dev
    return Break("route", f"{where} sends packets for {ip} to {to}" + (f" (route {other})" if other else ""), fix)


def _narrower(case: Case, place: str, ip: str, dev: str) -> str:
    """The route of the main table that leads an address to a link, as `ip route del` takes it."""
    fits = [
        r
        for r in case.clues.routes.get(place, ())
        if r.get("dev") == dev
        and r.get("table") in (None, "main")
        and r.get("type") in (None, "unicast")
        and covers(_cidr(r.get("dst", "")), ip)
    ]
    best = max(fits, key=lambda r: IPv4Network(_cidr(r["dst"])).prefixlen, default=None)
    if best is None or best.get("protocol") == "kernel":
        return ""
    via = f" via {best['gateway']}" if best.get("gateway") else ""
    return f"{best['dst']}{via} dev {dev}"


def _is_for(row: dict[str, Any], ip: str) -> bool:
    return row.get("dst") == "default" or covers(_cidr(row.get("dst", "")), ip)


def _cidr(dst: str) -> str:
    return dst if "/" in dst or dst in ("", "default") else f"{dst}/32"


def _rule_fits(rule: dict[str, Any], ip: str, source: str) -> bool:
    """Return whether a rule for routes is for packets from one address to another."""
    src, dst = rule.get("src", "all"), rule.get("dst", "all")

    def fits(net: str, length: Any, one: str) -> bool:
        if net == "all":
            return True
        return bool(one) and covers(f"{net}/{length if length is not None else 32}", one)

    return fits(src, rule.get("srclen"), source) and fits(dst, rule.get("dstlen"), ip)


def _rule_text(rule: dict[str, Any]) -> str:
    words = ["pref", str(rule.get("priority"))]
    for key, name in (("src", "from"), ("dst", "to")):
        if rule.get(key, "all") != "all":
            length = rule.get(f"{key}len")
            words += [name, rule[key] + (f"/{length}" if length is not None else "")]
    if rule.get("iif"):
        words += ["iif", rule["iif"]]
    if rule.get("fwmark"):
        words += ["fwmark", str(rule["fwmark"])]
    words += [str(rule["action"])] if rule.get("action") else ["table", str(rule.get("table"))]
    return " ".join(words)


def _is_of_ours(case: Case, rule: dict[str, Any]) -> bool:
    return any(str(e.table) == str(rule.get("table")) and str(e.ip) == rule.get("src") for e in case.state.endpoints)


def covers(dst: str, ip: str) -> bool:
    """Return whether an address is in a network; a default route leads to no network."""
    try:
        return dst != "default" and IPv4Address(ip) in IPv4Network(dst, strict=False)
    except ValueError:
        return False
