"""Every finding of the doctor, on a machine that is broken in that way, and none on one that is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from toytables import split
from world import World

from netwrap import desk, examine
from netwrap.doctor import Finding, Machine, findings
from netwrap.errors import CommandFailed
from netwrap.facts import Listener, Route
from netwrap.nft import Hook
from netwrap.spawn import missing

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
    assert (one.name, one.wrong, one.fix) == ("missing tool", True, "sudo apt-get install iptables")
    assert "'iptables'" in one.what
    assert "UDP" in only(found(world, Machine(missing={"conntrack": "conntrack"}))).why
    one = only(found(world, Machine(missing={"ping": "iputils-ping"})))
    assert (one.why, one.wrong) == ("`netwrap check` needs it.", False)
    assert "ping" in examine.TOOLS


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (missing("iptables-save"), "'iptables-save' is not installed on this machine"),
        (CommandFailed("iptables-save", 4, "no\nsuch table\n"), "iptables-save: exit 4: no such table"),
    ],
)
def test_where_the_look_fails_the_doctor_says_so_and_goes_on_without_it(
    error: Exception, said: str, built: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(desk, "look", fail)
    machine = Machine(missing={"iptables-save": "iptables"})
    monkeypatch.setattr(examine, "machine", lambda _: machine)
    result = built.netwrap("doctor --json")
    assert result.err == f"not looked at: links, routes and firewall rules: {said}\n"
    assert [f["name"] for f in json.loads(result.out)] == ["missing tool"]
    assert result.code == 1


def test_what_the_kernel_does_not_do_comes_with_the_command_that_failed(world: World) -> None:
    one = only(found(world, Machine(unable={"NAT": ("iptables -t nat …", "exit 2: no")})))
    assert (one.name, one.wrong) == ("kernel feature", True)
    assert "iptables -t nat …: exit 2: no" in one.what
    assert one.fix.startswith("modprobe -a iptable_nat")


@pytest.mark.parametrize("name", ["all", "testbridge", "second", "eth0"])
def test_forwarding_that_is_off_is_wrong_while_networks_stand(name: str, built: World) -> None:
    built.kernel.sysctls[f"net.ipv4.conf.{name}.forwarding"] = "0"
    one = only(found(built))
    wanted = "netwrap repair" if name == "all" else f"sysctl net.ipv4.conf.{name}.forwarding=1"
    assert (one.name, one.wrong, one.fix) == ("ip_forward", True, wanted)
    mend(one, built)
    assert found(built) == []


def test_forwarding_that_netwrap_turned_on_and_somebody_off_is_one_finding(world: World) -> None:
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
    world.must("network create --internal --subnet 10.0.0.1/24 inner --quiet")
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
    assert only(found(world)).name == "ip_forward"


def test_forwarding_that_is_off_is_a_note_for_a_machine_without_networks(world: World) -> None:
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
    one = only(found(world))
    assert (one.name, one.wrong) == ("ip_forward", False)
    assert "first network" in one.why


def test_forwarding_of_an_internal_networks_bridge_does_not_matter(world: World) -> None:
    world.must("network create --internal --subnet 10.0.0.1/24 inner --quiet")
    world.kernel.sysctls["net.ipv4.conf.inner.forwarding"] = "0"
    assert found(world) == []


def test_forwarding_of_the_way_out_matters_to_networks_that_have_one(world: World) -> None:
    world.must("network create --internal --subnet 10.0.0.1/24 inner --quiet")
    world.kernel.sysctls["net.ipv4.conf.eth0.forwarding"] = "0"
    assert found(world) == []
    world.must("network create --subnet 10.0.1.1/24 second --quiet")
    assert "The host does not forward what comes in on eth0" in only(found(world)).why


def test_settings_of_a_link_with_a_dot_in_its_name_are_found(world: World) -> None:
    world.must("network create --subnet 10.0.0.1/24 b.c --quiet")
    world.kernel.sysctls["net/ipv4/conf/b.c/forwarding"] = "0"
    forwarding, rp_filter = found(world, Machine(rp_filter={"b.c": "1"}))
    assert forwarding.fix == "sysctl net/ipv4/conf/b.c/forwarding=1"
    assert rp_filter.fix == "sysctl net/ipv4/conf/b.c/rp_filter=2"


def test_a_forward_policy_of_drop_is_a_note_behind_our_jump_and_before_there_are_networks(built: World) -> None:
    built.prepare("iptables -w -P FORWARD DROP")
    assert [(f.name, f.wrong) for f in found(built)] == [("FORWARD", False)]
    built.must("network remove --force testbridge second --quiet")
    assert [(f.name, f.wrong) for f in found(built)] == [("FORWARD", False)]


@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_without_our_jump_forwarding_is_wrong_whatever_the_policy(policy: str, built: World) -> None:
    built.prepare(f"iptables -w -P FORWARD {policy}")
    built.prepare("iptables -w -D FORWARD -m comment --comment netwrap:host -j NETWRAP")
    built.prepare("iptables -w -A FORWARD -j DROP")
    one = only(found(built))
    assert one.wrong
    assert f"policy {policy}" in one.what
    assert one.fix == "netwrap repair"
    mend(one, built)
    assert [f for f in found(built) if f.wrong] == []


def test_a_rule_in_front_of_our_jump_that_drops_everything_is_wrong(built: World) -> None:
    built.prepare("iptables -w -I FORWARD -s 10.9.0.0/16 -j DROP")
    assert found(built) == []
    built.prepare("iptables -w -I FORWARD -j DROP")
    one = only(found(built))
    assert "-A FORWARD -j DROP" in one.what
    assert one.fix.split("; ")[1].startswith("iptables -w -I FORWARD")


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (["FORWARD -j ADMIN", "ADMIN -j DROP"], "-A ADMIN -j DROP"),
        (["FORWARD -j ADMIN", "ADMIN -j MORE", "MORE -s 10.9.0.0/16 -j RETURN", "MORE -j DROP"], "-A MORE -j DROP"),
        (["FORWARD -s 10.9.0.0/16 -j ADMIN", "ADMIN -j DROP"], None),
        (["FORWARD -j ADMIN", "ADMIN -s 10.9.0.0/16 -j DROP"], None),
        (["FORWARD -j ADMIN", "ADMIN -j RETURN", "ADMIN -j DROP"], None),
        (["FORWARD -j ADMIN", "FORWARD -j DROP", "ADMIN -j ACCEPT"], "-A ADMIN -j ACCEPT accepts"),
    ],
)
def test_chains_that_every_packet_is_led_to_before_ours_are_followed(
    rules: list[str], named: str | None, built: World
) -> None:
    for chain in ("ADMIN", "MORE"):
        built.prepare(f"iptables -w -N {chain}")
    for rule in reversed(rules):
        built.prepare(f"iptables -w -I {rule}")
    wrong = [f for f in found(built) if f.wrong]
    assert [named in f.what for f in wrong if named] == ([True] if named else [])
    assert len(wrong) == (1 if named else 0)
    for finding in wrong:
        mend(finding, built)
    assert [f for f in found(built) if f.wrong] == []


def mend(finding: Finding, world: World) -> None:
    assert finding.fix is not None
    for command in finding.fix.split("; "):
        if command.startswith("netwrap "):
            world.must(f"{command.removeprefix('netwrap ')} --quiet")
        else:
            world.kernel.run(split(command))


def test_a_chain_of_nftables_that_turns_away_is_wrong_and_one_that_does_not_is_not(built: World) -> None:
    hook = Hook("inet", "guard", "forward", "forward", "policy drop")
    built.kernel.hooks = (hook,)
    one = only(found(built))
    assert "inet guard forward (hook forward) drops or rejects packets" in one.what
    assert one.fix is not None
    assert "nft insert rule inet guard forward 'oifname \"second\" accept'" in one.fix
    built.kernel.hooks = (replace(hook, table="firewalld"),)
    assert only(found(built)).fix.startswith("firewall-cmd --zone=trusted --add-interface=testbridge && ")
    built.kernel.hooks = (replace(hook, turns_away=""),)
    assert found(built) == []


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
    assert only(found(world, Machine(no_user_namespaces=setting))).fix == mend


def test_rules_in_the_other_backend_are_wrong(world: World) -> None:
    one = only(found(world, Machine(backend="nft", other_backend=("legacy", "filter", "nat"))))
    assert (one.name, one.wrong) == ("iptables backends", True)
    assert "rules or policies of the legacy one too (table filter, nat)" in one.what


def test_a_route_over_a_networks_subnet_is_wrong_and_the_way_out_is_not(built: World) -> None:
    built.kernel.host.routes += [
        Route("0.0.0.0/1", "tun0"),
        Route("10.0.0.0/8", "tun0"),
        Route("192.168.9.0/24", "tun0"),
    ]
    assert [f.name for f in found(built)] == ["overlap", "overlap"]
    assert "10.0.0.0/8 dev tun0" in found(built)[0].what


def test_a_route_without_a_link_over_a_networks_subnet_is_wrong_too(built: World) -> None:
    built.kernel.host.routes.append(Route("10.0.0.0/25"))
    assert "(10.0.0.0/24) overlaps a route of this machine: 10.0.0.0/25 dev -" in only(found(built)).what


def test_each_network_manager_that_takes_our_links_is_wrong_and_one_file_mends_it(built: World) -> None:
    grabs = (
        ("NetworkManager", "testbridge", "no unmanaged-devices for it"),
        ("systemd-networkd", "testbridge", "/run/x.network"),
        ("NetworkManager", "third", "no unmanaged-devices for it"),
        ("systemd-networkd", VETH, "/run/y.network"),
    )
    first, second = found(built, Machine(grabs=grabs))
    assert first.what == "NetworkManager manages testbridge, third (no unmanaged-devices for it)"
    names = ";".join(f"interface-name:{name}" for name in ("veth*", "peer*", "second", "testbridge", "third"))
    assert f"unmanaged-devices={names}\\n" in first.fix
    assert "/etc/NetworkManager/conf.d/netwrap.conf" in first.fix
    assert f"manages testbridge, {VETH} (/run/x.network, /run/y.network)" in second.what
    # second, too, which is not taken: the file that is there already may be why
    assert "Name=veth* peer* second testbridge\\n\\n[Link]\\nUnmanaged=yes" in second.fix


def test_a_listener_behind_a_published_port_is_shadowed(built: World) -> None:
    built.kernel.listeners = {Listener("tcp", None, 8080), Listener("udp", None, 8080), Listener("tcp", None, 80)}
    one = only(found(built))
    assert (one.name, one.wrong) == ("shadowed port", True)
    assert "*:8080/tcp" in one.what
    assert one.fix is None  # whose port is it?
    assert "netwrap unpublish bird2 8080:80/tcp" in one.why


def test_a_port_on_an_address_that_the_host_no_longer_has_is_wrong(built: World) -> None:
    built.must("publish bird2 192.168.1.10:9090:90 --quiet")
    built.must("publish bird2 127.0.0.1:9191:91 --quiet")
    assert found(built) == []
    built.prepare("ip addr del 192.168.1.10/24 dev eth0")
    built.prepare("ip addr add 192.168.1.8/24 dev eth0")
    one = next(f for f in found(built) if f.name == "published address")
    assert (one.wrong, one.fix) == (True, None)
    assert "192.168.1.10:9090:90/tcp of bird2" in one.what
    assert "netwrap unpublish bird2 192.168.1.10:9090:90/tcp" in one.why
