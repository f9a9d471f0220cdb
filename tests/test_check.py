"""Which trials there are for what stands, and which hop of a way that fails is named."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from world import World

from netwrap.check import Break, Trial, heard, missing, of_others, trials
from netwrap.facts import Listener, Route
from netwrap.steps import netns
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


def standing(world: World) -> dict[str, list[Entry]]:
    entries: dict[str, list[Entry]] = {}
    with world.store() as store:
        for entry in store.entries(owners=store.state().owners):
            entries.setdefault(entry.step.owner, []).append(entry)
    return entries


def broken(world: World, name: str) -> Break | None:
    return missing(all_trials(world)[name], standing(world), world.kernel.everything(), world.state())


def others(world: World, name: str, *, listens: bool = False) -> Break:
    """What is named where every step of ours holds."""
    assert broken(world, name) is None
    return of_others(all_trials(world)[name], standing(world), world.kernel.everything(), listens=listens)


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


def test_the_way_out_that_is_tried_is_the_kernels_whatever_other_tables_have(built: World) -> None:
    built.kernel.host.routes.insert(0, Route("default", "eth0", "192.168.1.66", "10"))
    assert all_trials(built)["c1 to outside"].ip == "192.168.1.1"
    built.kernel.host.routes += [Route(half, "lo") for half in ("0.0.0.0/1", "128.0.0.0/1")]
    assert "c1 to outside" not in all_trials(built), "a VPN's link leads there itself: there is no next machine to ask"


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
        ("ip netns del c2", "c2 to outside", "handle", "ip netns attach c2 64561"),
        ("ip netns del c2", "c1 to c2", "handle", "ip netns attach c2 64561"),
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


@pytest.mark.parametrize(
    ("table", "chain", "words", "needed_by"),
    [
        ("nat", "POSTROUTING", "! -o testbridge", {"c1 to outside", "c2 to outside"}),
        ("nat", "POSTROUTING", "127.0.0.0/8 -o testbridge", {"host to c1 by 8080:80/tcp"}),
        ("filter", "NETWRAP-testbridge", "-i testbridge", {"c1 to c2", "c2 to c1"}),
        ("filter", "NETWRAP-testbridge", "-j DROP", set()),
        ("raw", "PREROUTING", "-j DROP", set()),
    ],
)
def test_a_missing_rule_is_a_hop_of_the_trials_that_need_it(
    table: str, chain: str, words: str, needed_by: set[str], built: World
) -> None:
    rules = built.kernel.tables.chains[table, chain]
    rules.remove(next(rule for rule in rules if words in " ".join(rule) and "testbridge" in " ".join(rule)))
    assert {name for name in all_trials(built) if broken(built, name)} == needed_by


def test_lo_is_no_hop(built: World) -> None:
    built.prepare("ip -n c1 link set dev lo down")
    assert [name for name in all_trials(built) if broken(built, name)] == []


def test_of_two_hops_the_first_on_the_way_is_named(built: World) -> None:
    built.prepare(f"ip link set dev {VETH} nomaster")
    built.prepare("ip -n c2 addr del 10.0.0.3/24 dev eth0")
    assert [broken(built, name).hop for name in ("c1 to c2", "c2 to c1")] == ["bridge port", "address"]  # type: ignore[union-attr]


def test_a_handle_that_netwrap_run_made_comes_back_for_the_same_namespace(built: World) -> None:
    """`ip netns add` would make another one."""
    built.prepare("ip netns del c2")
    entries, state = standing(built), built.state()
    entries["container:c2"] = [
        Entry(
            e.id,
            e.op,
            e.state,
            netns.add(state.containers["c2"].netns, "why") if e.step.probe.kind == "netns" else e.step,
        )
        for e in entries["container:c2"]
    ]
    found = missing(all_trials(built)["c2 to outside"], entries, built.kernel.everything(), state)
    assert found == Break("handle", "missing: ip netns add c2", "ip netns attach c2 64561")


def test_the_mend_of_a_rule_puts_it_in_its_place(built: World) -> None:
    chain = built.kernel.tables.chains["filter", "NETWRAP-testbridge"]
    before = list(chain)
    built.prepare(f"iptables -w -D NETWRAP-testbridge {' '.join(before[0])}")
    found = broken(built, "c1 to outside")
    assert found is not None
    assert found.mend.startswith("iptables -w -I NETWRAP-testbridge 1 ")
    built.prepare(found.mend)
    assert chain == before


def test_a_setting_that_was_only_held_on_to_is_no_hop(world: World) -> None:
    world.prepare("ip link add name wg0 address 02:00:00:00:00:09 type bridge")
    world.prepare("sysctl net.ipv4.conf.wg0.forwarding=1")
    world.must("network create --subnet 10.0.0.1/24 a --quiet")
    world.must("connect --pid 64560 --name c1 --net a --quiet")
    world.prepare("ip link del dev wg0")
    assert any(entry.step.probe.kind == "keep" for entry in standing(world)["host"])
    assert [name for name in all_trials(world) if broken(world, name)] == []


def test_a_port_whose_service_does_not_listen_is_a_service(built: World) -> None:
    found = others(built, "host to c1 by 8080:80/tcp")
    assert (found.hop, found.mend) == ("service", "netwrap exec c1 -- ss -lntu")
    assert "port 80/tcp in c1 (10.0.0.2)" in found.broken
    built.must("publish c2 9000-9002:90-92 --quiet")
    assert "port 90-92/tcp in c2" in others(built, "host to c2 by 9000-9002:90-92/tcp").broken


def test_what_is_no_step_of_ours_is_a_rule_of_others_the_outside_or_unknown(built: World) -> None:
    assert others(built, "c1 to outside").hop == "outside"
    assert others(built, "host to c1 by 8080:80/tcp", listens=True).hop == "unknown"
    built.prepare("iptables -w -P INPUT DROP")
    found = others(built, "c1 to gateway of testbridge")
    assert (found.hop, found.mend) == ("rule", "iptables -S INPUT")
    assert others(built, "c1 to c2").hop == "unknown"
    built.prepare("iptables -w -I FORWARD -j DROP")
    assert "-A FORWARD -j DROP" in others(built, "c1 to c2").broken


def test_forward_is_blamed_only_for_what_comes_in_front_of_our_jump_and_for_packets_that_pass_it(built: World) -> None:
    built.prepare("iptables -w -P FORWARD DROP")
    built.prepare("iptables -w -A FORWARD -j DROP")
    assert others(built, "c1 to outside").hop == "outside"
    assert others(built, "c1 to c2").hop == "unknown"
    built.prepare("iptables -w -I FORWARD -j DROP")
    assert "FORWARD of this host: -A FORWARD -j DROP" in others(built, "c1 to outside").broken
    for name in ("host to c1", "host to c1 by 8080:80/tcp", "c1 to gateway of testbridge"):
        assert others(built, name, listens=True).hop == "unknown"
    built.prepare("iptables -w -P OUTPUT DROP")
    assert others(built, "host to c1").mend == "iptables -S OUTPUT"


# ---- forwarding that was on before


@pytest.fixture
def forwarded(world: World) -> World:
    """Two linked networks on a host that forwarded already: it is no step of ours."""
    world.prepare("sysctl net.ipv4.conf.all.forwarding=1")
    world.must("network create --subnet 10.0.0.1/24 a --quiet")
    world.must("network create --subnet 10.0.1.1/24 b.c --quiet")
    world.must("connect --pid 64560 --name c1 --net a --quiet")
    world.must("connect --pid 64561 --name c2 --net b.c --quiet")
    world.must("network link a b.c --quiet")
    return world


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("net.ipv4.conf.all.forwarding", {"c1 to c2", "c2 to c1", "c1 to outside", "c2 to outside"}),
        ("net.ipv4.conf.a.forwarding", {"c1 to c2", "c2 to c1", "c1 to outside"}),
        ("net/ipv4/conf/b.c/forwarding", {"c1 to c2", "c2 to c1", "c2 to outside"}),
        ("net.ipv4.conf.eth0.forwarding", {"c1 to outside", "c2 to outside"}),
    ],
)
def test_forwarding_that_is_off_and_no_step_of_ours_is_named(key: str, names: set[str], forwarded: World) -> None:
    forwarded.prepare(f"sysctl {key}=0")
    found = {name: others(forwarded, name) for name in all_trials(forwarded)}
    assert {name for name, b in found.items() if b.hop == "forwarding"} == names
    assert {found[name] for name in names} == {Break("forwarding", f"{key} is 0", f"sysctl {key}=1")}


def test_containers_of_one_network_need_no_forwarding(built: World) -> None:
    assert {name for name, trial in all_trials(built).items() if trial.forwarding} == {
        "c1 to outside",
        "c2 to outside",
        "c3 to outside",
    }


# ---- services


@pytest.mark.parametrize(
    ("listeners", "calls"),
    [
        ([(None, 90)], [9000]),
        ([("10.0.0.3", 91)], [9001]),
        ([(None, 92), (None, 91)], [9001, 9002]),
        ([("127.0.0.1", 90)], []),
        ([("10.0.0.2", 90)], []),
        ([(None, 89), (None, 93), (None, 9000)], []),
        ([], []),
    ],
)
def test_a_socket_counts_where_it_takes_what_the_port_leads_to(
    listeners: list[tuple[str | None, int]], calls: list[int], built: World
) -> None:
    built.must("publish c2 9000-9002:90-92 --quiet")
    found = {Listener("tcp", IPv4Address(ip) if ip else None, port) for ip, port in listeners}
    assert heard(all_trials(built)["host to c2 by 9000-9002:90-92/tcp"], found) == calls
    assert heard(all_trials(built)["host to c2"], found) == []
