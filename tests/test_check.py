"""Which trials there are for what stands, and which hop of a way that fails is named."""

from __future__ import annotations

import pytest
from world import World

from netwrap.check import Break, Trial, missing, of_others, trials
from netwrap.undo import Entry

VETH = "veth5b5fc03"


@pytest.fixture
def built(world: World) -> World:
    """c1 and c2 on one network, c3 on another; c1 publishes a port for everybody, c3 one on 127.0.0.1."""
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("network create --subnet 10.0.1.1/24 second --quiet")
    world.must("connect --pid 64560 --name c1 --net testbridge -p 8080:80 --quiet")
    world.must("connect --pid 64561 --name c2 --net testbridge --quiet")
    world.must("connect --pid 64562 --name c3 --net second -p 127.0.0.1:5300:53/udp --quiet")
    return world


def all_trials(world: World) -> dict[str, Trial]:
    return {f"{t.source} to {t.target}": t for t in trials(world.state(), world.kernel.everything())}


def broken(world: World, name: str) -> Break | None:
    with world.store() as store:
        state = store.state()
        entries: dict[str, list[Entry]] = {}
        for entry in store.entries(owners=state.owners):
            entries.setdefault(entry.step.owner, []).append(entry)
    return missing(all_trials(world)[name], entries, world.kernel.everything(), state)


def test_everything_that_stands_is_tried_once(built: World) -> None:
    assert {name: t.ip for name, t in all_trials(built).items()} == {
        "c1 to c2": "10.0.0.3",
        "c2 to c1": "10.0.0.2",
        "host to c1": "10.0.0.2",
        "host to c2": "10.0.0.3",
        "host to c3": "10.0.1.2",
        "c1 to gateway of testbridge": "10.0.0.1",
        "c2 to gateway of testbridge": "10.0.0.1",
        "c3 to gateway of second": "10.0.1.1",
        "c1 to outside": "192.168.1.1",
        "c2 to outside": "192.168.1.1",
        "c3 to outside": "192.168.1.1",
        "host to c1 by 8080:80/tcp": "127.0.0.1",
        "host to c3 by 127.0.0.1:5300:53/udp": "127.0.0.1",
    }


def test_containers_of_linked_networks_are_tried_too(built: World) -> None:
    built.must("network link testbridge second --quiet")
    assert {"c1 to c3", "c3 to c1", "c2 to c3", "c3 to c2"} <= set(all_trials(built))
    assert "link:second/testbridge" in all_trials(built)["c3 to c1"].path


def test_without_a_way_out_and_on_internal_networks_there_is_no_outside_to_try(world: World) -> None:
    world.must("network create --internal --subnet 10.0.0.1/24 inner --quiet")
    world.must("connect --pid 64560 --name c1 --net inner --quiet")
    assert set(all_trials(world)) == {"host to c1", "c1 to gateway of inner"}
    world.must("network create --subnet 10.0.1.1/24 second --quiet")
    world.must("connect --pid 64561 --name c2 --net second --quiet")
    assert "c2 to outside" in all_trials(world)
    world.kernel.host.routes.clear()
    assert "c2 to outside" not in all_trials(world)


def test_a_way_on_which_every_step_holds_has_no_missing_hop(built: World) -> None:
    assert [name for name in all_trials(built) if broken(built, name)] == []


@pytest.mark.parametrize(
    ("change", "trial", "hop", "text"),
    [
        ("ip -n c1 addr del 10.0.0.2/24 dev eth0", "host to c1", "address", "ip -n c1 addr add 10.0.0.2/24 dev eth0"),
        ("ip -n c1 link set dev eth0 down", "c1 to c2", "link", "ip -n c1 link set dev eth0 up"),
        (f"ip link set dev {VETH} nomaster", "c2 to c1", "bridge port", f"ip link set dev {VETH} master testbridge"),
        (f"ip link del dev {VETH}", "host to c1", "link", "ip link add name"),
        ("ip -n c1 route del default via 10.0.0.1 dev eth0", "c1 to outside", "route", "route add default"),
        ("ip addr del 10.0.0.1/24 dev testbridge", "c1 to gateway of testbridge", "address", "10.0.0.1/24"),
        ("ip link set dev testbridge down", "host to c1", "link", "ip link set dev testbridge up"),
        ("sysctl net.ipv4.conf.all.forwarding=0", "c1 to outside", "forwarding", "forwarding=1"),
        ("iptables -w -D FORWARD -m comment --comment netwrap:host -j NETWRAP", "c1 to outside", "rule", "-I FORWARD"),
        ("sysctl net.ipv4.conf.testbridge.route_localnet=0", "host to c1 by 8080:80/tcp", "forwarding", "localnet=1"),
        ("ip netns del c3", "host to c3", "process", "c3 is gone"),
    ],
)  # fmt: skip
def test_the_first_hop_that_breaks_is_named_with_the_command_that_mends_it(
    change: str, trial: str, hop: str, text: str, built: World
) -> None:
    if change == "ip netns del c3":
        built.prepare("end 64562")
    else:
        built.prepare(change)
    found = broken(built, trial)
    assert found is not None
    assert found.hop == hop
    assert text in found.broken
    assert text in found.mend or hop == "process"


def test_of_two_hops_the_first_on_the_way_is_named(built: World) -> None:
    built.prepare(f"ip link set dev {VETH} nomaster")
    built.prepare("ip -n c2 addr del 10.0.0.3/24 dev eth0")
    assert [broken(built, name).hop for name in ("c1 to c2", "c2 to c1")] == ["bridge port", "address"]  # type: ignore[union-attr]


def test_a_port_whose_service_does_not_listen_is_a_service(built: World) -> None:
    trial = all_trials(built)["host to c1 by 8080:80/tcp"]
    found = of_others(trial, built.kernel.everything(), listens=False)
    assert (found.hop, found.mend) == ("service", "netwrap exec c1 -- ss -lntu")
    assert "port 80/tcp in c1" in found.broken


def test_what_is_no_step_of_ours_is_a_rule_of_others_the_outside_or_unknown(built: World) -> None:
    kernel, known = built.kernel, all_trials(built)
    assert of_others(known["c1 to outside"], kernel.everything(), listens=False).hop == "outside"
    assert of_others(known["host to c1 by 8080:80/tcp"], kernel.everything(), listens=True).hop == "unknown"
    built.prepare("iptables -w -P INPUT DROP")
    found = of_others(known["c1 to gateway of testbridge"], kernel.everything(), listens=False)
    assert (found.hop, found.mend) == ("rule", "iptables -S INPUT")
    assert of_others(known["c1 to c2"], kernel.everything(), listens=False).hop == "unknown"
    built.prepare("iptables -w -I FORWARD -j DROP")
    assert "-A FORWARD -j DROP" in of_others(known["c1 to c2"], kernel.everything(), listens=False).broken
