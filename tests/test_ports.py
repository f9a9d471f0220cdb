"""Ports that are published: what is said beside the steps, and where a bridge is full."""

from __future__ import annotations

import json

import pytest
from toyspace import ToyLink
from world import World


@pytest.fixture
def connected(world: World) -> World:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("connect --pid 64560 --name bird2 --net testbridge --quiet")
    return world


def warnings(world: World, line: str) -> list[str]:
    result = world.netwrap(line)
    assert result.code == 0, result.err
    return [said for said in result.err.splitlines() if said.startswith("netwrap: ")]


@pytest.mark.parametrize("how", ["--quiet", "--batch", "--dry-run"])
def test_publishing_past_the_input_rules_of_the_host_is_said_each_port_once(how: str, connected: World) -> None:
    connected.prepare("iptables -w -P INPUT DROP")
    first, second = warnings(connected, f"publish bird2 8080:80 127.0.0.1:8081:80 8082:80/udp {how}")
    assert first.startswith("netwrap: 8080:80/tcp is open to everybody")
    assert "policy DROP" in first
    assert "--allow-from" in first
    assert second.startswith("netwrap: 8082:80/udp ")


def test_a_port_for_some_only_and_a_host_without_input_rules_get_no_warning(connected: World) -> None:
    assert warnings(connected, "publish bird2 8080:80") == []
    connected.prepare("iptables -w -P INPUT DROP")
    assert warnings(connected, "publish bird2 8081:80 --allow-from 192.168.50.0/24") == []


def test_connect_with_a_port_warns_too(connected: World) -> None:
    connected.prepare("iptables -w -P INPUT DROP")
    assert len(warnings(connected, "connect --pid 64561 --net testbridge -p 8080:80")) == 1


def test_without_conntrack_udp_ports_come_with_a_word_about_it(connected: World) -> None:
    assert "conntrack is not installed" in connected.netwrap("publish bird2 8080:80/udp").err
    assert "conntrack" not in connected.netwrap("publish bird2 8080:80").err
    connected.prepare("install conntrack")
    assert "not installed" not in connected.netwrap("publish bird2 8081:80/udp").err


def test_the_1024th_port_of_a_bridge_is_refused_and_nothing_is_left(connected: World) -> None:
    for n in range(1022):
        connected.kernel.host.links[f"d{n}"] = ToyLink(f"d{n}", "02:00:00:00:00:01", "veth", master="testbridge")
    before = connected.everything()
    what, hint = connected.netwrap("connect --pid 64561 --net testbridge").complaint
    assert what.startswith("network 'testbridge' is full: its bridge testbridge has 1023 ports")
    assert hint.startswith("netwrap network create")
    assert connected.everything() == before
    del connected.kernel.host.links["d0"]
    connected.must("connect --pid 64561 --net testbridge --quiet")


def test_udp_traffic_is_forgotten_for_the_hosts_own_addresses_and_the_container_alone(connected: World) -> None:
    connected.prepare("install conntrack")
    said = connected.netwrap("publish bird2 443:443/udp").err
    forgets = [line.removeprefix("+ conntrack -D -p udp ") for line in said.splitlines() if "conntrack -D" in line]
    assert forgets == [
        f"--orig-dst {ip} --orig-port-dst 443 || true" for ip in ("10.0.0.1", "127.0.0.1", "192.168.1.10")
    ]


def test_the_log_of_what_is_not_taken_back_has_an_empty_undo(connected: World) -> None:
    connected.prepare("install conntrack")
    rows = json.loads(connected.must("publish bird2 443:443/udp --dry-run --json"))
    assert [row["undo"] for row in rows if "--orig-dst" in row["do"]] == ["", "", ""]
    connected.must("publish bird2 443:443/udp")
    connected.must("unpublish bird2 443:443/udp")
    number = json.loads(connected.must("log --json"))[-1]["id"]
    assert all(row["do"] for row in json.loads(connected.must(f"log {number} --json"))["steps"])


def test_without_conntrack_a_link_comes_with_a_warning(world: World) -> None:
    for name in ("a", "b"):
        world.must(f"network create {name} --quiet")
    assert "stay open" in world.netwrap("network link a b --quiet").err
    world.must("network unlink a b --quiet")
    world.prepare("install conntrack")
    assert world.netwrap("network link a b --quiet").err == ""


def test_who_loses_the_default_route_is_told(connected: World) -> None:
    connected.must("network create --subnet 10.0.1.1/24 second --quiet")
    connected.must("connect --pid 64560 --net second --quiet")
    said = connected.netwrap("disconnect bird2 --net testbridge").err
    assert "# bird2 no longer has a default route: it has none through second" in said
    assert "no default route" not in connected.netwrap("disconnect bird2").err
