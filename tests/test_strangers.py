"""Rules, routes and addresses of others: what the doctor says of them, and what repair does."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from test_doctor import built as built
from test_doctor import found, mend, only
from world import World

from netwrap.doctor import Finding
from netwrap.facts import Route
from netwrap.passage import Meets, Packets, meets_of
from netwrap.policy import PolicyRule

CASES = [
    ("-i br -j DROP", Packets(comes="br"), Meets.EVERY),
    ("-i br -j DROP", Packets(comes="other"), Meets.NONE),
    ("-i br -j DROP", Packets(), Meets.SOME),
    ("-i br -j DROP", Packets(not_from="br"), Meets.NONE),
    ("! -i br -j DROP", Packets(not_from="br"), Meets.EVERY),
    ("-o veth+ -j DROP", Packets(leaves="veth12"), Meets.EVERY),
    ("! -o veth+ -j DROP", Packets(leaves="veth12"), Meets.NONE),
    ("-s 10.0.0.0/8 -j DROP", Packets(source=IPv4Network("10.0.0.0/24")), Meets.EVERY),
    ("-s 10.0.0.9/32 -j DROP", Packets(source=IPv4Network("10.0.0.0/24")), Meets.SOME),
    ("! -s 10.0.0.9/32 -j DROP", Packets(source=IPv4Network("10.0.1.0/24")), Meets.EVERY),
    ("-d 10.0.0.0/255.0.255.0 -j DROP", Packets(), Meets.MAYBE),
    ("-p tcp -m tcp --dport 80 -j DROP", Packets(protocol="tcp", port=80), Meets.EVERY),
    ("-p tcp -m tcp --dport 80:90 -j DROP", Packets(protocol="tcp", port=91), Meets.NONE),
    ("-p tcp -m multiport --dports 22,80:90 -j DROP", Packets(protocol="tcp", port=85), Meets.EVERY),
    ("-p tcp -m tcp --dport 80 -j DROP", Packets(), Meets.SOME),
    ("-p udp -j DROP", Packets(protocol="tcp"), Meets.NONE),
    ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", Packets(), Meets.NONE),
    ("-m conntrack ! --ctstate DNAT -j ACCEPT", Packets(), Meets.EVERY),
    ("-m state --state NEW -j ACCEPT", Packets(), Meets.EVERY),
    ("-m addrtype --dst-type LOCAL -j ACCEPT", Packets(is_local=False), Meets.NONE),
    ("-m mark --mark 0x1 -j ACCEPT", Packets(), Meets.MAYBE),
    ("-m mark ! --mark 0x1 -j ACCEPT", Packets(), Meets.MAYBE),
    ('-m comment --comment "-i br" -j ACCEPT', Packets(comes="x"), Meets.EVERY),
    ("-m limit --limit 5/min -j ACCEPT", Packets(), Meets.MAYBE),
]


@pytest.mark.parametrize(("rule", "packets", "meets"), CASES)
def test_how_many_packets_a_rule_is_for(rule: str, packets: Packets, meets: Meets) -> None:
    words = tuple(rule.replace('"-i br"', "-i~br").split())
    assert meets_of(tuple(word.replace("~", " ") for word in words), packets) is meets


def put(world: World, place: str, rule: str, at: int = 0) -> None:
    table, chain = place.split()
    world.kernel.tables.chains.setdefault((table, chain), []).insert(at, tuple(rule.split()))


def wrong(world: World) -> list[Finding]:
    return [f for f in found(world) if f.wrong]


ENDED = {
    "mangle FORWARD|-j DROP": "rule of others",
    "mangle PREROUTING|-i testbridge -j DROP": "rule of others",
    "mangle POSTROUTING|-o testbridge -j DROP": "rule of others",
    "raw PREROUTING|-s 10.0.0.2/32 -j DROP": "rule of others",
    "filter OUTPUT|-o testbridge -j REJECT --reject-with icmp-port-unreachable": "rule of others",
    "filter INPUT|-i testbridge -j DROP": "rule of others",
    "filter FORWARD|-i testbridge -j DROP": "FORWARD",
    "filter FORWARD|-s 10.0.0.2/32 -j DROP": "FORWARD",
    "filter FORWARD|-d 10.0.0.0/24 -p tcp -m tcp --dport 80 -j DROP": "FORWARD",
    "filter NETWRAP|-o testbridge -j DROP": "rule of others",
    "nat PREROUTING|-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:9": "published port",
    "nat OUTPUT|-p tcp -m tcp --dport 8000:8100 -j REDIRECT --to-ports 9": "published port",
    "nat PREROUTING|-s 192.168.1.7/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:9": "published port",
    "nat PREROUTING|-j ACCEPT": "published port",
    "nat POSTROUTING|-s 10.0.0.0/8 -j ACCEPT": "way out",
}


@pytest.mark.parametrize("rule", ENDED)
def test_a_rule_of_others_that_ends_what_has_to_pass_is_named_and_left_to_its_owner(rule: str, built: World) -> None:
    put(built, *rule.split("|"))
    one = only(wrong(built))
    assert one.name == ENDED[rule]
    assert rule.split("|")[1] in one.what
    assert one.fix is None  # it is not ours
    assert "Whose rule is it? To remove it: `iptables -w " in one.why
    assert f"-D {rule.split('|')[0].split()[1]} {rule.split('|')[1]}`" in one.why


@pytest.mark.parametrize("rule", ["-j DROP", "-i eth0 -p tcp -m tcp --dport 80 -j DROP", "-o eth0 -j REJECT"])
def test_our_chain_is_put_in_front_of_a_rule_that_was_not_made_for_our_networks(rule: str, built: World) -> None:
    put(built, "filter FORWARD", rule)
    one = only(wrong(built))
    assert one.name == "FORWARD"
    mend(one, built)
    assert wrong(built) == []
    assert tuple(rule.split()) in built.kernel.tables.chains["filter", "FORWARD"]


LET_IN = {
    "filter FORWARD|-j ACCEPT": True,
    "filter FORWARD|-i eth0 -j ACCEPT": True,
    "filter FORWARD|-i testbridge -j ACCEPT": True,
    "filter FORWARD|-d 10.0.0.2/32 -j ACCEPT": True,
    "raw PREROUTING|-j ACCEPT": True,
    "filter NETWRAP|-j ACCEPT": False,
    "filter NETWRAP-testbridge|-s 10.0.1.0/24 -j ACCEPT": False,
}


@pytest.mark.parametrize("rule", LET_IN)
def test_a_rule_of_others_that_lets_in_what_ours_keep_out_is_named(rule: str, built: World) -> None:
    place, words = rule.split("|")
    put(built, place, words)
    one = only(wrong(built))
    assert one.name == "isolation"
    assert words in one.what
    assert built.netwrap("status").code == (1 if LET_IN[rule] else 0)
    assert one.fix == ("netwrap repair" if LET_IN[rule] else None)
    if LET_IN[rule]:
        before = sorted(built.kernel.tables.chains[place.split()[0], place.split()[1]])
        mend(one, built)
        assert wrong(built) == []
        assert built.netwrap("status").code == 0
        assert sorted(built.kernel.tables.chains[place.split()[0], place.split()[1]]) == before


def test_an_internal_network_is_open_where_others_accept_before_its_drops(built: World) -> None:
    built.must("network create --internal --subnet 10.0.9.1/24 inner --quiet")
    put(built, "mangle FORWARD", "-j ACCEPT")
    one = only(wrong(built))
    assert (one.name, one.fix) == ("isolation", "netwrap repair")
    mend(one, built)
    assert wrong(built) == []


HARMLESS = [
    "filter FORWARD|-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "filter FORWARD|-i docker0 -o docker0 -j ACCEPT",
    "filter FORWARD|-o docker0 -j DROP",
    "filter FORWARD|-s 10.9.0.0/16 -j DROP",
    "filter FORWARD|-j LOG",
    "filter FORWARD|-p tcp -m tcp --dport 25 -j DROP",
    "raw PREROUTING|-d 172.17.0.2/32 ! -i docker0 -j DROP",
    "nat POSTROUTING|-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    "nat POSTROUTING|-s 10.0.0.0/24 -d 192.168.77.0/24 -j ACCEPT",
    "nat PREROUTING|-p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.9.9.9:9",
    "filter INPUT|-p tcp -m tcp --dport 22 -s 203.0.113.0/24 -j DROP",
]


@pytest.mark.parametrize("rule", HARMLESS)
def test_rules_of_others_that_do_not_concern_us_are_no_alarm(rule: str, built: World) -> None:
    place, words = rule.split("|")
    put(built, place, words)
    assert wrong(built) == []
    assert built.netwrap("status").code == 0


@pytest.mark.parametrize("rule", ["-m mark --mark 0x7 -j ACCEPT", "-m set --match-set lan src -j ACCEPT"])
def test_what_cannot_be_told_from_a_rules_text_is_a_note(rule: str, built: World) -> None:
    put(built, "filter FORWARD", rule)
    one = only(found(built))
    assert (one.name, one.wrong) == ("isolation", False)
    assert "may accept" in one.what
    assert built.netwrap("status").code == 0


def test_a_rule_for_some_of_our_packets_is_a_note(built: World) -> None:
    put(built, "filter FORWARD", "-i testbridge -p tcp -m tcp --dport 25 -j DROP")
    one = only(found(built))
    assert (one.wrong, one.fix) == (False, None)
    assert "some of what testbridge sends outside" in one.what


def test_a_route_counts_where_a_rule_has_its_table_asked(built: World) -> None:
    built.kernel.host.routes.append(Route("10.0.0.0/24", "eth0", "192.168.1.9", "99"))
    assert found(built) == []
    built.kernel.ways = (PolicyRule(0, table="local"), PolicyRule(7, table="99"), PolicyRule(32766, table="main"))
    assert "10.0.0.0/24 dev eth0 table 99" in only(found(built)).what


@pytest.mark.parametrize(
    ("rule", "is_wrong"),
    [
        (PolicyRule(5, IPv4Network("10.0.0.0/24"), action="unreachable"), True),
        (PolicyRule(5, IPv4Network("10.0.0.2/32"), action="blackhole"), True),
        (PolicyRule(5, destination=IPv4Network("10.0.0.0/24"), action="prohibit"), True),
        (PolicyRule(5, IPv4Network("10.0.0.0/24"), IPv4Network("8.8.8.8/32"), action="prohibit"), False),
        (PolicyRule(5, IPv4Network("10.0.0.0/24"), action="unreachable", is_narrower=True), False),
        (PolicyRule(5, IPv4Network("10.7.0.0/24"), action="unreachable"), None),
        (PolicyRule(5, IPv4Network("10.0.0.0/24"), table="77"), None),
    ],
)
def test_rules_for_routes_that_end_our_packets_are_named(rule: PolicyRule, is_wrong: bool | None, built: World) -> None:
    built.kernel.ways = (rule,)
    of_rules = [f for f in found(built) if f.name == "ip rule"]
    assert [f.wrong for f in of_rules] == ([] if is_wrong is None else [is_wrong])


def test_an_address_of_ours_on_another_link_is_named(built: World) -> None:
    built.prepare("ip addr add 10.0.0.2/32 dev eth0")
    assert any("10.0.0.2 of bird2 (eth0) is also on eth0 of this host" in f.what for f in wrong(built))


def test_no_way_out_is_a_note_and_wrong_where_a_link_is_down(built: World) -> None:
    built.prepare("ip route del default via 192.168.1.1 dev eth0")
    one = only(found(built))
    assert (one.name, one.wrong, one.fix) == ("way out", False, None)
    built.prepare("ip link set dev eth0 down")
    one = only(found(built))
    assert (one.wrong, one.fix) == (True, "ip link set dev eth0 up")


def test_what_an_internal_network_sends_is_dropped_before_a_rule_could_accept_it(built: World) -> None:
    built.must("network create --internal --subnet 10.0.9.1/24 inner --quiet")
    put(built, "filter FORWARD", "-i inner -j ACCEPT")
    assert wrong(built) == []
    put(built, "mangle FORWARD", "-i inner -j ACCEPT")
    assert {f.name for f in wrong(built)} == {"isolation"}
