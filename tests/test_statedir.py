"""The state directory: who may write it, and its lock."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from world import World

from netwrap.errors import NetwrapError
from netwrap.spawn import kept_open
from netwrap.statedir import lock


@contextlib.contextmanager
def _silent(_: str) -> Iterator[None]:
    yield


def _hold(directory: Path, held: Event, go: Event) -> None:
    with lock(directory, "network create web", _silent):
        held.set()
        go.wait(10)


def test_who_waits_for_the_lock_is_told_for_whom(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, go))
    other.start()
    assert held.wait(10)
    told: list[str] = []

    @contextlib.contextmanager
    def waiting(holder: str) -> Iterator[None]:
        told.append(holder)
        go.set()
        yield

    with lock(tmp_path, "ps", waiting):
        assert told == [f"netwrap network create web (pid {other.pid})"]
    other.join(10)


def test_of_a_holder_that_was_killed_it_is_a_command_that_is_waited_for(tmp_path: Path) -> None:
    state, told = tmp_path / "state", []

    @contextlib.contextmanager
    def waiting(holder: str) -> Iterator[None]:
        told.append(holder)
        os.close(inherited)
        yield

    with lock(state, "ps", waiting) as fd:
        inherited = os.dup(fd)  # as a command that it has started has it
    (state / "lock").write_text("netwrap connect (pid 4194305)\n")  # more than any pid (proc(5), pid_max)
    with lock(state, "ps", waiting):
        pass
    assert told == [f"a command of netwrap connect (pid 4194305), which was killed (fuser -v {state / 'lock'})"]


def test_a_lock_that_is_free_is_taken_without_a_word(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(tmp_path / "state", "ps", lambda holder: pytest.fail(f"waits for {holder}")):
            pass


def test_a_lock_file_that_is_a_link_to_elsewhere_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(NetwrapError), lock(tmp_path, "ps", _silent):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_refused_state_leaves_no_descriptor_for_commands_to_inherit(world: World) -> None:
    world.netwrap("network create web")
    (world.directory / "netwrap.db").write_text("nonsense")
    assert world.netwrap("network remove web").code == 2
    assert kept_open == set()
