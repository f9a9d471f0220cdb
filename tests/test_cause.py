"""Where a packet was lost, and why: sightings and counters in, the first hop that breaks out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from test_check import LAN, all_trials, standing
from test_check import built as built
from world import World

from netwrap.cause import explain, lets_through
from netwrap.check import Trial
from netwrap.evidence import Counted, Suspect, mark_of
from netwrap.losses import lost
from netwrap.packet import Packet
from netwrap.shot import Point, Sighting
from netwrap.verdict import Case, Clues

TO_NEIGHBOUR, TO_GATEWAY, TO_OUTSIDE = (
    "c1 to c2 at 10.0.0.3",
    "c1 to gateway of testbridge at 10.0.0.1",
    "c1 to outside at 192.168.1.1",
)
FROM_HOST, BY_PORT = "host to c1 at 10.0.0.2", "host to c1 by 8080:80/tcp at 192.168.1.7"
FROM_LAN = "neighbour to c1 by 8080:80/tcp at 192.168.1.7"
UP = {"flags": ["UP"]}


def passed(trial: Trial, points: int, back: int = 0, **more: Any) -> list[Sighting]:
    """The trial's packet at that many points of its way, and its answer at some of the way back."""
    kind = {"ping": "icmp"}.get(trial.how, trial.how)
    packet = replace(Packet(kind, "request", "10.0.0.2", trial.ip, 40000), **more)
    found = [Sighting(point, packet) for point in trial.way[:points]]
    return found + [Sighting(point, replace(packet, what="answer")) for point in trial.back[:back]]


def asked(points: Iterable[Point], ip: str, what: str = "request") -> list[Sighting]:
    """ARP at some points."""
    ends = ("10.0.0.2", ip) if what == "request" else (ip, "10.0.0.2")
    return [Sighting(point, Packet("arp", what, *ends, 0)) for point in points]


def case(world: World, name: str, seen: list[Sighting], **more: Any) -> Case:
    """What is known of a failed trial: every link is up, nothing has counted, but for what is said."""
    trial = all_trials(world, LAN)[name]
    clues = more.pop("clues", Clues(source="10.0.0.2"))
    rows: dict[str, list[dict[str, Any]]] = {}
    for point in trial.way:
        rows.setdefault(point.place, []).append({"ifname": point.link, **UP})
    rows = clues.links or rows
    bridges = [{"ifname": name, **UP} for name in ("testbridge", "second")]
    clues = replace(clues, links=rows | {"": [*rows.get("", ()), *bridges]})
    values: dict[str, Any] = {"errors": frozenset(), "answered": False, "refused": False, "counted": {}, "sums": {}}
    values["lost"] = lost(trial, standing(world), world.kernel.everything())
    return Case(trial, 3, seen, clues=clues, facts=world.kernel.everything(), state=world.state(), **values | more)


def counted(
    words: str, *, table: str = "filter", chain: str = "FORWARD", place: str = "", number: int = 1
) -> dict[str, list[Counted]]:
    rule = tuple(words.split())
    verdict = rule[-1] if "-j" not in rule else rule[rule.index("-j") + 1]
    return {place: [Counted("iptables", table, chain, number, rule if number else (), verdict, 3, place)]}


@pytest.mark.parametrize(
    ("name", "points", "back", "text"),
    [
        (TO_GATEWAY, 0, 0, "the packet does not leave c1"),
        (TO_GATEWAY, 1, 0, "the packet reaches eth0 of c1 but not veth5b5fc03 of this host"),
        (TO_GATEWAY, 2, 0, "the packet reaches veth5b5fc03 of this host but not testbridge of this host"),
        (TO_GATEWAY, 3, 0, "the packet reaches testbridge of this host and gets no answer"),
        (TO_GATEWAY, 3, 1, "the answer reaches testbridge of this host but not veth5b5fc03 of this host"),
        (TO_GATEWAY, 3, 3, "the answer reaches eth0 of c1"),
        (TO_OUTSIDE, 3, 0, "the packet reaches testbridge of this host but not eth0 of this host"),
        (FROM_HOST, 0, 0, "the packet does not leave this host"),
        (FROM_HOST, 3, 0, "the packet reaches eth0 of c1 and gets no answer"),
        (TO_NEIGHBOUR, 4, 2, "the answer reaches"),
    ],
)
def test_where_nothing_explains_it_it_is_unknown_and_said_how_far_the_packet_came(
    name: str, points: int, back: int, text: str, built: World
) -> None:
    found = explain(case(built, name, passed(all_trials(built)[name], points, back)))
    assert (found.hop, found.fix) == ("unknown", None)
    assert found.broken.startswith(text)
    assert "ruled out: rules of iptables" in found.broken


def test_without_nft_it_is_said_that_its_rules_could_not_be_seen(built: World) -> None:
    found = explain(case(built, FROM_HOST, [], clues=Clues(has_nft=False)))
    assert "nft is not installed" in found.broken


def test_a_strangers_rule_that_has_counted_the_packets_is_named_with_its_removal(built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    found = explain(case(built, TO_OUTSIDE, seen, counted=counted("-i testbridge -j DROP")))
    assert (found.hop, found.broken) == ("rule", "-A FORWARD -i testbridge -j DROP")
    assert found.fix == "iptables -w -t filter -D FORWARD -i testbridge -j DROP"


@pytest.mark.parametrize(
    "rule", ["-i docker0 -j DROP", "-p tcp -j DROP", "-d 10.9.0.0/16 -j DROP", "-j ACCEPT", "-j LOG"]
)
def test_a_rule_for_others_or_one_that_drops_nothing_is_not_blamed(rule: str, built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    assert explain(case(built, TO_OUTSIDE, seen, counted=counted(rule))).hop == "unknown"


def test_a_rule_of_the_host_is_not_blamed_for_what_is_lost_in_a_container(built: World) -> None:
    seen = passed(all_trials(built)[FROM_HOST], 3)
    assert explain(case(built, FROM_HOST, seen, counted=counted("-j DROP"))).hop == "unknown"
    inside = counted("-p icmp -j DROP", chain="INPUT", place="c1")
    found = explain(case(built, FROM_HOST, seen, counted=inside))
    assert found.fix == "ip netns exec c1 iptables -w -t filter -D INPUT -p icmp -j DROP"


def test_where_a_policy_takes_the_packets_a_rule_of_ours_is_missing(built: World) -> None:
    built.prepare("iptables -w -D FORWARD -m comment --comment netwrap:host -j NETWRAP")
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    found = explain(case(built, TO_OUTSIDE, seen, counted=counted("DROP", number=0)))
    assert found.broken == "missing: iptables -w -I FORWARD -m comment --comment netwrap:host -j NETWRAP"
    assert found.fix == "netwrap repair"


def test_a_policy_of_the_host_is_opened_for_our_link_alone(built: World) -> None:
    seen = passed(all_trials(built)[TO_GATEWAY], 3)
    found = explain(case(built, TO_GATEWAY, seen, counted=counted("DROP", chain="INPUT", number=0)))
    assert (found.hop, found.broken) == ("rule", "-P INPUT DROP")
    assert found.fix == "iptables -w -t filter -I INPUT -i testbridge -j ACCEPT"


def test_a_packet_that_leaves_with_the_containers_address_is_not_masqueraded(built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 4)
    stranger = counted("-s 10.0.0.0/8 -j ACCEPT", table="nat", chain="POSTROUTING")
    found = explain(case(built, TO_OUTSIDE, seen, counted=stranger))
    assert (found.hop, found.fix) == ("rule", "iptables -w -t nat -D POSTROUTING -s 10.0.0.0/8 -j ACCEPT")
    rules = built.kernel.tables.chains["nat", "POSTROUTING"]
    rules.remove(next(rule for rule in rules if "! -o testbridge" in " ".join(rule)))
    found = explain(case(built, TO_OUTSIDE, seen))
    assert (found.hop, found.fix) == ("rule", "netwrap repair")
    assert "MASQUERADE" in found.broken


def test_a_packet_that_leaves_as_it_should_and_gets_no_answer_is_the_outsides(built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 4, src="192.168.1.10")
    found = explain(case(built, TO_OUTSIDE, seen))
    assert (found.hop, found.broken.split(":")[0]) == ("outside", "no answer from 192.168.1.1")
    found = explain(case(built, TO_OUTSIDE, seen, host_hears=True))
    assert (found.hop, found.broken.split("; ")[1]) == ("outside", "it answers this host")
    found = explain(case(built, TO_OUTSIDE, seen, host_hears=False))
    assert (found.hop, found.fix) == (None, None)  # pings are not answered to anybody: of containers nothing is shown
    entry = {"dst": "192.168.1.1", "dev": "eth0", "lladdr": "02:00:00:00:00:66", "state": ["PERMANENT"]}
    found = explain(case(built, TO_OUTSIDE, seen, host_hears=False, clues=Clues(neighbours={"": [entry]})))
    assert (found.hop, found.fix) == ("neighbour", None)


@pytest.mark.parametrize(
    ("stranger", "name", "chain"),
    [("-p tcp --dport 8080 -j DNAT", FROM_LAN, "PREROUTING"), ("-p tcp -j REDIRECT", BY_PORT, "OUTPUT")],
)
def test_a_port_that_somebody_else_has_taken(stranger: str, name: str, chain: str, built: World) -> None:
    seen = passed(all_trials(built, LAN)[FROM_LAN], 1) if name == FROM_LAN else []
    found = explain(case(built, name, seen, counted=counted(stranger, table="nat", chain=chain), refused=True))
    assert (found.hop, found.fix) == ("rule", f"iptables -w -t nat -D {chain} {stranger}")


def test_a_port_whose_rule_is_missing(built: World) -> None:
    built.kernel.tables.chains["nat", "OUTPUT"].clear()
    found = explain(case(built, BY_PORT, [], refused=True))
    assert (found.hop, found.fix) == ("rule", "netwrap repair")


def test_an_address_of_a_port_that_is_not_this_hosts(built: World) -> None:
    built.must("publish c2 192.168.1.10:8090:90 --quiet")
    built.prepare("ip addr del 192.168.1.10/24 dev eth0")
    found = explain(case(built, "host to c2 by 192.168.1.10:8090:90/tcp at 192.168.1.10", [], answered=True))
    assert found.hop == "address"
    assert found.broken.startswith("192.168.1.10 is no address of this host")


def test_the_service(built: World) -> None:
    trial = all_trials(built)[BY_PORT]
    refusal = Packet("tcp", "refused", "10.0.0.2", "10.0.0.1", 40000)
    seen = [*passed(trial, 3, dst="10.0.0.2"), *(Sighting(point, refusal) for point in trial.back)]
    found = explain(case(built, BY_PORT, seen, refused=True))
    assert (found.hop, found.fix) == ("service", "netwrap exec c1 -- ss -lntu")
    assert "port 80/tcp in c1 (10.0.0.2)" in found.broken


def test_a_container_that_answers_no_pings(built: World) -> None:
    seen = passed(all_trials(built)[FROM_HOST], 3)
    quiet = Clues(settings={"c1": {"net/ipv4/icmp_echo_ignore_all": "1"}})
    found = explain(case(built, FROM_HOST, seen, clues=quiet))
    assert found.fix == "ip netns exec c1 sysctl net.ipv4.icmp_echo_ignore_all=0"


def test_what_drops_without_counting_is_named_where_the_packet_passes_it(built: World) -> None:
    suspect = Suspect("inet g", "f", "forward", "policy drop", "nft …", (), "inet")
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    found = explain(case(built, TO_OUTSIDE, seen, clues=Clues(suspects={"": [suspect]})))
    assert (found.hop, found.fix) == ("rule", "nft …")
    assert "policy drop in inet g f" in found.broken
    for other in (replace(suspect, hook="input"), replace(suspect, family="bridge"), replace(suspect, family="ip6")):
        assert explain(case(built, TO_OUTSIDE, seen, clues=Clues(suspects={"": [other]}))).hop == "unknown"
    two = Clues(suspects={"": [suspect, replace(suspect, chain="h")]})
    assert explain(case(built, TO_OUTSIDE, seen, clues=two)).fix is None


def test_isolation_that_does_not_hold(built: World) -> None:
    name = "c1 to c3 at 10.0.1.2 must not"
    found = lets_through(case(built, name, [], counted=counted("-j ACCEPT")))
    assert (found.hop, found.fix) == ("isolation", "iptables -w -t filter -D FORWARD -j ACCEPT")
    rules = built.kernel.tables.chains["filter", "NETWRAP-second"]
    del rules[-1]
    found = lets_through(case(built, name, []))
    assert (found.hop, found.fix) == ("isolation", "netwrap repair")
    assert found.broken.endswith("-j DROP")


def test_what_counted_elsewhere_or_for_others_lets_nothing_through(built: World) -> None:
    name = "c1 to c3 at 10.0.1.2 must not"
    for other in (
        counted("-j ACCEPT", chain="INPUT"),
        counted("-i docker0 -j ACCEPT"),
        counted("-j ACCEPT", table="mangle"),
    ):
        assert lets_through(case(built, name, [], counted=other)).fix is None
    goto = {"": [Counted("iptables", "filter", "FORWARD", 1, ("-g", "X"), "X", 9)]}
    assert lets_through(case(built, name, [], counted=goto)).fix == "iptables -w -t filter -D FORWARD -g X"


def test_a_rule_that_changes_the_packets(built: World) -> None:
    seen = passed(all_trials(built)[TO_OUTSIDE], 3)
    ttl = counted("-i testbridge -j TTL --ttl-set 1", table="mangle", chain="PREROUTING")
    ended = {"": {"IpInHdrErrors": 3}}
    found = explain(case(built, TO_OUTSIDE, seen, counted=ttl, sums=ended))
    assert found.fix == "iptables -w -t mangle -D PREROUTING -i testbridge -j TTL --ttl-set 1"
    assert explain(case(built, TO_OUTSIDE, seen, counted=ttl)).hop == "unknown"  # it has not ended by that
    off = Clues(settings={"": {"net/ipv4/conf/testbridge/forwarding": "0"}})
    assert explain(case(built, TO_OUTSIDE, seen, counted=ttl, clues=off)).hop == "forwarding"


def test_a_packet_that_leaves_with_a_small_ttl(built: World) -> None:
    name = FROM_LAN
    seen = passed(all_trials(built, LAN)[name], 4, 3, ttl=1)
    for chain in ("FORWARD", "POSTROUTING"):
        ttl = counted("-o eth0 -j TTL --ttl-set 1", table="mangle", chain=chain)
        assert (
            explain(case(built, name, seen, counted=ttl)).fix
            == f"iptables -w -t mangle -D {chain} -o eth0 -j TTL --ttl-set 1"
        )
        far = [replace(s, packet=replace(s.packet, ttl=64)) for s in seen]
        assert explain(case(built, name, far, counted=ttl)).hop != "rule"


def test_a_mark_is_that_of_the_rules_which_the_packets_have_met() -> None:
    one = counted("-i testbridge -j MARK --set-xmark 0x7/0xf", table="mangle", chain="PREROUTING")[""]
    two = counted("-i wg0 -j MARK --set-xmark 0xff", table="mangle", chain="PREROUTING")[""]
    three = counted("-p tcp -j MARK --set-xmark 0x30/0xf0", table="mangle", chain="PREROUTING")[""]
    assert mark_of([*one, *two, *three], "testbridge", "icmp") == 0x7
    assert mark_of([*one, *two, *three], "testbridge", "tcp") == 0x37
    assert mark_of(counted("-j CONNMARK --restore-mark", table="mangle")[""], "testbridge", "tcp") == 0


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("-j NOTRACK", "packets that are not tracked"),
        ("-j CT --notrack", "packets that are not tracked"),
        ("-j CT --zone 7", "packets that are tracked in a zone of their own"),
        ("-j CT --helper ftp", ""),
    ],
)
def test_what_keeps_packets_from_being_translated(rule: str, text: str, built: World) -> None:
    raw = counted(rule, table="raw", chain="PREROUTING")
    found = explain(case(built, FROM_LAN, passed(all_trials(built, LAN)[FROM_LAN], 1), counted=raw, refused=True))
    assert (text in found.broken, found.hop) == (True, "rule" if text else "unknown")
    seen = passed(all_trials(built)[TO_NEIGHBOUR], 2)
    assert explain(case(built, TO_NEIGHBOUR, seen, counted=raw)).hop == "unknown"  # nothing is translated there


def test_others_may_return_from_chains_of_their_own(built: World) -> None:
    built.kernel.tables.chains["nat", "OUTPUT"].clear()
    theirs = [
        Counted("iptables", "nat", "OUTPUT", 1, ("-j", "X"), "X", 3),
        Counted("iptables", "nat", "X", 1, ("-j", "RETURN"), "RETURN", 3),
    ]
    assert explain(case(built, BY_PORT, [], refused=True, counted={"": theirs})).fix == "netwrap repair"
    ends = [Counted("iptables", "nat", "OUTPUT", 1, ("-j", "RETURN"), "RETURN", 3)]
    found = explain(case(built, BY_PORT, [], refused=True, counted={"": ends}))
    assert found.fix == "iptables -w -t nat -D OUTPUT -j RETURN"


def test_a_port_that_leads_to_another_container_is_the_rules_and_no_address_is_there_twice(built: World) -> None:
    trial = all_trials(built)[BY_PORT]
    other = next(e for e in built.state().endpoints if e.container == "c2")
    seen = passed(trial, 1, dst=str(other.ip), dst_mac=other.mac)
    stranger = counted("-p tcp --dport 8080 -j DNAT", table="nat", chain="OUTPUT")
    found = explain(case(built, BY_PORT, seen, counted=stranger, refused=True))
    assert (found.hop, found.fix) == ("rule", "iptables -w -t nat -D OUTPUT -p tcp --dport 8080 -j DNAT")
    assert explain(case(built, BY_PORT, seen, refused=True)).hop == "unknown"


def test_where_some_packets_get_through_nothing_is_ruled_out(built: World) -> None:
    seen = passed(all_trials(built)[TO_GATEWAY], 3, 3)
    found = explain(case(built, TO_GATEWAY, seen, answered=True, arrived=True))
    assert (found.hop, found.broken) == ("unknown", "some packets get an answer and others do not")
