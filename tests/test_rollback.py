"""What a rollback or a teardown keeps, what it forgets, and that nothing on the way stops it."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from test_crash import CONNECT, CREATE, Change, at, fails_at, left_alone
from world import Killed, World

from netwrap import cli, execute
from netwrap.errors import CommandFailed, Interrupted, StateFailed
from netwrap.execute import Shell
from netwrap.spawn import Signals
from netwrap.statefile import FILE
from netwrap.steps import Cmd, Plan, Probe, Step
from netwrap.store import Store

SECOND = "network create --subnet 10.0.1.0/24 second"
NO = CommandFailed("ip", 2, "RTNETLINK answers: No")


# ---- a container's second network


@pytest.fixture
def twice(world: World) -> World:
    """A container on one network, whose lo somebody has brought down: its second plan has a step of its own."""
    for line in (CREATE, SECOND, CONNECT):
        world.must(line)
    world.prepare("ip -n bird2 link set dev lo down")
    return world


CONNECT_AGAIN = "connect --pid 64560 --net second"


@pytest.mark.parametrize("mode", ["", " --batch"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("k", range(1, 8))
def test_a_second_connect_that_fails_keeps_the_container_its_steps_and_its_handle(
    k: int, after: bool, mode: str, twice: World
) -> None:
    before = twice.everything()
    with twice.store() as store:
        steps = [e.step for e in store.entries(owners=["container:bird2"])]
    twice.kernel.log.clear()
    twice.kernel.around = at(k, NO, after=after)
    assert twice.netwrap(CONNECT_AGAIN + mode).code == 1
    twice.kernel.around = left_alone
    assert twice.everything() == before
    assert "bird2" in twice.kernel.handles
    with twice.store() as store:
        entries = store.entries(owners=["container:bird2"])
    assert [e.step for e in entries] == steps
    assert {e.state for e in entries} == {"done"}
    twice.must(CONNECT_AGAIN)
    assert [e.container for e in twice.state().endpoints] == ["bird2", "bird2"]


def test_the_second_plan_of_a_container_brings_its_lo_up_as_a_step_of_the_containers(twice: World) -> None:
    twice.must(CONNECT_AGAIN)
    with twice.store() as store:
        mine = [e for e in store.entries(op=4) if e.step.owner == "container:bird2"]
    assert [(e.op, e.state, e.step.do.text()) for e in mine] == [
        (3, "undone", "ip -n bird2 link set dev lo up"),
        (4, "done", "ip -n bird2 link set dev lo up"),
    ]
    assert twice.must("log 4").count("ip -n bird2 link set dev lo up") == 1


def test_a_second_connect_undone_keeps_the_container_and_all_removed_leaves_nothing(world: World) -> None:
    before = world.everything()
    for line in (CREATE, SECOND, CONNECT):
        world.must(line)
    connected = world.everything()
    world.must(CONNECT_AGAIN)
    world.must("undo")
    assert world.everything() == connected
    world.must(CONNECT_AGAIN)
    world.must("network remove testbridge second --force")
    assert world.everything() == before


def test_a_second_connect_that_dies_keeps_the_container_when_the_next_command_looks_after_it(twice: World) -> None:
    before = twice.everything()
    for k in range(1, 8):
        twice.kernel.around = at(k, Killed(), after=True)
        with pytest.raises(Killed):
            twice.netwrap(CONNECT_AGAIN)
        twice.kernel.around = left_alone
        twice.recover()
        assert twice.everything() == before, f"at {k}"


# ---- a store that cannot be written


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A disk that is full as long as the list has a True in it."""
    now: list[bool] = []
    transaction = Store._transaction

    @contextlib.contextmanager
    def perhaps(self: Store) -> Iterator[None]:
        if any(now):
            raise StateFailed("state file: database or disk is full", "df")
        with transaction(self):
            yield

    monkeypatch.setattr(Store, "_transaction", perhaps)
    return now


def fill_at(full: list[bool], k: int, *, after: bool) -> Callable[[Change], None]:
    """The disk is full from before or after the k-th change on; the command itself does what it should."""
    changes = itertools.count(1)

    def around(change: Change) -> None:
        now = next(changes)
        if now == k and not after:
            full.append(True)
        change()
        if now == k and after:
            full.append(True)

    return around


@pytest.mark.parametrize("mode", ["", " --batch"])
@pytest.mark.parametrize("session", ["create", "connect", "second connect"])
def test_a_build_up_whose_state_cannot_be_written_any_more_is_taken_back_in_the_kernel(
    session: str, mode: str, world: World, full: list[bool]
) -> None:
    earlier, line = {
        "create": ([], CREATE),
        "connect": ([CREATE], CONNECT),
        "second connect": ([CREATE, SECOND, CONNECT], CONNECT_AGAIN),
    }[session]
    for past in earlier:
        world.must(past)
    saved, before = world.save(), world.everything()
    world.load(saved)
    world.must(line + mode)
    for k in range(1, len(world.kernel.log) + 1):
        full.clear()
        world.load(saved)
        world.kernel.around = fill_at(full, k, after=True)
        result = world.netwrap(line + mode)
        assert result.code == 1, f"at {k}: {result.err}"
        assert "disk is full" in result.complaint[0]
        kernel = world.kernel.snapshot()
        assert all(kernel[part] == before[part] for part in kernel), f"at {k}"
        assert world.operations()[-1].state == "running", "the next command has to see to it"
        full.clear()
        world.recover()
        assert world.everything() == before, f"at {k}"
        assert world.operations()[-1].state == "rolled back"


def test_a_teardown_whose_state_cannot_be_written_any_more_is_finished_in_the_kernel(
    world: World, full: list[bool]
) -> None:
    before = world.everything()
    world.must(CREATE)
    saved = world.save()
    for k in range(1, 14):
        full.clear()
        world.load(saved)
        world.kernel.around = fill_at(full, k, after=True)
        result = world.netwrap("network remove testbridge")
        assert result.code == 1, f"at {k}: {result.err}"
        assert all(part == before[name] for name, part in world.kernel.snapshot().items()), f"at {k}"
        full.clear()
        world.kernel.around = left_alone
        world.recover()
        assert world.everything() == before, f"at {k}"


def test_a_disk_that_is_full_before_the_first_step_changes_nothing(world: World, full: list[bool]) -> None:
    full.append(True)
    result = world.netwrap(CREATE)
    assert result.code == 1
    assert len(result.err.splitlines()) == 2
    assert world.kernel.log == []


# ---- nobody listens


class Deaf(io.StringIO):
    """A stderr that is gone, as a closed pipe or a terminal that was hung up."""

    def write(self, _: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stderr", [Deaf(), None], ids=["gone", "closed"])
@pytest.mark.parametrize("mode", ["", " --batch"])
def test_a_stderr_that_nobody_reads_does_not_stop_a_rollback(
    mode: str, stderr: io.StringIO | None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.must(CREATE)
    before, saved = world.everything(), world.save()
    for k in range(1, 19):
        world.load(saved)
        world.kernel.around = at(k, NO, after=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            assert cli.run((CONNECT + mode).split()) == 1
        assert world.everything() == before, f"at {k}"
        assert world.operations()[-1].state == "rolled back"


def test_a_stderr_that_nobody_reads_does_not_stop_a_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.everything()
    with monkeypatch.context() as patch:
        world.must("ps")  # sets where the state is
        patch.setattr(sys, "stderr", Deaf())
        for line in (CREATE, CONNECT, "disconnect bird2", "network remove testbridge"):
            assert cli.run(line.split()) == 0
    assert world.everything() == before


# ---- signals


def signalled(ends: Callable[[Change], None], number: signal.Signals) -> Callable[[Change], None]:
    """The signal that ends a command comes to us too."""

    def around(change: Change) -> None:
        try:
            ends(change)
        except CommandFailed:
            os.kill(os.getpid(), number)
            raise

    return around


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("mode", ["", " --batch"])
def test_a_signal_that_ends_the_running_command_is_an_interrupt_and_no_failure(
    mode: str, number: signal.Signals, world: World
) -> None:
    before = world.everything()
    ends = at(5, CommandFailed("ip", -number, ""), after=False)
    world.kernel.around = signalled(ends, number)
    result = world.netwrap(CREATE + mode)
    assert result.code == 130
    assert result.complaint == (f"interrupted by {number.name}; changes rolled back", "netwrap log 1")
    assert world.everything() == before
    assert world.operations()[-1].state == "rolled back"


@pytest.mark.parametrize("mode", ["", " --batch"])
def test_a_signal_that_ends_the_running_command_of_a_teardown_builds_it_up_again(mode: str, world: World) -> None:
    world.must(CREATE)
    before = world.everything()
    ends = at(12, CommandFailed("ip", -15, ""), after=False)  # behind the rules: their order would not come back
    world.kernel.around = signalled(ends, signal.SIGTERM)
    result = world.netwrap("network remove testbridge" + mode)
    assert result.code == 130
    assert result.complaint[0] == "interrupted by SIGTERM; what was removed has been restored"
    after = world.everything()
    assert after["namespaces"] == before["namespaces"]
    assert after["state"] == before["state"]


def test_a_real_command_that_a_signal_ends_is_an_interrupt() -> None:
    step = Step(
        "x", Cmd(("sh", "-c", f"sleep 0.3; kill -TERM {os.getpid()}; sleep 20")), None, Probe("sysctl", ("k", "v")), ""
    )

    class Nowhere:
        def begins(self, _: object) -> list[int]:
            return []

        def done(self, _: object) -> None:
            raise AssertionError("it was not done")

    with Signals() as signals, pytest.raises(Interrupted, match="SIGTERM"):
        execute.execute(Plan("x", (step,)), Shell(lambda _: None, signals), Nowhere(), signals)


# ---- what a teardown leaves, and what it takes along


def test_a_container_that_is_left_without_endpoints_can_be_disconnected(world: World) -> None:
    world.must(CREATE)
    before = world.everything()
    world.must(CONNECT)
    world.kernel.around = fails_at(world, {"netns", "del", "bird2"}, CommandFailed("ip", 1, "Device or resource busy"))
    assert world.netwrap("disconnect bird2").code == 3
    assert world.state().endpoints == ()
    assert list(world.state().containers) == ["bird2"]
    assert world.netwrap("disconnect bird2 --net testbridge").code == 2
    world.kernel.around = left_alone
    world.must("disconnect --pid 64560")
    assert world.everything() == before
    assert world.netwrap("disconnect bird2").complaint[0] == "no container 'bird2'"


STRANGERS = ("-A NETWRAP-testbridge -s 10.9.9.0/24 -j ACCEPT", "-I NETWRAP -i eth0 -j RETURN")


@pytest.mark.parametrize("mode", ["", " --batch", " --quiet"])
def test_a_strangers_rule_in_our_chain_goes_with_it_and_is_said_with_the_command_that_adds_it(
    mode: str, world: World
) -> None:
    before = world.everything()
    world.must(CREATE)
    for rule in STRANGERS:
        world.prepare(f"iptables -w {rule}")
    result = world.netwrap("network remove testbridge" + mode)
    assert result.code == 0
    said = [line for line in result.err.splitlines() if "netwrap did not add" in line]
    assert [line.partition("To add it again: ")[2] for line in said] == [
        "iptables -w -A NETWRAP-testbridge -s 10.9.9.0/24 -j ACCEPT",
        "iptables -w -A NETWRAP -i eth0 -j RETURN",
    ]
    assert world.everything() == before


def test_a_strangers_rule_is_no_step_in_the_journal(world: World) -> None:
    world.must(CREATE)
    world.prepare(f"iptables -w {STRANGERS[0]}")
    world.must("network remove testbridge")
    with world.store() as store:
        assert "10.9.9.0/24" not in "".join(e.step.do.text() for e in store.entries(op=1) + store.entries(op=2))


def test_a_strangers_rule_that_cannot_be_removed_is_named_and_its_chain_too(world: World) -> None:
    world.must(CREATE)
    world.prepare(f"iptables -w {STRANGERS[0]}")
    unavailable = CommandFailed("iptables", 4, "Resource temporarily unavailable")
    world.kernel.around = fails_at(world, {"10.9.9.0/24"}, unavailable)
    result = world.netwrap("network remove testbridge")
    assert result.code == 3
    assert "remove it with: iptables -w -D NETWRAP-testbridge -s 10.9.9.0/24 -j ACCEPT" in result.err
    assert "remove it with: iptables -w -X NETWRAP-testbridge" in result.err
    world.kernel.around = left_alone
    world.must("network remove testbridge")
    assert world.state().owners == frozenset()


def test_a_strangers_rule_does_not_stop_a_rollback(world: World) -> None:
    before = world.everything()
    fails = at(12, NO, after=False)

    def around(change: Change) -> None:
        if len(world.kernel.log) == 11:  # in the middle of it somebody adds one
            world.kernel.tables.iptables(["-w", *STRANGERS[0].split()])
        fails(change)

    world.kernel.around = around
    result = world.netwrap(CREATE)
    assert result.code == 1, result.err
    assert "To add it again: iptables -w -A NETWRAP-testbridge" in result.err
    assert world.everything() == before


@pytest.mark.parametrize("mode", ["", " --batch"])
def test_several_networks_are_removed_by_one_operation(mode: str, world: World) -> None:
    before = world.everything()
    for line in (CREATE, SECOND, CONNECT):
        world.must(line)
    assert world.must(f"network remove testbridge second --force{mode}") == "testbridge\nsecond\n"
    assert world.everything() == before
    assert [(o.title, o.kind, o.state) for o in world.operations()[3:]] == [
        ("network remove testbridge second", "teardown", "done")
    ]


@pytest.mark.parametrize("line", ["network create lo", "network remove nowhere", "connect --net x --pid 64560", "undo"])
def test_what_is_refused_leaves_no_state_file(line: str, world: World) -> None:
    world.netwrap(line)
    assert not (world.directory / FILE).exists()
