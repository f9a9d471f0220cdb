"""The state file: what it takes, what it refuses, and that it gives back what was put in."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_codec import CONTAINER, ENDPOINT, NET, OBJECTS, STEPS
from toykernel import ToyKernel

from netwrap import statedir
from netwrap.errors import BadInput, NetwrapError
from netwrap.model import Container, Machine
from netwrap.schema import VERSION
from netwrap.statefile import FILE
from netwrap.steps import Step, iptables
from netwrap.store import Store
from netwrap.undo import Entry

MACHINE = Machine("boot", 4026531840, 7, 4026531836, 0, 0)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "state", write=True)
    yield found
    found.close()


def reopened(opened: Store, *, write: bool = False) -> Store:
    opened.close()
    return Store(opened.directory, write=write)


def test_what_stands_is_there_again_when_the_file_is_opened_anew(opened: Store) -> None:
    op = opened.begin("build", "build", MACHINE)
    opened.add(op, OBJECTS)
    again = reopened(opened)
    state = again.state()
    assert state.networks == {"n": NET}
    assert state.containers == {"c": CONTAINER}
    assert state.endpoints == (ENDPOINT,)
    assert state.publications == (OBJECTS[3],)
    assert state.owners == {made.owner for made in OBJECTS}
    assert state.last == {"n": ENDPOINT.ip}
    assert again.machine() == MACHINE
    again.close()


def test_objects_are_told_in_the_order_of_their_making(opened: Store) -> None:
    names = ["z", "a", "m"]
    for name in names:
        opened.add(opened.begin(name, "build", MACHINE), [Container(name, 1, True)])
    assert list(opened.state().containers) == names


def test_an_object_is_written_anew_in_its_place(opened: Store) -> None:
    opened.add(opened.begin("build", "build", MACHINE), [CONTAINER])
    opened.update(Container("c", 4026532561, True, 7, 8, "boot", True))
    assert opened.state().containers["c"].pid == 7


# ---- the journal


def _build(opened: Store, title: str = "build") -> tuple[int, list[int]]:
    op = opened.begin(title, "build", MACHINE)
    opened.add(op, OBJECTS)
    rows = opened.step_begins(op, [Step(s.kind, s.do, s.undo, s.probe, s.why, NET.owner) for s in STEPS])
    return op, rows


def test_a_step_is_begun_then_done(opened: Store) -> None:
    op, rows = _build(opened)
    assert [e.state for e in opened.entries(op=op)] == ["begun", "begun"]
    opened.step_done(rows[:1])
    assert [e.state for e in opened.entries(op=op)] == ["done", "begun"]
    assert [(e.id, e.op, e.step.owner) for e in opened.entries(op=op)] == [(row, op, NET.owner) for row in rows]


def test_a_step_is_undoing_then_undone_and_belongs_to_both_operations(opened: Store) -> None:
    op, rows = _build(opened)
    opened.step_done(rows)
    opened.end(op, "done")
    back = opened.begin("undo", "teardown", MACHINE, removes=[NET.owner])
    inverse = Step("rule", STEPS[1].do, STEPS[1].do, STEPS[1].probe, "back", NET.owner, rows[1])
    assert opened.step_begins(back, [inverse]) == [rows[1]]
    assert [e.state for e in opened.entries(op=back)] == ["undoing"]
    opened.step_done([rows[1]])
    assert [e.state for e in opened.entries(op=op)] == ["done", "undone"]
    assert [e.id for e in opened.entries(owners=[NET.owner])] == [rows[0]]
    opened.step_stands(rows[1])
    assert [e.state for e in opened.entries(op=op)] == ["done", "done"]
    assert opened.entries(op=back) == []


def test_a_teardown_ends_with_objects_steps_and_round_robin_of_its_networks_gone(opened: Store) -> None:
    op, rows = _build(opened)
    opened.step_done(rows)
    opened.end(op, "done")
    owners = [made.owner for made in OBJECTS]
    back = opened.begin("remove", "teardown", MACHINE, removes=owners)
    opened.end(back, "done", undone=rows, removes=owners)
    state = opened.state()
    assert (state.networks, state.endpoints, state.owners, state.last) == ({}, (), frozenset(), {})
    assert [(o.title, o.kind, o.state) for o in opened.operations()] == [
        ("build", "build", "undone"),
        ("remove", "teardown", "done"),
    ]
    assert opened.operations()[1].removes == tuple(sorted(owners))


def test_a_step_that_is_left_is_kept_in_the_journal(opened: Store) -> None:
    op, rows = _build(opened)
    opened.step_done(rows)
    opened.end(op, "done")
    back = opened.begin("remove", "teardown", MACHINE, removes=[NET.owner])
    opened.end(back, "failed", undone=rows[1:], removes=[NET.owner])
    assert [e.id for e in opened.entries(owners=[NET.owner])] == rows[:1]
    assert NET.owner in opened.state().owners


def test_an_operation_is_undone_only_when_all_that_it_was_asked_for_is_gone(opened: Store) -> None:
    op, rows = _build(opened)
    opened.end(op, "done")
    assert opened.owners_of(op) == {NET.owner, ENDPOINT.owner, "port:c/n/8080:80/tcp"}
    assert opened.made_by(op) == {made.owner for made in OBJECTS}
    for number, made in enumerate((OBJECTS[3], ENDPOINT, NET)):
        assert opened.operations()[0].state == "done"
        undone = rows if made == NET else ()
        opened.end(opened.begin(f"down {number}", "teardown", MACHINE), "done", undone=undone, removes=[made.owner])
    assert opened.operations()[0].state == "undone"


def test_the_round_robin_goes_on_after_a_release(opened: Store) -> None:
    op, _ = _build(opened)
    opened.end(op, "done")
    opened.end(opened.begin("disconnect", "teardown", MACHINE), "done", removes=[ENDPOINT.owner])
    assert opened.state().endpoints == ()
    assert opened.state().last == {"n": ENDPOINT.ip}


def test_numbers_of_operations_are_not_given_twice(opened: Store) -> None:
    first = opened.begin("one", "build", MACHINE)
    assert opened.begin("two", "build", MACHINE) == first + 1


def test_what_fails_inside_a_transaction_leaves_no_half_of_it(opened: Store) -> None:
    op = opened.begin("build", "build", MACHINE)
    with pytest.raises(BadInput):
        opened.add(op, [CONTAINER, NET, CONTAINER])  # the same one twice
    assert opened.state().owners == frozenset()


# ---- what is refused


def test_the_version_is_in_the_file(opened: Store) -> None:
    opened.begin("build", "build", MACHINE)
    opened.close()
    with sqlite3.connect(opened.path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,) == (4,)


def _with_one_operation(directory: Path) -> Store:
    found = Store(directory, write=True)
    found.begin("build", "build", MACHINE)
    return found


def _spoil(path: Path, how: str) -> None:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    match how:
        case "newer":
            with sqlite3.connect(path) as db:
                db.execute(f"PRAGMA user_version = {VERSION + 1}")
        case "text":
            path.write_text("this is no database, it is a letter\n" * 40)
        case "cut":
            _with_one_operation(path.parent).close()
            path.write_bytes(path.read_bytes()[:5000])
        case "zeroed":
            _with_one_operation(path.parent).close()
            content = bytearray(path.read_bytes())
            content[4096:8192] = bytes(4096)
            path.write_bytes(content)
        case "foreign":
            with sqlite3.connect(path) as db:
                db.execute("CREATE TABLE song (title TEXT)")
    path.chmod(0o644)


@pytest.mark.parametrize("write", [False, True], ids=["reading", "writing"])
@pytest.mark.parametrize("how", ["newer", "text", "cut", "zeroed", "foreign"])
def test_a_file_that_is_not_ours_to_use_is_refused_and_not_touched(how: str, write: bool, tmp_path: Path) -> None:
    path = tmp_path / "state" / FILE
    _spoil(path, how)
    before = path.read_bytes()
    with pytest.raises(BadInput) as caught:
        Store(path.parent, write=write)
    assert str(path) in caught.value.message
    assert (f"version {VERSION + 1}" if how == "newer" else "corrupt") in caught.value.message
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [FILE]


def test_an_object_that_cannot_be_read_is_a_corrupt_file_and_no_traceback(opened: Store) -> None:
    op = opened.begin("build", "build", MACHINE)
    opened.add(op, [NET])
    with sqlite3.connect(opened.path) as db:
        db.execute("""UPDATE object SET data = '{"name": "n"}'""")
    with pytest.raises(BadInput, match="corrupt"):
        opened.state()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused(mode: int, opened: Store) -> None:
    opened.begin("build", "build", MACHINE)
    opened.path.chmod(mode)
    with pytest.raises(BadInput, match="may be written by other users") as caught:
        reopened(opened)
    assert "chmod go-w" in caught.value.hint


def test_a_directory_that_others_may_write_is_refused(opened: Store) -> None:
    opened.directory.chmod(0o777)
    with pytest.raises(BadInput, match="may be written by other users"):
        reopened(opened, write=True)


def test_a_directory_that_cannot_be_made_is_not_possible_now(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetwrapError) as caught:
        Store(tmp_path / "file" / "state", write=True)
    assert caught.value.exit_code == 1
    assert "--state-dir" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only_is_not_possible_now(opened: Store) -> None:
    opened.directory.chmod(0o555)
    again = reopened(opened, write=True)
    with pytest.raises(NetwrapError) as caught:
        again.begin("build", "build", MACHINE)
    assert caught.value.exit_code == 1


def test_the_file_is_made_with_the_first_operation(opened: Store) -> None:
    assert opened.state().owners == frozenset()
    assert opened.operations() == opened.entries(op=1) == []
    assert opened.machine() is None
    assert list(opened.directory.iterdir()) == []
    opened.begin("build", "build", MACHINE)
    assert list(opened.directory.iterdir()) == [opened.path]


def test_an_operation_is_told_with_the_line_that_the_user_typed(opened: Store) -> None:
    op = opened.begin("network create web", "build", MACHINE, "netwrap network create 'a b'")
    back = opened.begin("undo", "teardown", MACHINE, "netwrap undo", [NET.owner])
    assert [(o.id, o.command, o.removes) for o in opened.operations()] == [
        (op, "netwrap network create 'a b'", ()),
        (back, "netwrap undo", (NET.owner,)),
    ]


def test_an_end_among_a_thousand_connected_containers_takes_less_than_50_milliseconds(quick_path: Path) -> None:
    found = Store(quick_path / "state", write=True)
    step = iptables.append("nat", "OUTPUT", "c/n", ("-p", "tcp", "-m", "tcp", "--dport", "80"), ("DROP",), "Why.")
    op = found.begin("network create n", "build", MACHINE)
    found.add(op, [NET])
    found.end(op, "done")
    for number in range(1000):
        container = replace(CONTAINER, name=f"c{number}")
        endpoint = replace(ENDPOINT, container=container.name)
        op = found.begin(f"connect c{number}", "build", MACHINE)
        found.add(op, [container, endpoint])
        rows = found.step_begins(op, [replace(step, owner=endpoint.owner)] * 10)
        found.step_done(rows)
        if number < 995:  # with SQL: here it is only to stand
            with sqlite3.connect(found.path) as db:
                db.execute("UPDATE operation SET state = 'done' WHERE id = ?", (op,))
    took = []
    for number in range(1, 6):
        back = found.begin("disconnect", "teardown", MACHINE)
        begun = time.process_time()
        found.end(back, "done", undone=rows, removes=[f"endpoint:c{1000 - number}/n", f"container:c{1000 - number}"])
        took.append(time.process_time() - begun)
    assert min(took) < 0.05, took
    found.close()


# ---- reading, and who may


@pytest.mark.parametrize("there", ["nothing", "a directory", "an empty file"])
def test_reading_what_is_not_there_yet_finds_nothing_and_makes_nothing(there: str, tmp_path: Path) -> None:
    directory = tmp_path / "state"
    if there != "nothing":
        directory.mkdir()
    if there == "an empty file":
        (directory / FILE).touch(0o644)
    before = sorted(tmp_path.rglob("*"))
    found = Store(directory, write=False)
    assert found.state().owners == frozenset()
    assert found.operations() == []
    assert found.machine() is None
    found.close()
    assert sorted(tmp_path.rglob("*")) == before
    assert there != "an empty file" or (directory / FILE).stat().st_size == 0


def test_reading_writes_nothing(opened: Store) -> None:
    _build(opened)
    before = opened.path.read_bytes()
    again = reopened(opened)
    assert again.state().networks == {"n": NET}
    again.begin("build", "build", MACHINE)  # on its own copy
    assert opened.path.read_bytes() == before
    again.close()


def test_a_reader_beside_a_writer_sees_one_moment_and_keeps_nobody_from_writing(opened: Store) -> None:
    op = opened.begin("build", "build", MACHINE)
    early = Store(opened.directory, write=False)
    opened.add(op, [NET])
    assert early.state().networks == {}
    late = Store(opened.directory, write=False)
    assert late.state().networks == {"n": NET}
    opened.end(op, "done", removes=[NET.owner])
    assert late.state().networks == {"n": NET}


def test_everybody_may_read_and_only_the_owner_may_write(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        found = _with_one_operation(tmp_path / "state")
    finally:
        os.umask(old)
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o644
    assert stat.S_IMODE(found.directory.stat().st_mode) == 0o755
    assert [p.name for p in found.directory.iterdir()] == [FILE]
    found.close()


def test_a_path_with_a_question_mark_a_hash_and_a_percent_is_a_path(tmp_path: Path) -> None:
    directory = tmp_path / "a?b#c%20d"
    _with_one_operation(directory).close()
    found = Store(directory, write=False)
    assert [o.title for o in found.operations()] == ["build"]
    found.close()
    assert [p.name for p in tmp_path.iterdir()] == [directory.name]


def test_a_journal_of_a_real_rule_tells_its_probe_after_a_crash(opened: Store) -> None:
    kernel = ToyKernel()
    step = iptables.append("nat", "POSTROUTING", "n", ("-s", "10.0.0.0/24", "!", "-o", "n"), ("MASQUERADE",), "Why.")
    opened.step_begins(opened.begin("build", "build", MACHINE), [step])
    (entry,) = reopened(opened).entries(op=1)
    kernel.do(entry.step.do)
    assert isinstance(entry, Entry)
    assert entry.step == step


def test_without_room_for_a_journal_nothing_is_begun(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(statedir.os, "posix_fallocate", full)
    with pytest.raises(NetwrapError) as caught:
        opened.begin("build", "build", MACHINE)
    assert "No space left on device" in caught.value.message
    assert opened.operations() == []
