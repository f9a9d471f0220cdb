"""Where a state belongs: in another boot, namespace or time than ours, commands keep their hands off."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from toykernel import HOST
from world import Killed, World

from netwrap import place
from netwrap.model import Machine

HERE = Machine("boot", HOST, 1, 4026531836, 23, 0)


@pytest.mark.parametrize(
    ("there", "differs"),
    [
        (HERE, ()),
        (replace(HERE, netns=HOST + 1, cookie=2), ("network",)),
        (replace(HERE, cookie=2), ("network",)),  # the inode was given again
        (replace(HERE, netns=HOST + 1, cookie=0), ("network",)),
        (replace(HERE, cookie=0), ()),  # before Linux 5.14
        (replace(HERE, pidns=7), ("pid",)),
        (replace(HERE, began=24), ("pid",)),
        (replace(HERE, began=None), ()),  # hidepid
        (replace(HERE, boottime=10**9, began=123), ("time",)),
        (replace(HERE, netns=5, cookie=5, pidns=5, boottime=5), ("network", "pid", "time")),
        (Machine("boot", HOST), ()),  # as an older netwrap wrote it
        (Machine("boot", HOST + 1), ("network",)),
        (replace(HERE, boot_id="another", netns=1, cookie=5, pidns=5, began=1, boottime=5), ()),
    ],
)
def test_two_places_of_one_boot_differ_in_these_namespaces(there: Machine, differs: tuple[str, ...]) -> None:
    assert there.differs(HERE) == HERE.differs(there) == differs


@pytest.fixture
def away(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """netwrap in another network namespace than the one in which a network and a container stand."""
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("connect --pid 64560 --name bird2 --net testbridge -p 8080:80 --quiet")
    monkeypatch.setattr(place, "here", lambda: Machine(world.kernel.boot_id, HOST + 1))
    monkeypatch.setattr(place._Sight, "is_netns_gone", lambda _: False)
    world.kernel.log.clear()
    yield world
    assert world.kernel.log == []


CHANGING = (
    "network create other",
    "network remove --force testbridge",
    "network link testbridge testbridge",
    "network unlink testbridge testbridge",
    "connect --pid 64561 --net testbridge",
    "disconnect bird2",
    "publish bird2 8081:81",
    "unpublish bird2 8080:80",
    "undo",
    "undo 1 --yes",
    "repair",
    "gc",
)


@pytest.mark.parametrize("dry", ["", " --dry-run"])
@pytest.mark.parametrize("line", CHANGING)
def test_a_changing_command_elsewhere_is_refused_and_touches_nothing(line: str, dry: str, away: World) -> None:
    before = (away.directory / "netwrap.db").read_bytes()
    result = away.netwrap(line + dry)
    assert (result.code, result.out) == (2, "")
    what, _ = result.complaint
    assert what.endswith(f"stand in network namespace {HOST}; this is network namespace {HOST + 1}")
    assert (away.directory / "netwrap.db").read_bytes() == before


@pytest.mark.parametrize("line", ["status", "doctor", "exec bird2 -- true"])
def test_who_would_look_at_what_stands_elsewhere_is_refused(line: str, away: World) -> None:
    result = away.netwrap(line)
    assert (result.code, result.out) == (2, "")
    assert "stand in network namespace" in result.complaint[0]


def test_lists_show_what_stands_elsewhere_and_do_not_say_how_it_is(away: World) -> None:
    for line, states in (
        ("network list --json", {"unknown"}),
        ("ps --json", {"unknown"}),
        ("log --json", {"done"}),
    ):
        result = away.netwrap(line)
        assert result.code == 0
        assert {row["state"] for row in json.loads(result.out)} == states
        assert "stand in network namespace" in result.complaint[0]
    assert json.loads(away.netwrap("network inspect testbridge").out)["endpoints"][0]["state"] == "unknown"


def test_in_another_boot_the_state_belongs_to_whatever_namespaces_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.kernel.boot_id = "another"
    monkeypatch.setattr(place, "here", lambda: Machine("another", HOST + 1, 77, 78, 79, 80))
    assert world.netwrap("status").code == 0
    world.must("network remove testbridge")


def test_where_nothing_stands_the_state_belongs_to_whoever_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("network remove testbridge --quiet")
    monkeypatch.setattr(place, "here", lambda: Machine(world.kernel.boot_id, HOST + 1))
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    assert "namespace" not in world.netwrap("ps").err


def test_gc_drops_what_stood_in_a_network_namespace_that_is_gone_and_runs_nothing_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("connect --pid 64560 --name bird2 --net testbridge -p 8080:80 --quiet")
    before = world.kernel.snapshot()
    monkeypatch.setattr(place, "here", lambda: Machine(world.kernel.boot_id, HOST + 1))
    monkeypatch.setattr(place._Sight, "is_netns_gone", lambda _: True)
    world.kernel.log.clear()
    refused = world.netwrap("network create other")
    assert refused.code == 2
    assert refused.complaint[1].startswith("netwrap gc ")
    dry = world.netwrap("gc --dry-run")
    assert (dry.code, world.kernel.log) == (0, [])
    assert [line for line in dry.out.splitlines() if line[:1] not in ("#", "") and line != "set -e"] == [
        "ip netns del bird2"
    ]
    result = world.netwrap("gc --quiet")
    assert (result.code, result.out) == (0, "bird2\n")
    assert "gone with it, and forgotten: network testbridge, container bird2" in result.err
    assert world.kernel.log == [("ip", "netns", "del", "bird2")]  # a handle is in no network namespace
    assert world.kernel.snapshot() == {**before, "handles": {}}
    assert world.state().owners == frozenset()
    assert {o.state for o in world.operations()} == {"undone", "done"}


def test_gc_ends_what_a_crash_left_there_and_runs_nothing_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    with world.store() as store:
        assert store.machine() is not None
    _cut_off(world)
    monkeypatch.setattr(place, "here", lambda: Machine(world.kernel.boot_id, HOST + 1))
    monkeypatch.setattr(place._Sight, "is_netns_gone", lambda _: True)
    world.kernel.log.clear()
    assert "was cut off" not in world.must("gc --dry-run")
    result = world.netwrap("gc")
    assert (result.code, world.kernel.log) == (0, [("ip", "netns", "del", "bird2")])
    assert "was cut off" not in result.err
    assert {o.state for o in world.operations()} == {"undone", "rolled back", "done"}
    assert world.state().owners == frozenset()


def _cut_off(world: World) -> None:
    """A connect is killed in the middle."""

    def change_or_die(change: Callable[[], None]) -> None:
        if len(world.kernel.log) > 3:
            raise Killed
        change()

    world.kernel.log.clear()
    world.kernel.around = change_or_die
    with pytest.raises(Killed):
        world.netwrap("connect --pid 64560 --name bird2 --net testbridge")
    world.kernel.around = lambda change: change()


def test_with_a_pid_namespace_its_processes_are_gone_and_the_network_stands_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Machine(world.kernel.boot_id, HOST, 1, 10, 100, 0)
    monkeypatch.setattr(place, "here", lambda: replace(ours, pidns=11, began=200))
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    monkeypatch.setattr(place, "here", lambda: ours)
    monkeypatch.setattr(place._Sight, "is_pidns_gone", lambda _: True)
    assert world.netwrap("network remove testbridge").code == 2
    world.must("gc --dry-run")
    assert world.netwrap("network remove testbridge").code == 2
    assert "stood in pid namespace 11, which no longer exists" in world.netwrap("gc").err
    world.must("network remove testbridge")


def test_where_it_cannot_be_seen_whether_it_is_gone_nothing_is_dropped(
    away: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place._Sight, "is_netns_gone", lambda _: None)
    result = away.netwrap("gc")
    assert result.code == 2
    what, hint = result.complaint
    assert what.endswith("whether that still exists cannot be seen from here")
    assert hint.startswith(f"mv {away.directory}/netwrap.db {away.directory}/netwrap.db.old")
    assert away.state().networks


def test_where_proc_is_that_of_others_nothing_is_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "here", lambda: Machine(world.kernel.boot_id, HOST, 1, place._OTHERS_PROC))
    for dry in ("", " --dry-run"):
        result = world.netwrap(f"network create testbridge{dry}")
        assert result.code == 2
        assert result.complaint[0].startswith("/proc is not that of this pid namespace")
    assert world.kernel.log == []
