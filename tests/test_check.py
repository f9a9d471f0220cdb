"""Which trials there are for what stands, and what is sent for each."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from world import World

from netwrap.check import ISOLATED, NextHop, Outside, Trial, heard, next_hop, shots, trials, wanted
from netwrap.facts import Facts, Link, Listener, Space
from netwrap.losses import disorder, gone, lost
from netwrap.model import Process
from netwrap.shot import Frame
from netwrap.undo import Entry

VETH = "veth5b5fc03"
APART = "c1 to c3 at 10.0.1.2 must not"
WAY = NextHop("192.168.1.1", "eth0")
LAN = Outside(
    WAY,
    (("neighbour", "192.168.1.20"), ("internet", "203.0.113.1")),
    "eth0",
    "192.168.1.7",
    "203.0.113.1",
    Frame("eth0", "02:00:00:00:00:20", "02:00:00:00:00:01", "192.168.1.20"),
)


@pytest.fixture
def built(world: World) -> World:
    """c1 and c2 on one network, c3 on another; c1 publishes a port for everybody, c3 one on 127.0.0.1."""
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("network create --subnet 10.0.1.1/24 second --quiet")
    world.must("connect --pid 64560 --name c1 --net testbridge -p 8080:80 --quiet")
    world.must("connect --pid 64561 --name c2 --net testbridge --quiet")
    world.must("connect --pid 64562 --name c3 --net second -p 127.0.0.1:5300:53/udp --quiet")
    return world


def all_trials(world: World, outside: Outside = Outside(WAY, address="192.168.1.7")) -> dict[str, Trial]:  # noqa: B008
    seen = world.kernel.everything()
    found = list(trials(world.state(), outside, seen))
    named = {f"{t.source} to {t.target} at {t.ip}{' must not' * (t.how == ISOLATED)}": t for t in found}
    assert len(named) == len(found), "a trial is listed twice"
    return named


def standing(world: World) -> dict[str, list[Entry]]:
    entries: dict[str, list[Entry]] = {}
    with world.store() as store:
        for entry in store.entries(owners=store.state().owners):
            entries.setdefault(entry.step.owner, []).append(entry)
    return entries


def test_everything_that_stands_is_tried_once(built: World) -> None:
    assert set(all_trials(built)) == {
        "c1 to c2 at 10.0.0.3",
        "c2 to c1 at 10.0.0.2",
        "host to c1 at 10.0.0.2",
        "host to c2 at 10.0.0.3",
        "host to c3 at 10.0.1.2",
        "c1 to gateway of testbridge at 10.0.0.1",
        "c2 to gateway of testbridge at 10.0.0.1",
        "c3 to gateway of second at 10.0.1.1",
        "c1 to outside at 192.168.1.1",
        "c2 to outside at 192.168.1.1",
        "c3 to outside at 192.168.1.1",
        "host to c1 by 8080:80/tcp at 127.0.0.1",
        "host to c1 by 8080:80/tcp at 192.168.1.7",
        "host to c3 by 127.0.0.1:5300:53/udp at 127.0.0.1",
        "c1 to c3 at 10.0.1.2 must not",
        "c3 to c1 at 10.0.0.2 must not",
    }


def test_in_a_sandbox_the_machines_around_it_try_too(built: World) -> None:
    built.must("publish c2 8081:81 --allow-from 192.168.1.0/24 --quiet")
    built.must("publish c2 8082:82/udp --quiet")
    found = {name: t for name, t in all_trials(built, LAN).items() if name not in all_trials(built)}
    assert {name: t.vain != "" for name, t in found.items()} == {
        "c1 to internet at 203.0.113.1": False,
        "c2 to internet at 203.0.113.1": False,
        "c3 to internet at 203.0.113.1": False,
        "neighbour to c1 by 8080:80/tcp at 192.168.1.7": False,
        "internet to c1 by 8080:80/tcp at 192.168.1.7": False,
        "neighbour to c2 by 8081:81/tcp at 192.168.1.7": False,
        "internet to c2 by 8081:81/tcp at 192.168.1.7 must not": False,
        "neighbour to c2 by 8082:82/udp at 192.168.1.7": True,  # a datagram would reach the service
        "internet to c2 by 8082:82/udp at 192.168.1.7": True,
        "neighbour to c3 by 127.0.0.1:5300:53/udp at 192.168.1.7 must not": False,
        "internet to c3 by 127.0.0.1:5300:53/udp at 192.168.1.7 must not": False,
        "neighbour to c1 at 10.0.0.2 must not": False,
        "neighbour to c3 at 10.0.1.2 must not": False,
    }


def test_containers_of_linked_networks_are_tried_and_need_not_be_apart(built: World) -> None:
    built.must("network link testbridge second --quiet")
    found = all_trials(built)
    assert {"c1 to c3 at 10.0.1.2", "c3 to c1 at 10.0.0.2", "c2 to c3 at 10.0.1.2"} <= set(found)
    assert not any("must not" in name for name in found)
    assert "link:second/testbridge" in found["c3 to c1 at 10.0.0.2"].path


def test_an_internal_network_must_not_get_out(world: World) -> None:
    world.must("network create --internal --subnet 10.0.0.1/24 inner --quiet")
    world.must("connect --pid 64560 --name c1 --net inner --quiet")
    assert set(all_trials(world)) == {
        "host to c1 at 10.0.0.2",
        "c1 to gateway of inner at 10.0.0.1",
        "c1 to outside at 192.168.1.1 must not",
    }


def test_trials_grow_as_the_containers_do(world: World) -> None:
    world.must("network create --subnet 10.0.0.1/24 a --quiet")
    for pid in (64563, 64564):
        world.kernel.processes[pid] = Process(pid, pid * 10, world.kernel._new_namespace(), pid)
    counts = []
    for pid in (64560, 64561, 64562, 64563, 64564):
        world.must(f"connect --pid {pid} --net a --quiet")
        counts.append(len(all_trials(world)))
    assert [b - a for a, b in pairwise(counts[2:])] == [5, 5]  # host, gateway, outside, two neighbours


def test_a_container_on_both_networks_shows_nothing_about_their_isolation(built: World) -> None:
    built.must("connect --pid 64562 --net testbridge --quiet")
    assert not any("must not" in name for name in all_trials(built))


def test_names_limit_it_to_containers_or_networks(built: World) -> None:
    found = list(all_trials(built).values())
    assert {t.source for t in wanted(found, ["c3"])} == {"host", "c3", "c1"}
    assert all("second" in t.networks for t in wanted(found, ["second"]))
    assert wanted(found, []) == found


# ---- outside


def test_where_there_is_no_way_out_it_says_why() -> None:
    eth0 = Link("eth0", "02:00:00:00:00:01", up=True)
    seen = Facts(host=Space({"eth0": eth0}, frozenset({("eth0", "192.168.1.7/24")})))
    assert next_hop(seen) == NextHop(why="this host has no default route")
    seen = Facts(host=Space({"eth0": replace(eth0, up=False)}, frozenset({("eth0", "192.168.1.7/24")})))
    assert next_hop(seen).down == "eth0 (192.168.1.7/24)"
    ours = replace(eth0, up=False, group="28279")
    assert next_hop(Facts(host=Space({"eth0": ours}, frozenset({("eth0", "10.0.0.1/24")})))).down == ""


def test_without_a_way_out_the_outside_is_listed_and_not_tried(built: World) -> None:
    found = all_trials(built, Outside(NextHop(why="this host has no default route")))
    assert found["c1 to outside at -"].vain == "this host has no default route"


# ---- what is sent


def test_a_published_port_is_called_where_somebody_listens(built: World) -> None:
    built.must("publish c2 9000-9002:90-92 --quiet")
    trial = all_trials(built)["host to c2 by 9000-9002:90-92/tcp at 127.0.0.1"]
    cases: list[tuple[list[tuple[str, str | None, int]], list[int]]] = [
        ([("tcp", None, 90)], [9000]),
        ([("tcp", "10.0.0.3", 91)], [9001]),
        ([("tcp", None, 92), ("tcp", None, 91)], [9001, 9002]),
        ([("udp", None, 90)], []),
        ([("tcp", "127.0.0.1", 90)], []),
        ([("tcp", "10.0.0.2", 90)], []),
        ([("tcp", None, 89), ("tcp", None, 93), ("tcp", None, 9000)], []),
    ]
    for listeners, calls in cases:
        there = {Listener(kind, IPv4Address(ip) if ip else None, port) for kind, ip, port in listeners}
        assert heard(trial, there) == calls
        assert [shot.port for shot in shots(trial, there)] == (calls or [9000])


def test_datagrams_for_a_service_are_spoilt_and_those_that_must_not_arrive_are_of_three_kinds(built: World) -> None:
    found = all_trials(built, LAN)
    (udp,) = shots(found["host to c3 by 127.0.0.1:5300:53/udp at 127.0.0.1"], ())
    assert (udp.kind, udp.port, udp.spoilt) == ("udp", 5300, True)
    apart = shots(found["c1 to c3 at 10.0.1.2 must not"], {Listener("tcp", None, 4711)})
    assert [(s.kind, s.port, s.frame is not None) for s in apart] == [
        ("icmp", 0, True),
        ("tcp", 4711, True),
        ("udp", 9, True),
    ]


# ---- what is missing on the way


@pytest.mark.parametrize(
    ("change", "trial", "hop", "text"),
    [
        ("ip -n c1 addr del 10.0.0.2/24 dev eth0", "host to c1 at 10.0.0.2", "address", "addr add 10.0.0.2/24"),
        ("ip -n c1 link set dev eth0 down", "c1 to c2 at 10.0.0.3", "link", "ip -n c1 link set dev eth0 up"),
        (f"ip link set dev {VETH} nomaster", "c2 to c1 at 10.0.0.2", "bridge port", f"{VETH} master testbridge"),
        ("ip -n c1 route del default via 10.0.0.1 dev eth0", "c1 to outside at 192.168.1.1", "route", "add default"),
        ("sysctl net.ipv4.conf.all.forwarding=0", "c1 to outside at 192.168.1.1", "forwarding", "forwarding=1"),
        ("iptables -w -D FORWARD -m comment --comment netwrap:host -j NETWRAP", APART, "rule", "-j NETWRAP"),
    ],
)  # fmt: skip
def test_steps_that_no_longer_hold_are_known_by_the_way_of_a_trial(
    change: str, trial: str, hop: str, text: str, built: World
) -> None:
    assert lost(all_trials(built)[trial], standing(built), built.kernel.everything()) == []
    built.prepare(change)
    found, *_ = lost(all_trials(built)[trial], standing(built), built.kernel.everything())
    assert found.hop == hop
    assert text in found.step.do.text()


def test_lo_and_what_is_only_held_on_to_are_no_hops(built: World) -> None:
    built.prepare("ip -n c1 link set dev lo down")
    assert not any(lost(t, standing(built), built.kernel.everything()) for t in all_trials(built).values())


def test_a_container_whose_process_has_ended_is_not_tried(built: World) -> None:
    built.prepare("end 64562")
    found = gone(all_trials(built)["host to c3 at 10.0.1.2"], built.state(), built.kernel.everything())
    assert found is not None
    assert (found.hop, found.fix) == ("process", "netwrap disconnect c3")


def test_rules_of_ours_in_another_order_are_found_and_repair_mends_it(built: World) -> None:
    assert disorder(standing(built), built.kernel.everything()) is None
    chain = built.kernel.tables.chains["filter", "NETWRAP-testbridge"]
    before = list(chain)
    chain.insert(0, chain.pop())
    assert disorder(standing(built), built.kernel.everything()) is not None
    built.must("repair --quiet")
    assert chain == before
    assert disorder(standing(built), built.kernel.everything()) is None


def test_a_strangers_rule_between_ours_is_no_disorder(built: World) -> None:
    built.prepare("iptables -w -I NETWRAP-testbridge 2 -j ACCEPT")
    assert disorder(standing(built), built.kernel.everything()) is None
