"""How standing objects are: up, drifted, down, gone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from world import World

from netwrap.facts import Facts
from netwrap.health import container_state, drifted, is_gone, network_state
from netwrap.model import Container, Process
from netwrap.steps import sysctl
from netwrap.undo import Entry

CREATE = "network create --subnet 10.0.0.1/24 testbridge"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80"
BIRD2 = Container("bird2", 7, True, 64560, 645600, "boot")
SEEN = Facts(boot_id="boot", handles={"bird2": 7, "lab": 8}, processes={64560: Process(64560, 645600, 7, 64560)})
LAB = Container("lab", 8, False, boot_id="boot")


def test_a_container_whose_process_runs_in_its_namespace_is_not_gone() -> None:
    assert not is_gone(BIRD2, SEEN)
    assert not is_gone(LAB, SEEN)


@pytest.mark.parametrize(
    "seen",
    [
        replace(SEEN, boot_id="another"),
        replace(SEEN, processes={}),
        replace(SEEN, processes={64560: Process(64560, 999, 7, 64560)}),
        replace(SEEN, processes={64560: Process(64560, 645600, 9, 64560)}),
    ],
    ids=["another boot", "ended", "pid used again", "another namespace"],
)
def test_a_container_is_gone_with_its_process(seen: Facts) -> None:
    assert is_gone(BIRD2, seen)
    assert container_state(BIRD2, False, seen) == "gone"


def test_a_process_whose_namespace_cannot_be_seen_counts_as_there() -> None:
    assert not is_gone(BIRD2, replace(SEEN, processes={64560: Process(64560, 645600, 0, 64560)}))


@pytest.mark.parametrize("handles", [{}, {"lab": 9}], ids=["deleted", "another namespace"])
def test_a_container_without_a_process_is_gone_with_its_handle(handles: dict[str, int]) -> None:
    assert is_gone(LAB, replace(SEEN, handles=handles))


def test_a_step_that_does_not_hold_is_drift_unless_it_is_undone_or_unseen() -> None:
    step = sysctl.write("k", "1", "0", "why")
    entries = [Entry(1, 1, "done", step), Entry(2, 1, "undone", step), Entry(3, 1, "begun", step)]
    assert [e.id for e in drifted(entries, Facts())] == [1, 3]
    assert drifted(entries, Facts(sysctls={"k": "1"})) == []


def states(world: World) -> tuple[str, str]:
    """The state of the network and of the endpoint."""
    network = json.loads(world.must("network inspect testbridge"))
    (endpoint,) = json.loads(world.must("ps --json"))
    assert network["endpoints"] == [endpoint]
    return network["state"], endpoint["state"]


@pytest.mark.parametrize(
    ("happened", "wanted"),
    [
        ([], ("up", "up")),
        (["ip link set dev testbridge down"], ("drifted", "drifted")),
        (["sysctl net.ipv4.conf.all.forwarding=0"], ("drifted", "drifted")),
        (["sysctl net.ipv4.conf.testbridge.route_localnet=0"], ("drifted", "drifted")),
        (["ip link set dev veth5b5fc03 down"], ("up", "drifted")),
        (["ip -n bird2 route del default via 10.0.0.1 dev eth0"], ("up", "drifted")),
        (["ip link set dev veth5b5fc03 type bridge_slave hairpin off"], ("up", "drifted")),
        (["ip link del dev veth5b5fc03"], ("up", "drifted")),
        (["ip netns del bird2"], ("up", "drifted")),
        (["ip link del dev testbridge"], ("down", "drifted")),
        (["end 64560"], ("up", "gone")),
        (["end 64560", "ip netns del bird2"], ("up", "gone")),
        (["ip addr add 10.0.0.9/24 dev testbridge", "iptables -w -A INPUT -j ACCEPT"], ("up", "up")),
    ],
    ids=str,
)
def test_what_happens_to_the_machine_is_seen_in_the_states(
    happened: list[str], wanted: tuple[str, str], world: World
) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    for line in happened:
        world.prepare(line)
    assert states(world) == wanted


def test_a_flushed_chain_is_drift(world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    world.kernel.tables.chains["nat", "PREROUTING"].clear()
    assert states(world) == ("up", "drifted")
    world.kernel.tables.chains["filter", "NETWRAP"].clear()
    assert states(world) == ("drifted", "drifted")


@pytest.mark.parametrize(("chain", "state"), [("FORWARD", "drifted"), ("NETWRAP", "drifted"), ("NETWRAP-second", "up")])
def test_a_container_is_drifted_where_what_it_is_built_upon_is(chain: str, state: str, world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    world.must("network create --subnet 10.0.1.1/24 second")
    world.kernel.tables.chains["filter", chain].clear()
    (endpoint,) = json.loads(world.must("ps --json"))
    assert endpoint["state"] == state


def test_a_bridge_that_somebody_else_made_in_its_place_is_drift(world: World) -> None:
    world.must(CREATE)
    world.prepare("ip link del dev testbridge")
    world.prepare("ip link add name testbridge address 02:00:00:00:00:99 type bridge")
    network = json.loads(world.must("network inspect testbridge"))
    assert network["state"] == "drifted"
    assert network_state(world.state().networks["testbridge"], False, Facts()) == "down"
