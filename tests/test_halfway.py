"""What is half done: teardowns that fail or are cut off while they are built up again, and what is made of it later."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from test_crash import at, left_alone
from world import Killed, World

from netwrap import desk
from netwrap.errors import CommandFailed, Interrupted
from netwrap.facts import Facts

CREATE = "network create --subnet 10.0.0.1/24 testbridge -q"
SECOND = "network create --subnet 10.0.1.1/24 second -q"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80 -q"
Change = Callable[[], None]


def failing(world: World, *words: str, said: str = "RTNETLINK answers: Device or resource busy") -> None:
    """Every command with these words in it fails from now on, without an effect."""

    def around(change: Change) -> None:
        if set(words) <= set(world.kernel.log[-1]):
            raise CommandFailed(" ".join(world.kernel.log[-1]), 2, said)
        change()

    world.kernel.around = around


def status(world: World) -> dict[str, tuple[str, list[str]]]:
    return {row["object"]: (row["state"], row["drift"]) for row in json.loads(world.netwrap("status --json").out)}


def reboot(world: World) -> None:
    """Everything of ours in the kernel is gone."""
    world.kernel.boot_id = f"after {world.kernel.boot_id}"
    for table in ("filter", "nat", "raw", "mangle"):
        world.kernel.tables.flush(table)
    for name in [n for n, link in world.kernel.host.links.items() if link.kind == "bridge"]:
        world.prepare(f"ip link del dev {name}")
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")


# ---- an interrupted teardown that is built up again


@pytest.mark.parametrize("error", [Killed(), CommandFailed("x", 1, "no")], ids=["killed", "failed"])
def test_a_restore_that_is_cut_off_leaves_nothing_that_no_journal_knows(error: BaseException, world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    before, saved = world.everything(), world.save()
    world.must("disconnect bird2")
    after, total, cut_off = world.everything(), len(world.kernel.log), 0
    for k in range(1, total, 3):
        for j in range(1, k + 1, 2):
            world.load(saved)
            interrupt = at(k, Interrupted("interrupted by SIGINT", "netwrap log"), after=True)
            cut = at(k + j, error, after=True)
            world.kernel.around = lambda change, cut=cut, interrupt=interrupt: cut(lambda: interrupt(change))
            try:
                code = world.netwrap("disconnect bird2").code
            except Killed:
                cut_off += 1
                world.kernel.around = left_alone
                world.recover()
                code = 0
            assert world.everything() == (before if code == 130 else after), (k, j)
    assert cut_off or not isinstance(error, Killed)


def test_a_strangers_rule_comes_back_with_an_interrupted_teardown_and_every_rule_in_its_place(world: World) -> None:
    world.must(CREATE)
    world.prepare("iptables -w -I NETWRAP-testbridge 2 -s 10.9.9.9/32 -j ACCEPT")
    world.prepare("iptables -w -t nat -A POSTROUTING -s 10.9.9.0/24 -j MASQUERADE")
    saved, stood_again = world.save(), 0
    world.must("network remove testbridge")
    for k in range(1, len(world.kernel.log) - len(saved.kernel.log)):
        world.load(saved)
        world.kernel.around = at(k, Interrupted("interrupted by SIGINT", "netwrap log"), after=True)
        if world.netwrap("network remove testbridge").code == 130:
            assert world.kernel.tables.chains == saved.kernel.tables.chains, k
            stood_again += 1
    assert stood_again


# ---- a teardown that failed


def test_a_network_that_is_half_removed_says_so_and_is_not_used(world: World) -> None:
    before = world.kernel.snapshot()
    world.must(CREATE)
    failing(world, "link", "del")
    assert world.netwrap("network remove testbridge").code == 3
    world.kernel.around = left_alone
    state, drift = status(world)["network:testbridge"]
    assert state == "drifted"
    assert drift == ["half removed; not yet run: ip link del dev testbridge"]
    assert json.loads(world.must("network list --json"))[0]["state"] == "drifted"
    for line in (CONNECT, "repair"):
        result = world.netwrap(line)
        assert result.code == 1
        assert "network remove --force testbridge" in result.err
    world.must("network remove --force testbridge")
    assert world.kernel.snapshot() == before


def test_what_a_failed_teardown_left_of_the_hosts_part_goes_with_gc_and_does_not_stop_repair(world: World) -> None:
    before = world.kernel.snapshot()
    world.must(CREATE)
    failing(world, "sysctl")
    assert world.netwrap("network remove testbridge").code == 3
    world.kernel.around = left_alone
    assert status(world)["host"][0] == "drifted"
    saved = world.save()
    world.must("gc")
    assert world.kernel.snapshot() == before
    world.load(saved)
    reboot(world)
    world.must("gc")
    assert status(world) == {}


def test_where_a_rollback_leaves_something_the_first_error_is_said_too_and_undo_takes_the_rest(world: World) -> None:
    world.must(CREATE)
    before = world.kernel.snapshot()

    def around(change: Change) -> None:
        words = world.kernel.log[-1]
        if {"OUTPUT", "-A"} <= set(words):
            raise CommandFailed("iptables -A OUTPUT", 4, "the first error")
        if {"link", "del"} <= set(words):
            raise CommandFailed("ip link del", 2, "busy")
        change()

    world.kernel.around = around
    result = world.netwrap(CONNECT)
    assert result.code == 3
    assert "iptables -A OUTPUT: exit 4: the first error" in result.complaint[0]
    assert "could not be undone" in result.complaint[0]
    world.kernel.around = left_alone
    world.must(f"undo {world.operations()[-1].id} --yes")
    assert world.kernel.snapshot() == before


def test_where_the_way_into_a_namespace_cannot_be_made_again_what_is_in_there_is_left_and_named(world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    world.prepare("ip netns del bird2")
    failing(world, "attach")
    result = world.netwrap("disconnect bird2")
    assert result.code == 3
    assert "ip netns attach bird2 64560" in result.err
    world.kernel.around = left_alone
    world.must("network remove --force testbridge")
    space = world.kernel.namespaces[world.kernel.processes[64560].inode]
    assert not space.links["lo"].up
    assert not space.addrs


def test_where_nothing_can_be_seen_either_the_first_error_is_said_and_what_may_be_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.must(CREATE)
    before = world.everything()
    broken = ""  # from the command with this word in it on, everything fails

    def around(change: Change) -> None:
        nonlocal failed
        failed = failed or (broken != "" and broken in world.kernel.log[-1])
        if failed:
            raise CommandFailed(" ".join(world.kernel.log[-1]), 7, "boom")
        change()

    def look(*args: Any, **options: Any) -> Facts:
        if failed:
            raise CommandFailed("iptables-save", 7, "no rules")
        return world.kernel.facts(*args, **options)

    monkeypatch.setattr(desk, "look", look)
    failed, broken, world.kernel.around = False, "master", around
    result = world.netwrap(CONNECT)
    assert result.code == 3
    assert "exit 7: boom; it cannot be rolled back now: iptables-save: exit 7: no rules" in result.complaint[0]
    failed, broken = False, ""
    world.must("gc")
    assert world.everything() == before
    world.must(CONNECT)
    failed, broken = False, "OUTPUT"
    result = world.netwrap("disconnect bird2")
    assert result.code == 3
    assert "left: rule" in result.err
    assert "left: netns bird2" in result.err
    failed, broken = False, ""
    world.must("gc")  # finishes what is half removed
    assert world.everything() == before


# ---- settings


@pytest.mark.parametrize("how", ["repair", "repair after a reboot", "another network after a reboot"])
def test_a_link_that_forwarded_before_does_so_afterwards_whoever_set_the_host_to_forward_again(
    how: str, world: World
) -> None:
    world.must(CREATE)
    if "reboot" in how:
        reboot(world)
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
    world.prepare("sysctl net.ipv4.conf.eth0.forwarding=1")
    before = dict(world.kernel.sysctls)
    world.must(SECOND if "another" in how else "repair")
    world.must(f"network remove --force {' '.join(world.state().networks)}")
    assert {k: v for k, v in world.kernel.sysctls.items() if k in before and "testbridge" not in k} == {
        k: v for k, v in before.items() if "testbridge" not in k
    }


def test_a_host_that_forwarded_before_and_does_not_now_is_named_and_repaired_also_after_reboots(world: World) -> None:
    world.prepare("sysctl net.ipv4.conf.all.forwarding=1")
    world.must(CREATE)
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
    for _ in range(4):
        state, drift = status(world)["host"]
        assert (state, drift.count("sysctl net.ipv4.conf.all.forwarding=1")) == ("drifted", 1), drift
        world.must("repair")
        assert world.kernel.sysctls["net.ipv4.conf.all.forwarding"] == "1"
        assert world.netwrap("status").code == 0
        reboot(world)
        world.prepare("sysctl net.ipv4.conf.eth0.forwarding=1")  # kept as it is, each time anew


# ---- others' doing


@pytest.mark.parametrize("batch", ["", " --batch"])
def test_copies_of_our_rules_and_what_leads_into_our_chains_go_along(batch: str, world: World) -> None:
    before = world.kernel.snapshot()
    world.must(CREATE)
    world.must(CONNECT)
    for rules in world.kernel.tables.chains.values():
        rules += [rule for rule in rules if "netwrap:" in " ".join(rule)]
    world.prepare("iptables -w -A INPUT -i eth0 -j NETWRAP-testbridge")
    result = world.netwrap(f"network remove --force testbridge{batch}")
    assert result.code == 0, result.err
    assert "iptables -w -A INPUT -i eth0 -j NETWRAP-testbridge" in result.err
    assert world.kernel.snapshot() == before


def test_a_strangers_bridge_with_our_bridges_name_is_not_used(world: World) -> None:
    world.must(CREATE)
    world.prepare("ip link del dev testbridge")
    world.prepare("ip link add name testbridge address 02:00:00:00:00:99 type bridge")
    result = world.netwrap(CONNECT)
    assert (result.code, result.complaint[1]) == (1, "netwrap repair testbridge")


def test_a_rule_that_was_put_in_its_place_finds_it_the_next_time_too(world: World) -> None:
    for line in (CREATE, SECOND, "network create --subnet 10.0.2.1/24 third -q"):
        world.must(line)
    before = world.everything()
    world.prepare("iptables -w -D NETWRAP -i second -m comment --comment netwrap:second -j ACCEPT")
    world.must("repair")
    assert world.everything() == before
    world.kernel.tables.flush("filter")
    world.must("repair")
    assert world.everything() == before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_repair_of_a_renamed_link_that_dies_is_rolled_back_in_the_order_of_its_steps(
    after: bool, world: World
) -> None:
    world.must(CREATE)
    whole = world.everything()
    for line in ("ip link set dev testbridge down", "ip link set dev testbridge name br9"):
        world.prepare(line)
    saved, before = world.save(), world.everything()
    world.must("repair")
    assert world.everything() == whole
    for k in range(1, len(world.kernel.log) - len(saved.kernel.log) + 1):
        world.load(saved)
        world.kernel.around = at(k, Killed(), after=after)
        with pytest.raises(Killed):
            world.netwrap("repair")
        world.kernel.around = left_alone
        world.recover()
        assert world.everything() == before, k


def test_one_network_that_cannot_be_repaired_does_not_stop_the_others(world: World) -> None:
    world.must(CREATE)
    world.must(SECOND)
    world.prepare("ip link del dev testbridge")
    world.prepare("ip link add name testbridge address 02:00:00:00:00:99 type bridge")
    world.prepare("ip link del dev second")
    result = world.netwrap("repair")
    assert (result.code, result.complaint) == (1, ("not repaired: testbridge", "netwrap status"))
    assert status(world)["network:second"] == ("up", [])


# ---- a dry run after a crash


@pytest.mark.parametrize("k", [1, 4, 9, 13])
def test_a_dry_run_after_a_crash_takes_its_traces_away_first_as_the_command_does(k: int, world: World) -> None:
    world.must(CREATE)
    world.kernel.around = at(k, Killed(), after=True)
    with pytest.raises(Killed):
        world.netwrap(CONNECT)
    world.kernel.around = left_alone
    saved = world.save()
    script = world.must(f"{CONNECT} --dry-run")
    world.must(CONNECT)
    wanted = world.kernel.snapshot()
    world.load(saved)
    world.run_script(script)
    assert world.kernel.snapshot() == wanted
