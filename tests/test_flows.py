"""Connections end with the ports and addresses by which they went, and no others do."""

from __future__ import annotations

import json

import pytest
from toyflows import ToyFlow
from world import Killed, World

HOST = "192.168.1.10"


def led(protocol: str, port: int, to: str, target: str = HOST, source: str = "203.0.113.9") -> ToyFlow:
    """A connection that a published port has led to a container."""
    return ToyFlow(protocol, source, target, port, to)


@pytest.fixture
def built(world: World) -> World:
    """c1 (10.0.0.2) and c2 (10.0.0.3) on one network, c1 on another one too (10.0.1.2); conntrack is there."""
    world.prepare("install conntrack")
    world.prepare("ip addr add 192.168.1.11/24 dev eth0")
    for line in (
        "network create --subnet 10.0.0.1/24 a",
        "network create --subnet 10.0.1.1/24 b",
        "connect --pid 64560 --name c1 --net a",
        "connect --pid 64561 --name c2 --net a",
        "connect --pid 64560 --net b",
    ):
        world.must(f"{line} --quiet")
    return world


def gone(world: World, line: str, *flows: ToyFlow) -> list[int]:
    """Which of the connections a command ends, by their places."""
    world.kernel.flows = list(flows)
    world.must(f"{line} --quiet")
    return [n for n, flow in enumerate(flows) if flow not in world.kernel.flows]


def commands(world: World, line: str) -> list[str]:
    """The conntrack commands of a dry run."""
    rows = json.loads(world.must(f"{line} --dry-run --json"))
    return [row["do"].removeprefix("conntrack -D ") for row in rows if row["do"].startswith("conntrack")]


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_an_unpublished_port_ends_its_connections_and_no_others(protocol: str, built: World) -> None:
    built.must(f"publish c1 8080:80/{protocol} 8081:80/{protocol} --net a --quiet")
    other = "tcp" if protocol == "udp" else "udp"
    ended = gone(
        built,
        f"unpublish c1 8080:80/{protocol}",
        led(protocol, 8080, "10.0.0.2"),
        led(protocol, 8080, "10.0.0.2", target="127.0.0.1", source="127.0.0.1"),
        led(protocol, 8080, "10.0.0.2", target="10.0.0.1", source="10.0.0.3"),
        led(protocol, 8081, "10.0.0.2"),
        led(protocol, 8080, "10.0.0.3"),
        led(other, 8080, "10.0.0.2"),
        ToyFlow(protocol, HOST, "203.0.113.1", 8080),
        ToyFlow(protocol, "10.0.0.3", "10.0.0.2", 8080),
        ToyFlow(protocol, "10.0.0.2", "203.0.113.1", 8080),
    )
    assert ended == [0, 1, 2]


def test_a_port_of_one_address_ends_without_that_of_the_other(built: World) -> None:
    built.must(f"publish c1 {HOST}:8080:80 192.168.1.11:8080:80 --net a --quiet")
    flows = (led("tcp", 8080, "10.0.0.2"), led("tcp", 8080, "10.0.0.2", target="192.168.1.11"))
    assert gone(built, f"unpublish c1 {HOST}:8080:80", *flows) == [0]


@pytest.mark.parametrize("size", [3, 256])
def test_a_range_ends_port_by_port_where_another_port_stands(size: int, built: World) -> None:
    ports = f"9000-{8999 + size}:9000-{8999 + size}"
    built.must(f"publish c1 {ports} 8080:80 --net a --quiet")
    assert len(commands(built, f"unpublish c1 {ports}")) == size
    flows = (led("tcp", 9000, "10.0.0.2"), led("tcp", 8999 + size, "10.0.0.2"), led("tcp", 8080, "10.0.0.2"))
    assert gone(built, f"unpublish c1 {ports}", *flows) == [0, 1]


def test_where_no_other_port_of_its_protocol_stands_a_range_takes_one_command(built: World) -> None:
    built.must("publish c1 9000-9999:9000-9999 8080:80/udp --net a --quiet")
    assert commands(built, "unpublish c1 9000-9999:9000-9999") == ["-p tcp --dst-nat 10.0.0.2 || true"]
    flows = (led("tcp", 9500, "10.0.0.2"), led("udp", 8080, "10.0.0.2"), ToyFlow("tcp", "10.0.0.3", "10.0.0.2", 9500))
    assert gone(built, "unpublish c1 9000-9999:9000-9999", *flows) == [0]
    built.must("publish c1 9000-9999:9000-9999 8080:80 --net a --quiet")
    assert commands(built, "unpublish c1 9000-9999:9000-9999") == ["-p tcp --dst-nat 10.0.0.2 || true"]


ADDRESS = (
    ToyFlow("udp", "10.0.0.2", "203.0.113.1", 6000),
    ToyFlow("tcp", "192.168.1.10", "10.0.0.2", 80),
    led("tcp", 8080, "10.0.0.2"),
    ToyFlow("udp", "10.0.0.2", "192.168.1.10", 8081, "10.0.0.3"),
    ToyFlow("udp", "10.0.0.3", "203.0.113.1", 6000),
    ToyFlow("tcp", "10.0.1.2", "203.0.113.1", 80),
    ToyFlow("tcp", HOST, "203.0.113.1", 80),
)


@pytest.mark.parametrize("line", ["disconnect c1 --net a", "undo 3 --yes"])
def test_a_released_address_takes_all_its_connections_along(line: str, built: World) -> None:
    built.must("publish c1 8080:80 --net a --quiet")
    assert gone(built, line, *ADDRESS) == [0, 1, 2, 3]


def test_with_a_network_go_the_connections_of_all_that_were_on_it(built: World) -> None:
    built.must("publish c1 8080:80 --net a --quiet")
    assert gone(built, "network remove --force a", *ADDRESS) == [0, 1, 2, 3, 4]


def test_a_container_that_has_ended_takes_its_connections_along(built: World) -> None:
    built.kernel.end_process(64560)
    assert gone(built, "gc", *ADDRESS) == [0, 1, 2, 3, 5]


def test_a_connect_that_fails_leaves_no_connection_of_its_address(built: World) -> None:
    built.must("disconnect c1 --net a --quiet")
    built.prepare("iptables -w -t nat -N DOCKER")
    built.kernel.flows = list(ADDRESS)
    built.kernel.around = _refuse(built)
    assert built.netwrap("connect --pid 64560 --net a --ip 10.0.0.2 --quiet").code == 1
    assert built.kernel.flows == [ADDRESS[4], ADDRESS[5], ADDRESS[6]]


def _refuse(world: World):  # type: ignore[no-untyped-def]
    from toytables import Refused

    def around(change):  # type: ignore[no-untyped-def]
        if world.kernel.log[-1][:4] == ("ip", "-n", "c1", "addr"):
            raise Refused("no memory", 2)
        change()

    return around


def test_a_teardown_that_is_killed_before_it_forgets_is_finished_with_that(built: World) -> None:
    built.must("publish c1 8080:80 --net a --quiet")
    flow = led("tcp", 8080, "10.0.0.2")
    built.kernel.flows = [flow]

    def around(change):  # type: ignore[no-untyped-def]
        if built.kernel.log[-1][0] == "conntrack":
            raise Killed
        change()

    built.kernel.around = around
    with pytest.raises(Killed):
        built.netwrap("unpublish c1 8080:80")
    built.kernel.around = lambda change: change()
    assert built.kernel.flows == [flow]
    built.recover()
    assert built.kernel.flows == []


def test_without_conntrack_who_unpublishes_is_warned_that_connections_go_on(built: World) -> None:
    built.must("publish c1 8080:80 --net a --quiet")
    built.kernel.tools.clear()
    said = built.netwrap("unpublish c1 8080:80 --quiet").err
    assert said.startswith(
        "netwrap: conntrack is not installed (sudo apt-get install conntrack): open connections through"
    )
    assert "8080:80/tcp" in said
    assert "packets for 10.0.0.2 may reach its next owner" in built.netwrap("disconnect c1 --net a").err
    assert built.netwrap("disconnect c2 --quiet").err == ""
    assert not any(words[0] == "conntrack" for words in built.kernel.log[-30:])
