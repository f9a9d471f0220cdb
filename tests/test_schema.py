"""State files of older versions: brought up to today's, with a copy kept."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from test_codec import NET, STEPS

from netwrap import codec, schema
from netwrap.model import Machine
from netwrap.schema import VERSION
from netwrap.statefile import FILE
from netwrap.store import Store


def _of_version_1(path: Path) -> None:
    """A file as the first version made it, with one network that stands."""
    path.parent.mkdir(mode=0o755)
    with sqlite3.connect(path) as db:
        db.executescript(schema._VERSIONS[0] + "PRAGMA user_version = 1;")
        db.execute("INSERT INTO operation VALUES (1, 0, 'network create n', 'build', 'done', 'netwrap …', '[]')")
        db.execute(
            "INSERT INTO object VALUES (?, 1, 1, 'Network', ?)",
            (NET.owner, codec.dump_object(NET)),
        )
        for number, step in enumerate(STEPS, 1):
            db.execute("INSERT INTO step VALUES (?, 1, NULL, ?, 'done', ?)", (number, NET.owner, codec.dump_step(step)))
        db.execute("INSERT INTO machine VALUES ('boot', 4026531840)")
    path.chmod(0o644)


@pytest.mark.parametrize("write", [False, True], ids=["reading", "writing"])
def test_an_older_file_is_brought_up_with_all_that_is_in_it_and_a_copy_kept(write: bool, tmp_path: Path) -> None:
    path = tmp_path / "state" / FILE
    _of_version_1(path)
    before = path.read_bytes()
    opened = Store(path.parent, write=write)
    assert opened.state().networks == {"n": NET}
    assert opened.machine() == Machine("boot", 4026531840)
    entries = opened.entries(owners=[NET.owner])
    assert [(e.id, e.op, e.boot, e.step.do) for e in entries] == [(n, 1, "boot", s.do) for n, s in enumerate(STEPS, 1)]
    opened.close()
    copy = path.with_name(f"{FILE}.v1")
    if not write:
        assert path.read_bytes() == before
        assert not copy.exists()
        return
    assert opened.migrated_from == 1
    with sqlite3.connect(copy) as old, sqlite3.connect(path) as new:
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        assert old.execute("SELECT count(*) FROM step").fetchone() == (len(STEPS),)
        assert new.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o644
    again = Store(path.parent, write=True)
    assert again.migrated_from is None
    again.close()


def test_a_death_while_it_is_brought_up_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state" / FILE
    _of_version_1(path)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(schema, "bring_up", dies)
    with pytest.raises(KeyboardInterrupt):
        Store(path.parent, write=True)
    monkeypatch.undo()
    opened = Store(path.parent, write=True)
    assert opened.state().networks == {"n": NET}
    opened.close()
