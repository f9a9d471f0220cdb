"""What is amiss though each step holds: status and doctor name it, repair puts it right."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
from world import World

VETH = "veth5b5fc03"


@pytest.fixture
def built(world: World) -> World:
    """Two linked networks, a container on both, with a port."""
    world.must("network create --subnet 10.0.0.1/24 a --quiet")
    world.must("network create --subnet 10.0.1.1/24 b --mtu 1400 --quiet")
    world.must("network link a b --quiet")
    world.must("connect --pid 64560 --name c1 --net a -p 8080:80 --quiet")
    world.must("connect --pid 64560 --net b --quiet")
    return world


KINDS = {
    "bridge has another MAC": ["ip link set dev a address 02:00:00:00:00:09"],
    "bridge is in another group": ["ip link set dev a group 7"],
    "bridge has another name and MAC": [
        "ip link set dev a down",
        "ip link set dev a name br9",
        "ip link set dev br9 address 02:00:00:00:00:09",
        "ip link set dev br9 up",
    ],
    "bridge has another name and group": [
        "ip link set dev a group 0",
        "ip link set dev a down",
        "ip link set dev a name br9",
        "ip link set dev br9 up",
    ],
    "cable has another MAC": ["ip link set dev VETH address 02:00:00:00:00:09"],
    "cable has another name, MAC and group": [
        "ip link set dev VETH down",
        "ip link set dev VETH name x",
        "ip link set dev x address 02:00:00:00:00:09",
        "ip link set dev x group 0",
    ],
    "inner end has another MAC": ["ip -n c1 link set dev eth0 address 02:00:00:00:00:09"],
    "smaller MTU outside": ["ip link set dev VETH mtu 1300"],
    "MTU outside too small for IPv6": ["ip link set dev VETH mtu 1279"],
    "IPv6 on for all links": ["sysctl net.ipv6.conf.all.disable_ipv6=1", "sysctl net.ipv6.conf.all.disable_ipv6=0"],
    "rp_filter off": ["sysctl net.ipv4.conf.VETH.rp_filter=0"],
    "smaller MTU inside": ["ip -n c1 link set dev eth1 mtu 1300"],
    "connected route of the host": ["ip route del 10.0.0.0/24 dev a"],
    "connected route inside": ["ip -n c1 route del 10.0.1.0/24 dev eth1"],
    "default route replaced": [
        "ip -n c1 route del default via 10.0.0.1 dev eth0",
        "ip -n c1 route add default via 10.0.0.99 dev eth0",
    ],
    "route of a second table replaced": [
        "ip -n c1 route del default via 10.0.1.1 dev eth1 table 102",
        "ip -n c1 route add default via 10.0.1.99 dev eth1 table 102",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_lost_a_mark_a_route_or_its_mtu_is_named_and_repaired(kind: str, built: World) -> None:
    veth = next(e["veth"] for e in json.loads(built.must("ps --json")) if e["net"] == "a")
    before = built.kernel.snapshot()
    for line in KINDS[kind]:
        built.prepare(line.replace("VETH", veth))
    assert built.kernel.snapshot() != before
    status = built.netwrap("status --json")
    assert status.code == 1
    assert [row for row in json.loads(status.out) if row["drift"]]
    built.must("repair --quiet")
    assert built.kernel.snapshot() == before
    assert built.netwrap("status").code == 0
    assert built.netwrap("repair --dry-run").out.count("\nip ") == 0


@pytest.mark.parametrize("order", [p for p in permutations(range(4)) if p != (0, 1, 2, 3)], ids=str)
def test_our_rules_come_back_to_their_order(order: tuple[int, ...], built: World) -> None:
    chain = built.kernel.tables.chains["filter", "NETWRAP-a"]
    before = list(chain)
    theirs = ("-s", "10.9.0.0/16", "-j", "DROP")
    chain[:] = [before[n] for n in order] + [theirs]
    status = built.netwrap("status --json")
    assert status.code == 1
    drift = [text for row in json.loads(status.out) for text in row["drift"]]
    assert drift
    assert all(text.startswith("out of order in NETWRAP-a (filter): ") for text in drift)
    assert "netwrap repair" in [f["fix"] for f in json.loads(built.netwrap("doctor --json").out)]
    built.must("repair --quiet")
    assert [rule for rule in chain if rule != theirs] == before
    assert theirs in chain
    assert built.netwrap("status").code == 0


def test_the_order_of_any_two_rules_counts_and_that_of_others_does_not(built: World) -> None:
    chains = built.kernel.tables.chains
    for place, rules in list(chains.items()):
        for n in range(len(rules) - 1):
            before = list(rules)
            rules[n], rules[n + 1] = rules[n + 1], rules[n]
            assert built.netwrap("status").code == 1, (place, rules[n])
            rules[:] = before
        rules.insert(0, ("-s", "10.9.0.0/16", "-j", "RETURN"))
        assert built.netwrap("status").code == 0, place
        rules.pop(0)


def test_a_strangers_bridge_of_our_name_is_not_taken_for_ours(built: World) -> None:
    built.prepare("ip link del dev a")
    built.prepare("ip link add name a address 02:00:00:00:00:99 group 28279 type bridge")
    before = built.kernel.namespaces[built.kernel.facts().inode].links["a"].mac
    assert "the interface 'a' exists, and it is not netwrap's" in built.netwrap("repair").err
    assert built.kernel.host.links["a"].mac == before


def test_a_route_of_a_stranger_in_place_of_a_bridges_own_is_named(built: World) -> None:
    built.prepare("ip route del 10.0.0.0/24 dev a")
    built.prepare("ip route add 10.0.0.0/24 via 192.168.1.9 dev eth0")
    result = built.netwrap("repair")
    assert result.code == 1
    assert "another route for 10.0.0.0/24, to eth0, is not netwrap's" in result.err
    (found,) = [f for f in json.loads(built.netwrap("doctor --json").out) if "24, to eth0, is not" in f["what"]]
    assert found["fix"] is None
