"""status, repair and gc; and what becomes of things that somebody else has taken away, renamed or put in the way."""

from __future__ import annotations

import json

import pytest
from world import World

VETH = "veth5b5fc03"


def build(world: World) -> World:
    """Two linked networks, a container on the first with a port."""
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("network create --subnet 10.0.1.1/24 second --quiet")
    world.must("network link testbridge second --quiet")
    world.must("connect --pid 64560 --name bird2 --net testbridge -p 8080:80 --quiet")
    return world


@pytest.fixture
def built(world: World) -> World:
    """The same, for tests that need no more."""
    return build(world)


def status(world: World) -> dict[str, str]:
    """Each object with its state."""
    return {row["object"]: row["state"] for row in json.loads(world.netwrap("status --json").out)}


def drift(world: World) -> list[str]:
    rows = json.loads(world.netwrap("status --json").out)
    return [line for row in rows for line in row["drift"]]


MEDDLING = {
    "veth deleted": [f"ip link del dev {VETH}"],
    "bridge deleted": ["ip link del dev testbridge"],
    "gateway's address": ["ip addr del 10.0.0.1/24 dev testbridge"],
    "container's address": ["ip -n bird2 addr del 10.0.0.2/24 dev eth0"],
    "link down": ["ip -n bird2 link set dev eth0 down"],
    "bridge down": ["ip link set dev testbridge down"],
    "pulled out": [f"ip link set dev {VETH} nomaster"],
    "route": ["ip -n bird2 route del default via 10.0.0.1 dev eth0"],
    "forwarding": ["sysctl net.ipv4.conf.all.forwarding=0"],
    "route_localnet": ["sysctl net.ipv4.conf.testbridge.route_localnet=0"],
    "handle": ["ip netns del bird2"],
    "network's chain renamed": ["iptables -w -E NETWRAP-testbridge FOO"],
    "host's chain renamed": ["iptables -w -E NETWRAP BAR"],
    "both renamed": ["iptables -w -E NETWRAP BAR", "iptables -w -E NETWRAP-testbridge FOO"],
    "bridge renamed": ["ip link set dev testbridge down", "ip link set dev testbridge name br0"],
    "veth renamed": [f"ip link set dev {VETH} down", f"ip link set dev {VETH} name foo"],
    "eth0 renamed": ["ip -n bird2 link set dev eth0 down", "ip -n bird2 link set dev eth0 name net0"],
    "eth0 renamed and up": [
        "ip -n bird2 link set dev eth0 down",
        "ip -n bird2 link set dev eth0 name net0",
        "ip -n bird2 link set dev net0 up",
    ],
}


@pytest.mark.parametrize("batch", ["", " --batch"])
@pytest.mark.parametrize("what", MEDDLING)
def test_what_was_meddled_with_is_named_and_mended(what: str, batch: str, built: World) -> None:
    before = built.everything()
    for line in MEDDLING[what]:
        built.prepare(line)
    assert built.netwrap("status").code == 1
    assert "drifted" in status(built).values() or "down" in status(built).values()
    assert drift(built)
    built.must(f"repair{batch}")
    assert built.everything() == before
    assert set(status(built).values()) == {"up"}
    assert built.netwrap("status").code == 0
    assert "nothing to repair" in built.netwrap("repair").err


@pytest.mark.parametrize("what", MEDDLING)
def test_after_a_repair_all_can_be_taken_back(what: str, world: World) -> None:
    start = world.kernel.snapshot()
    test_what_was_meddled_with_is_named_and_mended(what, "", build(world))
    world.must("network remove --force testbridge second")
    assert world.kernel.snapshot() == start


@pytest.mark.parametrize("batch", ["", " --batch"])
def test_a_network_made_after_the_rules_were_flushed_makes_the_hosts_anew_in_their_old_place(
    batch: str, world: World
) -> None:
    start = world.kernel.snapshot()
    build(world)
    world.kernel.tables.flush("filter")
    world.must(f"network create third{batch}")
    world.must(f"repair{batch}")
    assert world.netwrap("status").code == 0
    world.must(f"network remove --force testbridge second third{batch}")
    assert world.kernel.snapshot() == start


def test_a_dry_run_says_what_would_be_released(world: World) -> None:
    world.must("network create --subnet 10.0.0.1/24 n --quiet")
    world.must("connect --pid 64560 --name c1 --net n --quiet")
    world.prepare("end 64560")
    for command in ("gc", "repair", "network remove n", "connect --pid 64561 --net n"):
        said = world.netwrap(f"{command} --dry-run").err
        assert "netwrap: would clean up after containers that are gone: c1\n" in said
        assert "cleaning up" not in said
    assert "cleaning up after containers that are gone: " in world.netwrap("gc").err
