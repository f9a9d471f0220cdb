"""The executor and the frame around it: what fails or dies at any point leaves kernel and state as they were."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from world import Killed, Saved, World

from netwrap import execute
from netwrap.errors import CommandFailed, Interrupted

CREATE = "network create --subnet 10.0.0.1/24 testbridge"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80"
SESSIONS = {
    "create": ([], CREATE),
    "connect": ([CREATE], CONNECT),
    "create internal": ([], "network create --subnet 10.0.0.1/24 --internal testbridge"),
    "publish": ([CREATE, CONNECT.replace(" -p 8080:80", "")], "publish bird2 8080:80 53:53/udp"),
    "disconnect": ([CREATE, CONNECT], "disconnect bird2"),
    "remove": ([CREATE], "network remove testbridge"),
    "undo": ([CREATE, CONNECT], "undo"),
}
BUILDS, TEARDOWNS = ("create", "create internal", "connect", "publish"), ("disconnect", "remove", "undo")
MODES = ("", " --batch")
Change = Callable[[], None]
Play = Callable[[str], World]


_played: dict[str, Saved] = {}


@pytest.fixture
def play(world: World) -> Play:
    """Gives the world with a session played up to its last command."""

    def played(session: str) -> World:
        if session not in _played:
            for line in SESSIONS[session][0]:
                world.must(f"{line} --quiet")
            _played[session] = world.save()
        world.load(_played[session])
        return world

    return played


def at(k: int, error: BaseException, *, after: bool) -> Callable[[Change], None]:
    """Raises at the k-th change, before or after its effect, and never again."""
    changes = itertools.count(1)

    def around(change: Change) -> None:
        now = next(changes)
        if now == k and not after:
            raise error
        change()
        if now == k:
            raise error

    return around


def fails_at(world: World, words: set[str], error: CommandFailed) -> Callable[[Change], None]:
    """Raises, without effect, at each change whose command has all of these words."""

    def around(change: Change) -> None:
        if words <= set(world.kernel.log[-1]):
            raise error
        change()

    return around


def left_alone(change: Change) -> None:
    """Nothing happens at a change but the change."""
    change()


def changes_of(play: Play, session: str, mode: str = "") -> int:
    world = play(session)
    world.must(SESSIONS[session][1] + mode)
    return len(world.kernel.log)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("session", BUILDS)
def test_a_build_up_that_fails_at_any_change_is_rolled_back(session: str, after: bool, mode: str, play: Play) -> None:
    for k in range(1, changes_of(play, session, mode) + 1):
        world = play(session)
        before = world.everything()
        world.kernel.around = at(k, CommandFailed("ip", 2, "RTNETLINK answers: No"), after=after)
        result = world.netwrap(SESSIONS[session][1] + mode)
        assert result.code == 1, f"at {k}: {result.err}"
        assert "RTNETLINK answers: No" in result.complaint[0]
        assert world.everything() == before, f"at {k}"
        assert world.operations()[-1].state == "rolled back"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("session", SESSIONS)
def test_a_death_at_any_change_in_batch_mode_is_dealt_with_by_the_next_command(
    session: str, after: bool, play: Play
) -> None:
    world = play(session)
    before = world.everything()
    world.must(SESSIONS[session][1])
    wanted, state = (before, "rolled back") if session in BUILDS else (world.everything(), "done")
    for k in range(1, len(world.kernel.log) + 1):
        world = play(session)
        world.kernel.around = at(k, Killed(), after=after)
        with pytest.raises(Killed):
            world.netwrap(SESSIONS[session][1] + " --batch")
        world.recover()
        assert world.everything() == wanted, f"at {k}"
        assert world.operations()[-1].state == state


@pytest.mark.parametrize("session", SESSIONS)
def test_a_death_at_any_checkpoint_of_the_journal_leaves_nothing_half_done(
    session: str, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = play(session)
    passed: list[None] = []
    monkeypatch.setattr(execute, "checkpoint", lambda: passed.append(None))
    before = world.everything()
    world.must(SESSIONS[session][1])
    wanted = before if session in BUILDS else world.everything()
    assert len(passed) >= 4
    for k in range(1, len(passed) + 1):
        if k > 1 and k % 4 == 1:  # the last of one step and the first of the next are one place
            continue
        world = play(session)
        around = at(k, Killed(), after=False)
        monkeypatch.setattr(execute, "checkpoint", lambda around=around: around(lambda: None))
        with pytest.raises(Killed):
            world.netwrap(SESSIONS[session][1])
        monkeypatch.setattr(execute, "checkpoint", lambda: None)
        world.recover()
        assert world.everything() == wanted, f"at checkpoint {k}"


@pytest.mark.parametrize("session", BUILDS)
def test_a_rollback_that_dies_at_any_change_is_finished_by_the_next_command(session: str, play: Play) -> None:
    last = changes_of(play, session)
    for k in range(1, last):
        world = play(session)
        before = world.everything()
        dies = at(last + k, Killed(), after=True)
        fails = at(last, CommandFailed("ip", 2, "no"), after=False)
        world.kernel.around = lambda change, dies=dies, fails=fails: dies(lambda: fails(change))
        with pytest.raises(Killed):
            world.netwrap(SESSIONS[session][1])
        world.recover()
        assert world.everything() == before, f"at {k}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("session", TEARDOWNS)
def test_a_teardown_goes_on_past_one_failure_and_names_what_is_left(
    session: str, after: bool, mode: str, play: Play
) -> None:
    world = play(session)
    world.must(SESSIONS[session][1])
    done, wanted, total = world.everything(), world.kernel.snapshot(), len(world.kernel.log)
    for k in range(1, total + 1):
        world = play(session)
        world.kernel.around = at(k, CommandFailed("ip", 2, "RTNETLINK answers: No"), after=after)
        result = world.netwrap(SESSIONS[session][1] + mode)
        if result.code == 0:  # the effect was there, or it went with a later change, or a second try made it
            assert world.everything() == done, f"at {k}"
            continue
        assert result.code == 3
        assert not after, f"at {k}: its effect was there"
        left = [line.strip() for line in result.err.splitlines() if line.strip().startswith("remove it with: ")]
        assert left, f"at {k}: {result.err}"
        assert world.kernel.snapshot() != wanted, f"at {k}: nothing is left"
        for line in left:
            world.prepare(line.removeprefix("remove it with: "))
        assert world.kernel.snapshot() == wanted, f"at {k}: {left}"


def test_a_change_that_cannot_be_taken_back_is_named_with_the_command_that_removes_it(world: World) -> None:
    world.must(CREATE)
    busy = CommandFailed("ip", 2, "RTNETLINK answers: Device or resource busy")
    world.kernel.around = fails_at(world, {"ip", "link", "del"}, busy)
    result = world.netwrap("network remove testbridge")
    assert result.code == 3
    assert "remove it with: ip link del dev testbridge" in result.err
    assert "Device or resource busy" in result.err
    assert set(world.kernel.host.links) == {"lo", "eth0", "testbridge"}
    assert world.kernel.sysctls["net.ipv4.conf.all.forwarding"] == "0"


def _commands(world: World) -> int:
    """How many commands take the network down."""
    return len(json.loads(world.must("network remove testbridge --dry-run --json")))


def test_what_was_left_goes_with_a_second_try(world: World) -> None:
    before = world.everything()
    world.must(CREATE)
    world.kernel.around = at(_commands(world), CommandFailed("ip", 2, "busy"), after=False)
    assert world.netwrap("network remove testbridge").code == 3
    assert world.kernel.log[-1] == ("ip", "link", "del", "dev", "testbridge")
    world.must("network remove testbridge")
    assert world.everything() == before


@pytest.mark.parametrize("before_last", [6, 5, 4], ids=["the jump", "the chain", "forwarding"])
def test_what_was_left_of_the_host_does_not_stop_the_next_network_and_goes_with_it(
    before_last: int, world: World
) -> None:
    before = world.everything()
    world.must(CREATE)
    created = world.everything()
    world.kernel.around = at(_commands(world) - before_last, CommandFailed("iptables", 4, "busy"), after=False)
    assert world.netwrap("network remove testbridge").code == 3
    world.kernel.around = left_alone
    world.must(CREATE)
    assert world.everything() == created
    world.must("network remove testbridge")
    assert world.everything() == before


def test_an_interrupt_between_two_steps_rolls_back_and_exits_130(world: World) -> None:
    before = world.everything()

    def around(change: Change) -> None:
        change()
        if len(world.kernel.log) == 5:
            raise Interrupted("interrupted by SIGINT", "netwrap log")

    world.kernel.around = around
    result = world.netwrap(CREATE)
    assert result.code == 130
    assert "rolled back" in result.complaint[0]
    assert world.everything() == before


def test_an_interrupted_teardown_stands_again(world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    before = world.everything()

    for k in range(1, 15):
        world.kernel.around = at(k, Interrupted("interrupted by SIGINT", "netwrap log"), after=True)
        assert world.netwrap("disconnect bird2").code == 130
        world.kernel.around = left_alone
        after = world.everything()
        for part in before:
            assert _unordered(after[part]) == _unordered(before[part]), f"at {k}: {part}"


def _unordered(part: object) -> object:
    """Rules without their order: those that stand again stand at the end."""
    if isinstance(part, dict) and all(isinstance(value, tuple) for value in part.values()):
        return {key: sorted(map(str, value)) for key, value in part.items()}
    return part


def test_the_journal_has_a_step_before_it_takes_effect(world: World) -> None:
    seen: list[str] = []

    def around(change: Change) -> None:
        with world.store() as store:
            seen.append(store.entries(op=1)[-1].state)
        change()

    world.kernel.around = around
    world.must(CREATE)
    assert seen == ["begun"] * len(world.kernel.log)
    with world.store() as store:
        assert {entry.state for entry in store.entries(op=1)} == {"done"}


def test_ip_batch_leaves_the_lines_before_its_error_applied_and_they_are_taken_back(world: World) -> None:
    before = world.everything()
    world.kernel.around = at(3, CommandFailed("ip", 2, "no"), after=False)
    assert world.netwrap(CREATE + " --batch").code == 1
    assert world.kernel.spawned[0] == ("ip", "-batch", "-")
    assert ("ip", "link", "del", "dev", "testbridge") in world.kernel.log
    assert world.everything() == before
