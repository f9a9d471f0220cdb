"""The runners one by one."""

from __future__ import annotations

import pytest
from world import World

from netwrap import execute
from netwrap.errors import CommandFailed, Interrupted
from netwrap.execute import Ask, Batch, Shell, restore_script
from netwrap.facts import Facts
from netwrap.model import Netns
from netwrap.steps import Cmd, Plan, Step, addr, iptables, link, netns, sysctl

CREATE = "network create --subnet 10.0.0.1/24 testbridge"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80"


def test_batch_makes_the_same_changes_in_few_processes(world: World) -> None:
    world.must(CREATE)
    before = world.save()
    world.load(before)
    world.must(CONNECT)
    by_shell, spawned, changes = world.everything(), len(world.kernel.spawned), len(world.kernel.log)
    world.load(before)
    world.must(CONNECT + " --batch")
    assert world.everything() == by_shell
    assert spawned == changes == len(world.kernel.log) == 20
    assert len(world.kernel.spawned) <= 10


def test_batch_groups_neighbours_of_one_tool_and_namespace_and_leaves_the_rest_alone() -> None:
    a, b = Netns("a", 1), Netns("b", 2)
    steps = [
        netns.attach(a, 7, ""),
        netns.attach(b, 8, ""),
        link.set_up("x", "", ""),
        link.set_up("y", "", ""),
        link.set_up("lo", "", "", a),
        addr.add("lo", "", "127.0.0.1/8", "", a),
        link.set_up("lo", "", "", b),
        sysctl.write("k", "1", "0", ""),
        sysctl.write("l", "1", "0", ""),
        iptables.new_chain("filter", "C", ""),
        iptables.append("nat", "D", "m", (), ("DROP",), ""),
    ]
    groups = list(Batch(lambda _: None).group(steps))
    assert [len(group) for group in groups] == [1, 1, 2, 2, 1, 2, 2]
    assert [step for group in groups for step in group] == steps


def test_a_restore_script_has_one_block_a_table_in_the_order_of_the_commands() -> None:
    steps = [
        iptables.append("nat", "POSTROUTING", "m", ("!", "-o", "br"), ("MASQUERADE",), ""),
        iptables.new_chain("filter", "C", ""),
        iptables.append("nat", "OUTPUT", "m", (), ("RETURN",), ""),
    ]
    assert restore_script([s.do for s in steps]) == (
        "*nat\n"
        "-A POSTROUTING ! -o br -m comment --comment netwrap:m -j MASQUERADE\n"
        "-A OUTPUT -m comment --comment netwrap:m -j RETURN\n"
        "COMMIT\n*filter\n-N C\nCOMMIT\n"
    )


@pytest.mark.parametrize("runner", [Shell, Batch])
def test_no_command_runs_in_a_namespace_whose_handle_leads_elsewhere(
    runner: type[Shell], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "netns_at", lambda name: Netns(name, 99))
    ns = Netns("bird2", 7)
    steps = [link.set_up("lo", "", "", ns), addr.add("lo", "", "127.0.0.1/8", "", ns)]
    with pytest.raises(CommandFailed, match="is now another namespace"):
        runner(lambda _: None).run(steps)
    assert world.kernel.spawned == []


def test_a_pid_that_was_used_again_between_look_and_attach_is_let_go(world: World) -> None:
    step = netns.attach(Netns("bird2", 4026532999), 64560, "")
    with pytest.raises(CommandFailed, match="belongs to another"):
        Shell(lambda _: None).run([step])
    assert world.kernel.handles == {}


@pytest.mark.usefixtures("world")
def test_a_sysctl_that_fails_with_exit_0_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "read_sysctl", lambda _: "0")
    with pytest.raises(CommandFailed, match="is 0 afterwards"):
        Shell(lambda _: None).run([sysctl.write("net.ipv4.conf.all.forwarding", "1", "0", "")])


def _asking(keys: str, said: list[str], world: World) -> Ask:
    pressed = iter(keys)
    return Ask(said.append, None, lambda _: next(pressed), world.kernel.facts, _difference)


def _run(runner: Ask, steps: list[Step]) -> None:
    runner.check(steps)
    runner.run(steps)


def _difference(before: Facts, after: Facts) -> str:
    return "changed" if before != after else "unchanged"


def _steps() -> list[Step]:
    return [
        sysctl.write("net.ipv4.conf.all.forwarding", "1", "0", "Because."),
        iptables.new_chain("filter", "NETWRAP", "Therefore."),
        iptables.new_chain("filter", "NETWRAP-b", "And so."),
    ]


def test_step_mode_shows_why_and_command_before_and_the_change_after(world: World) -> None:
    said: list[str] = []
    _run(_asking("\n", said, world), _steps()[:1])
    assert said[0] == "\n# Because.\n  sysctl net.ipv4.conf.all.forwarding=1"
    assert said[-1] == "changed"


def test_step_mode_runs_all_the_rest_at_a_without_asking(world: World) -> None:
    runner = _asking("a", [], world)
    for step in _steps():
        _run(runner, [step])
    assert len(world.kernel.log) == 3


def test_step_mode_stops_at_q_before_the_step(world: World) -> None:
    runner = _asking("\nq", [], world)
    _run(runner, _steps()[:1])
    with pytest.raises(Interrupted):
        runner.check(_steps()[1:2])  # before it is in the journal: it has never run, and is not taken back
    assert len(world.kernel.log) == 1


def test_step_mode_tells_more_at_a_question_mark_and_asks_again(world: World) -> None:
    said: list[str] = []
    _run(_asking("?\n", said, world), _steps()[1:2])
    assert any("iptables -w -X NETWRAP" in text and "man 8 iptables" in text for text in said)
    assert len(world.kernel.log) == 1


def test_the_tools_of_a_plan_are_known_before_its_first_step() -> None:
    step = Step("x", Cmd(("ip",)), Cmd(("sysctl",)), sysctl.write("k", "1", "0", "").probe, "")
    assert Plan("", (step,)).tools == {"ip", "sysctl"}
