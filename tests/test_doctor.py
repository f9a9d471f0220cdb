"""Every finding of the doctor, on a machine that is broken in that way, and none on one that is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from world import World

from netwrap.doctor import Finding, Hook, Machine, findings
from netwrap.facts import Link, Listener, Route
from netwrap.model import LINK_GROUP

VETH = "veth5b5fc03"


@pytest.fixture(autouse=True)
def forwards(world: World) -> None:
    """The host passes packets on already: else that would be worth a note in every test."""
    world.prepare("sysctl net.ipv4.conf.all.forwarding=1")


@pytest.fixture
def built(world: World) -> World:
    """Two networks, a container on the first with a port."""
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("network create --subnet 10.0.1.1/24 second --quiet")
    world.must("connect --pid 64560 --name bird2 --net testbridge -p 8080:80 --quiet")
    return world


def found(world: World, machine: Machine | None = None) -> list[Finding]:
    with world.store() as store:
        state = store.state()
        entries = store.entries(owners=state.owners)
    return findings(machine or Machine(), world.kernel.everything(), state, entries)


def test_nothing_is_wrong_with_a_machine_that_is_well(world: World) -> None:
    assert found(world) == []


def test_nothing_is_wrong_with_networks_that_stand(built: World) -> None:
    assert found(built) == []


def only(findings_: list[Finding]) -> Finding:
    (one,) = findings_
    return one


def test_a_missing_tool_comes_with_its_package(world: World) -> None:
    one = only(found(world, Machine(missing={"iptables": "iptables"})))
    assert (one.name, one.wrong, one.mend) == ("missing tool", True, "sudo apt-get install iptables")
    assert "'iptables'" in one.what
    assert "UDP" in only(found(world, Machine(missing={"conntrack": "conntrack"}))).why


def test_what_the_kernel_does_not_do_comes_with_the_command_that_failed(world: World) -> None:
    one = only(found(world, Machine(unable={"NAT": ("iptables -t nat …", "exit 2: no")})))
    assert (one.name, one.wrong) == ("kernel feature", True)
    assert "iptables -t nat …: exit 2: no" in one.what
    assert one.mend.startswith("modprobe -a iptable_nat")


@pytest.mark.parametrize("name", ["all", "testbridge", "second"])
def test_forwarding_that_is_off_is_wrong_while_networks_stand(name: str, built: World) -> None:
    built.kernel.sysctls[f"net.ipv4.conf.{name}.forwarding"] = "0"
    one = only(found(built))
    assert (one.name, one.wrong, one.mend) == ("ip_forward", True, f"sysctl net.ipv4.conf.{name}.forwarding=1")


def test_forwarding_that_is_off_is_a_note_for_a_machine_without_networks(world: World) -> None:
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
    one = only(found(world))
    assert (one.name, one.wrong) == ("ip_forward", False)
    assert "first network" in one.why


def test_forwarding_of_an_internal_networks_bridge_does_not_matter(world: World) -> None:
    world.must("network create --internal --subnet 10.0.0.1/24 inner --quiet")
    world.kernel.sysctls["net.ipv4.conf.inner.forwarding"] = "0"
    assert found(world) == []


def test_a_forward_policy_of_drop_is_a_note_behind_our_jump_and_before_there_are_networks(built: World) -> None:
    built.prepare("iptables -w -P FORWARD DROP")
    assert [(f.name, f.wrong) for f in found(built)] == [("FORWARD", False)]
    built.must("network remove --force testbridge second --quiet")
    assert [(f.name, f.wrong) for f in found(built)] == [("FORWARD", False)]


@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_without_our_jump_forwarding_is_wrong_whatever_the_policy(policy: str, built: World) -> None:
    built.prepare(f"iptables -w -P FORWARD {policy}")
    built.prepare("iptables -w -D FORWARD -m comment --comment netwrap:host -j NETWRAP")
    one = only(found(built))
    assert one.wrong
    assert f"policy {policy}" in one.what
    assert one.mend == "iptables -w -I FORWARD -m comment --comment netwrap:host -j NETWRAP"


def test_a_rule_in_front_of_our_jump_that_drops_everything_is_wrong(built: World) -> None:
    built.prepare("iptables -w -I FORWARD -s 10.9.0.0/16 -j DROP")
    assert found(built) == []
    built.prepare("iptables -w -I FORWARD -j DROP")
    one = only(found(built))
    assert "-A FORWARD -j DROP" in one.what
    assert one.mend.split("; ")[1].startswith("iptables -w -I FORWARD")


def test_a_chain_of_nftables_that_drops_is_wrong_and_one_that_does_not_is_not(built: World) -> None:
    hook = Hook("inet", "guard", "forward", "forward", "drop")
    one = only(found(built, Machine(hooks=(hook,))))
    assert "inet guard forward" in one.what
    assert "nft insert rule inet guard forward oifname second accept" in one.mend
    for other in (replace(hook, policy="accept"), replace(hook, hook="input")):
        assert found(built, Machine(hooks=(other,))) == []


def test_strict_reverse_paths_are_a_note_with_one_way_out_and_wrong_with_two(built: World) -> None:
    machine = Machine(rp_filter={"eth0": "1", "eth7": "1", "testbridge": "2"})
    assert [(f.what.split()[0], f.wrong) for f in found(built, machine)] == [("net.ipv4.conf.eth0.rp_filter", False)]
    built.kernel.host.routes.append(Route("default", "wan", "203.0.113.1"))
    assert only(found(built, machine)).wrong


def test_filtered_bridges_and_missing_user_namespaces_are_notes(world: World) -> None:
    machine = Machine(bridges_filtered=True, no_user_namespaces="user.max_user_namespaces=0")
    assert [(f.name, f.wrong) for f in found(world, machine)] == [("br_netfilter", False), ("user namespaces", False)]


@pytest.mark.parametrize(
    ("setting", "mend"),
    [
        ("user.max_user_namespaces=0", "sysctl user.max_user_namespaces=15000"),
        ("kernel.unprivileged_userns_clone=0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("kernel.apparmor_restrict_unprivileged_userns=1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    ],
)
def test_the_setting_that_forbids_user_namespaces_is_turned_round(setting: str, mend: str, world: World) -> None:
    assert only(found(world, Machine(no_user_namespaces=setting))).mend.startswith(mend + " ")


def test_rules_in_the_other_backend_are_wrong(world: World) -> None:
    one = only(found(world, Machine(backend="nft", other_backend=("legacy", "filter", "nat"))))
    assert (one.name, one.wrong) == ("iptables backends", True)
    assert "rules of the legacy one too (table filter, nat)" in one.what


def test_a_route_over_a_networks_subnet_is_wrong_and_the_way_out_is_not(built: World) -> None:
    built.kernel.host.routes += [
        Route("0.0.0.0/1", "tun0"),
        Route("10.0.0.0/8", "tun0"),
        Route("192.168.9.0/24", "tun0"),
    ]
    assert [f.name for f in found(built)] == ["overlap", "overlap"]
    assert "10.0.0.0/8 dev tun0" in found(built)[0].what


def test_a_network_manager_that_takes_our_links_is_wrong(world: World) -> None:
    grabs = (
        ("NetworkManager", "testbridge", "no unmanaged-devices for it"),
        ("systemd-networkd", VETH, "/run/x.network"),
    )
    first, second = found(world, Machine(grabs=grabs))
    assert "/etc/NetworkManager/conf.d/netwrap.conf" in first.mend
    assert "/run/x.network" in second.what
    assert "Unmanaged=yes" in second.mend


def test_a_container_whose_process_has_ended_is_left_over(built: World) -> None:
    built.kernel.end_process(64560)
    one = only(found(built))
    assert (one.name, one.mend) == ("leftover", "netwrap disconnect bird2")


def test_what_bears_our_mark_and_is_in_no_journal_is_left_over(built: World) -> None:
    built.prepare(f"ip link add name lost address 02:00:00:00:00:07 group {LINK_GROUP} type bridge")
    built.prepare("iptables -w -t nat -A OUTPUT -p tcp -m tcp --dport 9 -m comment --comment netwrap:x/y -j ACCEPT")
    built.prepare("iptables -w -A FORWARD -i lost -j ACCEPT")
    assert [f.mend for f in found(built)] == [
        "ip link del dev lost",
        "iptables -w -t nat -D OUTPUT -p tcp -m tcp --dport 9 -m comment --comment netwrap:x/y -j ACCEPT",
    ]


def test_a_second_rule_like_one_of_ours_counts_once(built: World) -> None:
    assert not [f for f in found(built) if f.name == "leftover"]


def test_a_link_that_is_not_in_our_group_is_not_ours(built: World) -> None:
    built.prepare("ip link add name theirs address 02:00:00:00:00:07 type bridge")
    assert found(built) == []
    assert isinstance(built.kernel.everything().host.links["theirs"], Link)


def test_a_listener_behind_a_published_port_is_shadowed(built: World) -> None:
    built.kernel.listeners = {Listener("tcp", None, 8080), Listener("udp", None, 8080), Listener("tcp", None, 80)}
    one = only(found(built))
    assert (one.name, one.wrong) == ("shadowed port", True)
    assert "*:8080/tcp" in one.what
    assert one.mend.endswith("netwrap unpublish bird2 8080:80/tcp")
