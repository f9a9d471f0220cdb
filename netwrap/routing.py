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
    """A container's packets go by somebody who is not the gateway of a network of its own."""
    for place, name in ((case.trial.start, "start"), (case.trial.goal, "answer")):
        endpoint = next((e for e in case.state.endpoints if e.container == place and e.default_route), None)
        way = case.clues.ways.get(name)
        if endpoint is None or not place or way is None or gap.arp not in ("", way.via):
            continue
        gateways = [case.state.networks[e.network].gateway for e in case.state.endpoints if e.container == place]
        if not way.via or way.via in map(str, gateways):
            continue
        gateway = case.state.networks[endpoint.network].gateway
        says = f"{way.via}; its gateway is {gateway}"
        ip = case.trial.ip if name == "start" else _asker(case)
        if other := _narrower(case, place, ip, way.dev):
            fix = f"ip -n {place} route del {other}"
            return Break("route", f"route {other} in {place} leads what is for {ip} to {says}", fix)
        return Break("route", f"the default route of {place} goes to {says}", _default_mend(case, place, way.via))
    return None


def _default_mend(case: Case, place: str, via: str) -> str | None:
    """`repair` puts a default route of ours in its place; one of somebody's in front of it has to go."""
    if any(x.step.probe.kind == "route" and x.step.probe.ns is not None for x in case.lost):
        return REPAIR
    rows = case.clues.routes.get(place, ())
    row = next((r for r in rows if r.get("dst") == "default" and r.get("gateway") == via), None)
    if row is None or row.get("table") not in (None, "main"):
        return None
    metric = ("metric", str(row["metric"])) if row.get("metric") else ()
    return shell_line((*_ip(place), "route", "del", "default", "via", via, *metric))


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
    comes = gap.last.link if gap.kind == FORWARDING and gap.last is not None else "lo"
    mark = case.clues.marks.get("forward" if gap.going else "return", 0) if gap.kind == FORWARDING else 0
    asked = {"main", "default"}
    routes = [(row, str(row.get("table") or "main")) for row in case.clues.routes.get(place, ())]
    for rule in case.clues.policy.get(place, ()):
        if not _rule_fits(rule, ip, source, comes, mark):
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
    if (dev == "lo" or error) and (found := _own_address(case, place, ip, source)):
        return found
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
        return Break("route", f"{where} does not send what is for {ip}: {error}", f"{tool} route get {ip}")
    other = _narrower(case, place, ip, dev)
    fix = f"{tool} route del {other}" if other else None
    to = f"{dev} via {via}" if via else dev
    return Break("route", f"{where} sends packets for {ip} to {to}" + (f" (route {other})" if other else ""), fix)


def _own_address(case: Case, place: str, *ends: str) -> Break | None:
    """An end of the packets' way that the place on it takes for itself."""
    others = {str(e.ip) for e in case.state.endpoints if e.container != place}
    where = place or "this host"
    for ip in others & {*ends}:
        for row in case.clues.addresses.get(place, ()):
            for own in row.get("addr_info", ()):
                if own.get("local") == ip:
                    cidr = f"{ip}/{own.get('prefixlen', 32)}"
                    line = shell_line((*_ip(place), "addr", "del", cidr, "dev", row["ifname"]))
                    return Break("address", f"{where} has the address {ip} itself, on {row['ifname']}", line)
        for row in case.clues.routes.get(place, ()):
            if row.get("type") == "local" and row.get("dst") == ip:
                words = ("local", ip, "dev", str(row.get("dev", "lo")), "table", str(row.get("table", "main")))
                line = shell_line((*_ip(place), "route", "del", *words))
                return Break("route", f"route {' '.join(words)} in {where}: it takes {ip} for its own", line)
    return None


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


_HARD = ("oif", "not", "tos", "ipproto", "sport", "dport", "uid_start", "l3mdev", "suppress_prefixlen")
"""What else a rule for routes may ask for, and is not looked at: such a rule is not blamed."""


def _rule_fits(rule: dict[str, Any], ip: str, source: str, comes: str, mark: int) -> bool:
    """Return whether a rule for routes is for packets from one address to another that come by a link."""
    src, dst = rule.get("src", "all"), rule.get("dst", "all")
    if any(key in rule for key in _HARD) or rule.get("iif", comes) != comes:
        return False
    if "fwmark" in rule:
        wanted, mask = (int(str(rule.get(key, "0xffffffff")), 0) for key in ("fwmark", "fwmask"))
        if mark & mask != wanted:
            return False

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
        words += ["fwmark", str(rule["fwmark"]) + (f"/{rule['fwmask']}" if rule.get("fwmask") else "")]
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
