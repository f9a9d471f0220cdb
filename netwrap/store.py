"""The state file: what stands, and the journal of every operation and step (the undo log).

One SQLite file, `netwrap.db`, with a rollback journal: who may only read the directory can read it, which a
WAL file would not allow (sqlite.org/wal.html, section 2). A journal row and the row of the object that it
makes change in one transaction. The only module that writes files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from netwrap import codec
from netwrap.errors import BadInput, NetwrapError
from netwrap.model import Container, Endpoint, Network, Publication, State
from netwrap.steps import Object, Step
from netwrap.undo import SHARED, Entry

VERSION = 1
FILE = "netwrap.db"

_SCHEMA = """
CREATE TABLE operation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,                 -- seconds since the epoch
    title TEXT NOT NULL,
    kind TEXT NOT NULL,               -- build | teardown
    state TEXT NOT NULL,              -- running | done | rolled back | undone | failed
    removes TEXT NOT NULL             -- a teardown's objects, as JSON
);
CREATE TABLE step (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    op INTEGER NOT NULL REFERENCES operation,
    undone_by INTEGER REFERENCES operation,
    owner TEXT NOT NULL,              -- the object that it belongs to
    state TEXT NOT NULL,              -- begun | done | undoing | undone
    data TEXT NOT NULL                -- do, undo, probe and why, as JSON
);
CREATE INDEX step_owner ON step (owner, state);
CREATE TABLE object (
    owner TEXT PRIMARY KEY,           -- network:NAME, container:NAME, endpoint:NAME/NETWORK, port:NAME/NETWORK/SPEC
    seq INTEGER NOT NULL,             -- the order of their making
    op INTEGER NOT NULL REFERENCES operation,
    kind TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE TABLE ipam (network TEXT PRIMARY KEY, last TEXT NOT NULL);
CREATE TABLE machine (boot_id TEXT NOT NULL, netns INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Operation:
    """A row of the log; `at` is in seconds since the epoch."""

    id: int
    at: float
    title: str
    kind: str
    state: str
    removes: tuple[str, ...]


class Store:
    """The state of one state directory. Errors: BadInput for a file that it will not use."""

    def __init__(self, directory: Path, *, write: bool) -> None:
        self.directory = directory
        self.path = directory / FILE
        with self._errors():
            if write:
                _make_directory(directory)
            if self.path.exists():
                _refuse_writable_by_others(self.path)
            self._db = self._open(write)
            self._db.row_factory = sqlite3.Row
            self._check(write)

    def _open(self, write: bool) -> sqlite3.Connection:
        if write:
            with _readable_by_all():
                return sqlite3.connect(self.path, isolation_level=None, timeout=30)
        if not self.path.exists():
            return sqlite3.connect(":memory:", isolation_level=None)
        return sqlite3.connect(f"file:{_uri(self.path)}?mode=ro", uri=True, isolation_level=None, timeout=30)

    def _check(self, write: bool) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise BadInput(
                f"state file {self.path} is of version {version}; this netwrap knows up to {VERSION}",
                "use the newer netwrap, or another state: netwrap --state-dir DIR …",
            )
        if version == 0:
            if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("it is a database, but not netwrap's")
            if write or not self.path.exists() or not self.path.stat().st_size:
                if not write:
                    self._db = sqlite3.connect(":memory:", isolation_level=None)
                    self._db.row_factory = sqlite3.Row
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        answer = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise NetwrapError(
                f"state file {self.path}: {error}",
                f"see whether it can be read and written: ls -ld {self.directory}; df {self.directory}",
            ) from None
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"state file {self.path} is corrupt: {error}",
                f"keep it and begin anew: mv {self.path} {self.path}.corrupt",
            ) from None
        except OSError as error:
            raise NetwrapError(
                f"state directory {self.directory}: {error.strerror}",
                "choose one that can be written: netwrap --state-dir DIR …, or try it in: netwrap sandbox",
            ) from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    # What stands

    def state(self) -> State:
        """Reads what stands."""
        with self._errors():
            objects = [
                codec.load_object(row["kind"], row["data"])
                for row in self._db.execute("SELECT * FROM object ORDER BY seq")
            ]
            owners = {row[0] for row in self._db.execute("SELECT DISTINCT owner FROM step WHERE state != 'undone'")}
            owners |= {row[0] for row in self._db.execute("SELECT owner FROM object")}
            last = {row["network"]: IPv4Address(row["last"]) for row in self._db.execute("SELECT * FROM ipam")}
        return State(
            networks={o.name: o for o in objects if isinstance(o, Network)},
            containers={o.name: o for o in objects if isinstance(o, Container)},
            endpoints=tuple(o for o in objects if isinstance(o, Endpoint)),
            publications=tuple(o for o in objects if isinstance(o, Publication)),
            owners=frozenset(owners),
            last=last,
        )

    def machine(self) -> tuple[str, int] | None:
        """The boot id and the network namespace that the standing objects were made in."""
        with self._errors():
            row = self._db.execute("SELECT boot_id, netns FROM machine").fetchone()
        return (row[0], row[1]) if row else None

    def update(self, made: Object) -> None:
        """Writes an object anew that stands already."""
        with self._transaction():
            self._db.execute("UPDATE object SET data = ? WHERE owner = ?", (codec.dump_object(made), made.owner))

    # The journal

    def begin(self, title: str, kind: str, machine: tuple[str, int], removes: Iterable[str] = ()) -> int:
        """Writes down that an operation begins; gives its number."""
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO operation (at, title, kind, state, removes) VALUES (?, ?, ?, 'running', ?)",
                (time.time(), title, kind, json.dumps(sorted(removes))),
            )
            self._db.execute("DELETE FROM machine")
            self._db.execute("INSERT INTO machine VALUES (?, ?)", machine)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add(self, op: int, makes: Iterable[Object]) -> None:
        """Adds the objects that an operation makes; an endpoint's address is taken from here on."""
        with self._transaction():
            for made in makes:
                self._db.execute(
                    "INSERT INTO object (owner, seq, op, kind, data)"
                    " VALUES (?, (SELECT coalesce(max(seq), 0) + 1 FROM object), ?, ?, ?)",
                    (made.owner, op, type(made).__name__, codec.dump_object(made)),
                )
                if isinstance(made, Endpoint):
                    self._db.execute("INSERT OR REPLACE INTO ipam VALUES (?, ?)", (made.network, str(made.ip)))

    def step_begins(self, op: int, steps: Sequence[Step]) -> list[int]:
        """Writes down what is about to be run, inverses included; gives the rows' numbers."""
        rows: list[int] = []
        with self._transaction():
            for step in steps:
                if step.inverts is not None:
                    self._db.execute(
                        "UPDATE step SET state = 'undoing', undone_by = ? WHERE id = ?", (op, step.inverts)
                    )
                    rows.append(step.inverts)
                    continue
                cursor = self._db.execute(
                    "INSERT INTO step (op, owner, state, data) VALUES (?, ?, 'begun', ?)",
                    (op, step.owner, codec.dump_step(step)),
                )
                assert cursor.lastrowid is not None
                rows.append(cursor.lastrowid)
        return rows

    def step_done(self, rows: Iterable[int]) -> None:
        """Writes down that the steps took effect."""
        with self._transaction():
            self._db.executemany(
                "UPDATE step SET state = CASE state WHEN 'undoing' THEN 'undone' ELSE 'done' END WHERE id = ?",
                [(row,) for row in rows],
            )

    def step_stands(self, row: int) -> None:
        """Writes down that a step which was taken back stands again."""
        with self._transaction():
            self._db.execute("UPDATE step SET state = 'done', undone_by = NULL WHERE id = ?", (row,))

    def end(self, op: int, state: str, removes: Iterable[str] = (), keep_steps: Iterable[int] = ()) -> None:
        """Ends an operation: objects that no longer stand go, with their steps, but for steps that are left."""
        gone, kept = list(removes), set(keep_steps)
        with self._transaction():
            for owner in gone:
                for row in self._db.execute(
                    "SELECT id FROM step WHERE owner = ? AND state != 'undone'", (owner,)
                ).fetchall():
                    if row["id"] not in kept:
                        self._db.execute(
                            "UPDATE step SET state = 'undone', undone_by = coalesce(undone_by, ?) WHERE id = ?",
                            (op, row["id"]),
                        )
                self._db.execute("DELETE FROM object WHERE owner = ?", (owner,))
                if owner.startswith("network:"):
                    self._db.execute("DELETE FROM ipam WHERE network = ?", (owner.partition(":")[2],))
            self._db.execute("UPDATE operation SET state = ? WHERE id = ?", (state, op))
            done = self._db.execute("SELECT id FROM operation WHERE kind = 'build' AND state = 'done'").fetchall()
            self._db.executemany(
                "UPDATE operation SET state = 'undone' WHERE id = ?",
                [(r["id"],) for r in done if not self._wanted(r["id"])],
            )

    def entries(self, *, owners: Iterable[str] | None = None, op: int | None = None) -> list[Entry]:
        """The journal's steps: of objects (those that stand), or all that an operation made or took back."""
        with self._errors():
            if owners is not None:
                wanted = set(owners)
                rows = [
                    r
                    for r in self._db.execute("SELECT * FROM step WHERE state != 'undone' ORDER BY id")
                    if r["owner"] in wanted
                ]
            else:
                rows = self._db.execute(
                    "SELECT * FROM step WHERE op = ? OR undone_by = ? ORDER BY id", (op, op)
                ).fetchall()
            return [Entry(r["id"], r["op"], r["state"], codec.load_step(r["data"], r["owner"])) for r in rows]

    def owners_of(self, op: int) -> frozenset[str]:
        """The objects that an operation was asked to make and that still stand; shared ones do not count."""
        with self._errors():
            return self._wanted(op)

    def made_by(self, op: int) -> frozenset[str]:
        """Every object that an operation made, shared ones included."""
        with self._errors():
            return frozenset(row[0] for row in self._db.execute("SELECT owner FROM object WHERE op = ?", (op,)))

    def _wanted(self, op: int) -> frozenset[str]:
        rows = self._db.execute(
            "SELECT owner FROM object WHERE op = ?1 UNION SELECT owner FROM step WHERE op = ?1 AND state != 'undone'",
            (op,),
        )
        return frozenset(row[0] for row in rows if row[0].partition(":")[0] not in SHARED)

    def operations(self) -> list[Operation]:
        """The log, oldest first."""
        with self._errors():
            rows = self._db.execute("SELECT * FROM operation ORDER BY id").fetchall()
            return [
                Operation(r["id"], r["at"], r["title"], r["kind"], r["state"], tuple(json.loads(r["removes"])))
                for r in rows
            ]


@contextlib.contextmanager
def lock(directory: Path, title: str, waiting: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
    """Holds the one lock of every changing command (flock(2)); it waits inside `waiting`, which is told for whom."""
    try:
        _make_directory(directory)
        with _readable_by_all():
            fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        hint = "choose one that can be written: netwrap --state-dir DIR …, or try it in: netwrap sandbox"
        raise NetwrapError(f"state directory {directory}: {error.strerror}", hint) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise
            with waiting(os.pread(fd, 200, 0).decode(errors="replace").strip() or "another netwrap"):
                fcntl.flock(fd, fcntl.LOCK_EX)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"netwrap {title} (pid {os.getpid()})\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _make_directory(directory: Path) -> None:
    with _readable_by_all():
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    _refuse_writable_by_others(directory)


@contextlib.contextmanager
def _readable_by_all() -> Iterator[None]:
    """What is made here everybody may read and its owner alone may write, whatever the umask (umask(2))."""
    old = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(old)


def _refuse_writable_by_others(path: Path) -> None:
    found = path.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid not in (0, os.geteuid()):
        raise BadInput(
            f"state {path} may be written by others than its owner, or is somebody else's",
            f"see who: ls -ld {path}; where it is right otherwise: chmod go-w {path}",
        )


def _uri(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
