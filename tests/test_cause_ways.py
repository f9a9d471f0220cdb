"""Where a packet was lost by routes, neighbours, links and settings: what is blamed, and what is not."""

from __future__ import annotations

import errno
from dataclasses import replace

from test_cause import (
    FROM_HOST,
    FROM_LAN,
    TO_GATEWAY,
    TO_NEIGHBOUR,
    TO_OUTSIDE,
    UP,
    asked,
    case,
    passed,
)
from test_check import LAN, all_trials
from test_check import built as built
from world import World

from netwrap.cause import explain
from netwrap.packet import Packet
from netwrap.shot import Sighting
from netwrap.verdict import Clues, Way, locate


def test_settings_count_where_the_packet_is_lost_and_nowhere_else(built: World) -> None:
    off = Clues(settings={"": {"net/ipv4/conf/testbridge/forwarding": "0", "net/ipv4/conf/all/forwarding": "1"}})
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    found = explain(case(built, TO_OUTSIDE, seen, clues=off))
    assert (found.hop, found.fix) == ("forwarding", "sysctl net.ipv4.conf.testbridge.forwarding=1")
    assert explain(case(built, TO_GATEWAY, passed(all_trials(built)[TO_GATEWAY], 3), clues=off)).hop == "unknown"


def test_what_the_kernel_counts(built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    for sums, hop in (
        ({"TcpExtIPReversePathFilter": 3}, "rp_filter"),
        ({"TcpExtIPReversePathFilter": 2}, "unknown"),
        ({"conntrack full": 3}, "conntrack"),
        ({"XfrmInNoPols": 3}, "ipsec"),
        ({"qdisc eth0 netem": 3}, "queue"),
        ({"qdisc wlan0 netem": 3}, "unknown"),
    ):
        assert explain(case(built, TO_OUTSIDE, seen, sums={"": sums})).hop == hop


def test_routes(built: World) -> None:
    rule = {"priority": 100, "src": "10.0.0.0", "srclen": 24, "action": "unreachable"}
    nowhere = Clues(ways={"forward": Way(error="No route to host")}, source="10.0.0.2")
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    found = explain(case(built, TO_OUTSIDE, seen, clues=replace(nowhere, policy={"": [rule]})))
    assert (found.hop, found.fix) == ("route", "ip rule del pref 100 from 10.0.0.0/24 unreachable")
    route = {"type": "blackhole", "dst": "192.168.1.0/24"}
    found = explain(case(built, TO_OUTSIDE, seen, clues=replace(nowhere, routes={"": [route]})))
    assert (found.hop, found.fix) == ("route", "ip route del blackhole 192.168.1.0/24")
    elsewhere = Clues(ways={"host": Way("eth0")}, routes={"": [{"dst": "10.0.0.2", "dev": "eth0"}]})
    found = explain(case(built, FROM_HOST, [], clues=elsewhere))
    assert (found.hop, found.fix) == ("route", "ip route del 10.0.0.2 dev eth0")
    found = explain(case(built, FROM_HOST, [], clues=Clues(ways={"host": Way("eth0", "192.168.1.1")})))
    assert (found.hop, found.broken) == ("route", "this host has no route to 10.0.0.0/24")
    assert found.fix == "netwrap repair"


def test_a_default_route_to_somebody_else(built: World) -> None:
    rows = [{"dst": "default", "gateway": "10.0.0.99", "dev": "eth0", "metric": 10}]
    seen = asked(all_trials(built)[TO_OUTSIDE].way[:3], "10.0.0.99")
    to = Clues(routes={"c1": rows}, ways={"start": Way("eth0", "10.0.0.99")})
    found = explain(case(built, TO_OUTSIDE, seen, clues=to))
    assert found.broken == "the default route of c1 goes to 10.0.0.99; its gateway is 10.0.0.1"
    assert found.fix == "ip -n c1 route del default via 10.0.0.99 metric 10"  # ours stands, behind it
    narrow = Clues(routes={"c1": [rows[0] | {"dst": "192.168.0.0/16"}]}, ways=to.ways)
    found = explain(case(built, TO_OUTSIDE, seen, clues=narrow))
    assert found.fix == "ip -n c1 route del 192.168.0.0/16 via 10.0.0.99 dev eth0"
    built.prepare("ip -n c1 route del default via 10.0.0.1 dev eth0")
    assert explain(case(built, TO_OUTSIDE, seen, clues=to)).fix == "netwrap repair"


def test_a_default_route_that_is_not_asked_is_not_blamed(built: World) -> None:
    rows = {"c1": [{"dst": "default", "gateway": "10.0.0.99", "dev": "eth0", "metric": 500}]}
    clues = Clues(routes=rows, ways={"start": Way("eth0", "10.0.0.1"), "answer": Way("eth0", "10.0.0.1")})
    for name, points in ((TO_OUTSIDE, 0), (FROM_LAN, 4)):
        trial = all_trials(built, LAN)[name]
        assert explain(case(built, name, passed(trial, points), clues=clues)).hop in ("unknown", "service")


def test_what_the_kernel_says_at_once(built: World) -> None:
    found = explain(case(built, TO_OUTSIDE, [], errors=frozenset({errno.ENETUNREACH})))
    assert (found.hop, found.broken) == ("route", "c1 cannot send to 192.168.1.1: no route")


def test_links_that_are_down_or_blocked(built: World) -> None:
    name = "c1 to c2 at 10.0.0.3"
    way = all_trials(built)[name].way
    veth = [{"ifname": way[1].link, **UP}, {"ifname": way[2].link, **UP}]
    ports = [row | {"master": "testbridge", "linkinfo": {"info_slave_data": {"isolated": True}}} for row in veth]
    found = explain(case(built, name, passed(all_trials(built)[name], 2), clues=Clues(links={"": ports})))
    assert found.hop == "bridge port"
    assert "isolated off" in (found.fix or "")
    blocked = [veth[0] | {"master": "testbridge", "linkinfo": {"info_slave_data": {"state": "blocking"}}}, veth[1]]
    found = explain(case(built, name, passed(all_trials(built)[name], 2), clues=Clues(links={"": blocked})))
    assert found.fix == f"bridge link set dev {way[1].link} state 3"
    down = {"": [veth[0] | {"flags": ["NO-CARRIER", "UP"]}], "c1": [{"ifname": "eth0", "flags": []}]}
    found = explain(case(built, name, passed(all_trials(built)[name], 2), clues=Clues(links=down)))
    assert (found.broken, found.fix) == ("eth0 of c1 is down", "ip -n c1 link set dev eth0 up")


def test_a_frame_for_another_machine(built: World) -> None:
    trial = all_trials(built)[FROM_HOST]
    entry = {"dst": "10.0.0.2", "dev": "testbridge", "lladdr": "02:00:00:00:00:66", "state": ["PERMANENT"]}
    seen = passed(trial, 2, dst_mac="02:00:00:00:00:66")
    found = explain(case(built, FROM_HOST, seen, clues=Clues(neighbours={"": [entry]})))
    assert (found.hop, found.fix) == ("neighbour", "ip neigh del 10.0.0.2 dev testbridge")
    says = Packet("arp", "answer", "10.0.0.2", "10.0.0.1", 0, 0, "02:00:00:00:00:66")
    found = explain(case(built, FROM_HOST, [*seen, Sighting(trial.way[0].turned(), says)]))
    assert (found.hop, "answers for 10.0.0.2" in found.broken) == ("address", True)
    assert explain(case(built, FROM_HOST, seen)).hop == "unknown"  # nobody has said that it is there
    off = Clues(links={"": [{"ifname": "testbridge", "flags": ["UP", "NOARP"]}]})
    found = explain(case(built, FROM_HOST, seen, clues=off))
    assert (found.hop, found.fix) == ("link", "ip link set dev testbridge arp on")


def test_arp_that_nobody_answers(built: World) -> None:
    way = all_trials(built)[FROM_HOST].way
    gap = locate(case(built, FROM_HOST, asked(way[:2], "10.0.0.2")))
    assert (gap.arp, gap.last, gap.next) == ("10.0.0.2", way[1], way[2])
    built.prepare("ip -n c1 addr del 10.0.0.2/24 dev eth0")
    rows = {"c1": [{"ifname": "eth0", "addr_info": []}]}
    found = explain(case(built, FROM_HOST, asked(way, "10.0.0.2"), clues=Clues(addresses=rows)))
    assert (found.hop, found.fix) == ("address", "netwrap repair")


def test_routes_in_tables_that_nobody_asks_are_not_blamed(built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    nowhere = Clues(ways={"forward": Way(error="No route to host")}, source="10.0.0.2")
    route = {"type": "blackhole", "dst": "192.168.1.0/24", "table": "99"}
    found = explain(case(built, TO_OUTSIDE, seen, clues=replace(nowhere, routes={"": [route]})))
    assert found.broken == "this host does not send what is for 192.168.1.1: No route to host"
    rule = {"priority": 90, "src": "all", "table": "99"}
    found = explain(case(built, TO_OUTSIDE, seen, clues=replace(nowhere, routes={"": [route]}, policy={"": [rule]})))
    assert found.fix == "ip route del blackhole 192.168.1.0/24 table 99"


def test_an_address_that_the_sender_has_itself(built: World) -> None:
    row = {"ifname": "eth0", "addr_info": [{"local": "10.0.0.3", "prefixlen": 24}]}
    clues = Clues(ways={"start": Way("lo")}, addresses={"c1": [row]})
    found = explain(case(built, TO_NEIGHBOUR, [], clues=clues))
    assert (found.hop, found.fix) == ("address", "ip -n c1 addr del 10.0.0.3/24 dev eth0")


def test_rules_for_routes_are_blamed_only_for_packets_that_they_are_for(built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    nowhere = Clues(ways={"forward": Way(error="Invalid argument")}, source="10.0.0.2")
    ends = {"priority": 90, "src": "all", "action": "blackhole"}
    for more, mark, fix in (
        ({"iif": "testbridge"}, 0, "ip rule del pref 90 iif testbridge blackhole"),
        ({"iif": "wg0"}, 0, None),
        ({"fwmark": "0x9"}, 9, "ip rule del pref 90 fwmark 0x9 blackhole"),
        ({"fwmark": "0x9"}, 0, None),
        ({"fwmark": "0x80000", "fwmask": "0xff0000"}, 0x80001, "ip rule del pref 90 fwmark 0x80000/0xff0000 blackhole"),
        ({"fwmark": "0x80000", "fwmask": "0xff0000"}, 0x1, None),
        ({"ipproto": "tcp"}, 0, None),
        ({"not": None}, 0, None),
    ):
        clues = replace(nowhere, policy={"": [ends | more]}, marks={"forward": mark})
        found = explain(case(built, TO_OUTSIDE, seen, clues=clues))
        assert found.hop == "route"
        assert found.fix == (fix or "ip route get 192.168.1.1"), more


def test_a_link_that_is_too_small_for_the_packets(built: World) -> None:
    trial = all_trials(built)[TO_GATEWAY]
    veth = trial.way[1].link
    seen = passed(trial, 1, size=84)
    small = {"": [{"ifname": veth, "mtu": 68, **UP}], "c1": [{"ifname": "eth0", "mtu": 1500, **UP}]}
    found = explain(case(built, TO_GATEWAY, seen, clues=Clues(links=small)))
    assert (found.hop, found.fix) == ("mtu", f"ip link set dev {veth} mtu 1500")
    big = {"": [{"ifname": veth, "mtu": 1280, **UP}]}
    assert explain(case(built, TO_GATEWAY, seen, clues=Clues(links=big))).hop == "unknown"
