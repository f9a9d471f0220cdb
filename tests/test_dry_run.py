"""A dry run goes the way of its run: the same refusals, the same exit code, and a script with the same effect."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace

import pytest
from test_crash import at, left_alone
from world import Killed, World

from netwrap import place, supervise
from netwrap.statefile import FILE

Situation = Callable[[World, pytest.MonkeyPatch], None]


def standing(world: World, _: pytest.MonkeyPatch) -> None:
    world.must("network create --subnet 10.0.0.1/24 front -q")
    world.must("network create --subnet 10.0.1.1/24 back -q")
    world.must("connect --pid 64560 --name web --net front -p 8080:80 -q")


def nothing(_: World, __: pytest.MonkeyPatch) -> None:
    """No state at all."""


def elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects stand in another network namespace."""
    standing(world, monkeypatch)
    own = place.here()
    monkeypatch.setattr(place, "here", lambda: replace(own, netns=own.netns + 1))


def corrupt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(world, monkeypatch)
    (world.directory / FILE).write_bytes(b"no database\n" * 100)


def newer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(world, monkeypatch)
    with sqlite3.connect(world.directory / FILE) as db:
        db.execute("PRAGMA user_version = 99")


def writable_by_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(world, monkeypatch)
    (world.directory / FILE).chmod(0o666)


def bridge_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(world, monkeypatch)
    world.prepare("ip link del dev front")


def container_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(world, monkeypatch)
    world.prepare("end 64560")


def cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-done build-up is in the way, with the address, the port and the name."""
    standing(world, monkeypatch)
    world.kernel.around = at(9, Killed(), after=True)
    with pytest.raises(Killed):
        world.netwrap("connect --pid 64561 --name job --net front -p 9090:90 -q")
    world.kernel.around = left_alone


def teardown_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(world, monkeypatch)
    world.kernel.around = at(5, Killed(), after=True)
    with pytest.raises(Killed):
        world.netwrap("disconnect web -q")
    world.kernel.around = left_alone


SITUATIONS = [
    nothing,
    standing,
    elsewhere,
    corrupt,
    newer,
    writable_by_others,
    bridge_gone,
    container_gone,
    cut_off,
    teardown_cut_off,
]

LINES = [
    "network create --subnet 10.0.0.128/25 third",
    "network create third",
    "network create front",
    "network remove front",
    "network remove front --force",
    "network remove none",
    "network link front back",
    "network unlink front back",
    "connect --pid 64561 --name job --net front -p 9090:90",
    "connect --pid 64561 --name web --net front",
    "connect --pid 64560 --net back",
    "connect --pid 4711 --net front",
    "connect --pid 64561 --net front --hold",
    "connect --netns none --net front",
    "connect --pid 64561 --net none",
    "connect --pid 64561 --net front --ip 10.0.0.2",
    "disconnect web",
    "disconnect --pid 64560",
    "disconnect none",
    "publish web 9090:90",
    "publish web 8080:80",
    "unpublish web 8080:80",
    "unpublish web 1:1",
    "run --net front --name web -- true",
    "run --net front --name job -p 9090:90 -- true",
    "run --net front -p 8080:80 -- true",
    "run --net none -- true",
    "run --net front -- netwrap-no-such-command",
    "undo",
    "undo 1 --yes",
    "undo 99",
    "repair",
    "repair front",
    "repair none",
    "gc",
]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_a_dry_run_is_refused_where_its_run_is_and_its_script_does_the_same(
    situation: Situation, line: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "process", lambda _: None)
    monkeypatch.setattr(supervise.Attended, "run", lambda *_: 0)
    monkeypatch.setattr(supervise.select, "select", lambda *_: None)
    situation(world, monkeypatch)
    if situation is teardown_cut_off and line == "undo":
        pytest.skip("the finished teardown is the last operation by then, which a dry run does not see")
    before, saved = world.kernel.snapshot(), world.save()
    mode = (world.directory / FILE).stat().st_mode if situation is not nothing else 0o644
    head, dashes, words = line.partition(" -- ")
    dry = world.netwrap(f"{head} --dry-run{dashes}{words}")
    assert world.kernel.snapshot() == before
    world.load(saved)
    if situation is not nothing:
        (world.directory / FILE).chmod(mode)
    done = world.netwrap(line)
    assert dry.code == done.code, f"{dry.err}\n-- run:\n{done.err}"
    if done.code:
        assert dry.complaint[0] == done.complaint[0]  # the hint may be another: a dry run makes no network
        assert dry.out == ""
    elif "--hold" not in line and not line.startswith("run"):
        wanted = world.kernel.snapshot()
        world.load(saved)
        world.run_script(dry.out)
        assert world.kernel.snapshot() == wanted
