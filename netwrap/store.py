"""The state file: what stands, and the journal of every operation and step (the undo log).

One SQLite file, `netwrap.db`, with a rollback journal: who may only read the directory can read it, which a
WAL file would not allow (sqlite.org/wal.html, section 2). A journal row and the row of the object that it
makes change in one transaction.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from netwrap import codec, schema, statedir
from netwrap.errors import BadInput, StateFailed
from netwrap.model import Container, Endpoint, Network, NetworkLink, Publication, State
from netwrap.steps import NO_ROW, Object, Step
from netwrap.undo import SHARED, Entry, Operation

FILE = "netwrap.db"


class Store:
    """The state of one state directory. Errors: BadInput for a file that it will not use."""

    def __init__(self, directory: Path, *, write: bool) -> None:
        self.directory = directory
        self.path = directory / FILE
        self._is_new = False
        self.migrated_from: int | None = None
        with self._errors():
            if write:
                statedir.prepare(directory)
            self._db = self._open(write)
            if not write:  # who reads reads one moment, whatever is written meanwhile, and keeps nobody from writing
                self._db = self._copied(":memory:")
            self._migrate(self._check(), write)

    def _open(self, write: bool) -> sqlite3.Connection:
        if not os.path.lexists(self.path):  # it is made with the first operation: what is refused leaves none
            self._is_new = write
            return self._with_schema(":memory:")
        for path in (self.directory, self.path):  # beside a file that is right, others may put a journal of SQLite's
            statedir.refuse_writable_by_others(path)
        if not self.path.is_file():
            raise sqlite3.DatabaseError("it is no file")
        # A crash may have left a journal of SQLite's, which only who may write can roll back.
        may_write = write or (os.access(self.path, os.W_OK) and os.access(self.directory, os.W_OK))
        if not may_write and not self._is_at_rest():
            raise StateFailed(
                f"state file {self.path}: its last write was cut off, and only its owner can see to it",
                f"sudo netwrap --state-dir {shlex.quote(str(self.directory))} log",
            )
        if self.path.stat().st_size == 0:
            return self._with_schema(self._as_uri("rw") if write else ":memory:")
        # Who reads may roll back what a crash has left, and no more.
        return self._connect(self._as_uri("rw" if may_write else "ro"))

    def _as_uri(self, mode: str) -> str:
        return f"{self.path.absolute().as_uri()}?mode={mode}"

    def _is_at_rest(self) -> bool:
        """Says whether nothing is being written, or was cut off; waits for a write that goes on."""
        journal = self.path.with_name(FILE + "-journal")
        for _ in range(100):
            if not journal.exists():
                return True
            time.sleep(0.02)
        return False

    def _connect(self, name: str) -> sqlite3.Connection:
        db = sqlite3.connect(name, uri=name.startswith("file:"), isolation_level=None, timeout=30)
        db.row_factory = sqlite3.Row
        return db

    def _with_schema(self, name: str) -> sqlite3.Connection:
        with statedir.readable_by_all():
            db = self._connect(name)
            schema.bring_up(db, 0)
        return db

    def _copied(self, name: str) -> sqlite3.Connection:
        """A copy of the database, which is closed."""
        db = self._connect(name)
        with contextlib.closing(self._db):
            self._db.backup(db)
        return db

    def _migrate(self, version: int, write: bool) -> None:
        """Brings an older file to the version of today, and keeps a copy; who only reads has a copy already."""
        if version == schema.VERSION:
            return
        if write:
            copy = self.path.with_name(f"{FILE}.v{version}")
            Path(f"{copy}.new").unlink(missing_ok=True)
            with statedir.readable_by_all(), contextlib.closing(self._connect(f"{copy}.new")) as db:
                self._db.backup(db)
            os.replace(f"{copy}.new", copy)
            self.migrated_from = version
        schema.bring_up(self._db, version)

    def _check(self) -> int:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > schema.VERSION:
            raise BadInput(
                f"state file {self.path} is of version {version}; this netwrap knows up to {schema.VERSION}",
                "netwrap --state-dir DIR …  # another state; or use the newer netwrap",
            )
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if version < 1 or not tables >= {"operation", "step", "object", "ipam", "machine"}:
            raise sqlite3.DatabaseError("it is a database, but not netwrap's")
        answer = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        return int(version)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "decode" in str(error):  # "Could not decode to UTF-8 column"
                raise self._corrupt(error) from None
            hint = f"ls -ld {self.directory}; df {self.directory}"
            if "locked" in str(error):
                hint = f"fuser -v {self.path}  # who reads it, and does not end"
            raise StateFailed(f"state file {self.path}: {error}", hint) from None
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            raise self._corrupt(error) from None
        except OSError as error:
            raise statedir.unusable(self.directory, error) from None

    def _corrupt(self, error: Exception) -> BadInput:
        return BadInput(
            f"state file {self.path} is corrupt: {error}",
            f"mv {self.path} {self.path}.corrupt  # keeps it; the next command begins anew",
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk makes SQLite roll back by itself
                    self._db.execute("ROLLBACK")
                raise

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
            half = {
                row[0]
                for row in self._db.execute(
                    "SELECT DISTINCT owner FROM step JOIN operation ON operation.id = step.undone_by"
                    " WHERE step.state = 'undoing' AND operation.state = 'failed'"
                )
            }
            last = {row["network"]: IPv4Address(row["last"]) for row in self._db.execute("SELECT * FROM ipam")}
        return State(
            networks={o.name: o for o in objects if isinstance(o, Network)},
            containers={o.name: o for o in objects if isinstance(o, Container)},
            endpoints=tuple(o for o in objects if isinstance(o, Endpoint)),
            publications=tuple(o for o in objects if isinstance(o, Publication)),
            links=tuple(o for o in objects if isinstance(o, NetworkLink)),
            owners=frozenset(owners),
            half_removed=frozenset(half),
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

    def begin(
        self, title: str, kind: str, machine: tuple[str, int], command: str = "", removes: Iterable[str] = ()
    ) -> int:
        """Writes down that an operation begins; gives its number. `command` is the line that the user typed.

        Errors: StateFailed where there is no room for its journal: nothing is begun then.
        """
        with self._errors():
            statedir.make_sure_of_room(self.directory)
        if self._is_new:
            with self._errors():
                self._db, self._is_new = self._with_schema(self._as_uri("rwc")), False
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO operation (at, title, kind, state, command, removes, boot_id)"
                " VALUES (?, ?, ?, 'running', ?, ?, ?)",
                (time.time(), title, kind, command, json.dumps(sorted(removes)), machine[0]),
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
                if step.inverts == NO_ROW:
                    continue
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
                if step.mends is not None:
                    self._db.execute(
                        "UPDATE step SET mended_by = step.op, op = old.op, place = coalesce(old.place, old.id),"
                        # a rule's number among others says nothing the next time
                        " data = CASE WHEN ? THEN old.data ELSE step.data END"
                        " FROM (SELECT * FROM step WHERE id = ?) AS old WHERE step.id = ?",
                        (step.kind == "rule", step.mends, cursor.lastrowid),
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

    def step_is(self, row: int, step: Step) -> None:
        """Writes a step anew, once more is known of what it made."""
        with self._transaction():
            self._db.execute("UPDATE step SET data = ? WHERE id = ?", (codec.dump_step(step), row))

    def step_stands(self, row: int) -> None:
        """Writes down that a step which was taken back stands again."""
        with self._transaction():
            self._db.execute("UPDATE step SET state = 'done', undone_by = NULL WHERE id = ?", (row,))

    def end(self, op: int, state: str, *, undone: Iterable[int] = (), removes: Iterable[str] = ()) -> None:
        """Ends an operation: steps that are taken back, or were gone already, and objects that no longer stand."""
        with self._transaction():
            self._db.executemany(
                "UPDATE step SET state = 'undone', undone_by = coalesce(undone_by, ?) WHERE id = ?",
                [(op, row) for row in undone],
            )
            for owner in removes:
                self._db.execute("DELETE FROM object WHERE owner = ?", (owner,))
                if owner.startswith("network:"):
                    self._db.execute("DELETE FROM ipam WHERE network = ?", (owner.partition(":")[2],))
            self._db.execute("UPDATE operation SET state = ? WHERE id = ?", (state, op))
            touched = self._db.execute(
                "SELECT DISTINCT id FROM operation WHERE kind = 'build' AND state = 'done'"
                " AND id IN (SELECT op FROM step WHERE undone_by = ?)",
                (op,),
            ).fetchall()
            self._db.executemany(
                "UPDATE operation SET state = 'undone' WHERE id = ?",
                [(row["id"],) for row in touched if not self._wanted(row["id"])],
            )

    def entries(self, *, owners: Iterable[str] | None = None, op: int | None = None) -> list[Entry]:
        """The journal's steps: of objects (those that stand), or all that an operation made or took back."""
        with self._errors():
            if owners is not None:
                wanted = set(owners)
                standing = self._db.execute(f"{_STEPS} WHERE step.state != 'undone' {_IN_ORDER}")
                rows = [row for row in standing if row["owner"] in wanted]
            else:
                rows = self._db.execute(f"{_STEPS} WHERE ran = ?1 OR undone_by = ?1 {_IN_ORDER}", (op,)).fetchall()
            return [
                Entry(
                    r["id"], r["ran"], r["state"], codec.load_step(r["data"], r["owner"]), r["boot_id"], r["place"] or 0
                )
                for r in rows
            ]

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
                Operation(
                    r["id"], float(r["at"]), r["title"], r["kind"], r["state"], r["command"], _words(r["removes"])
                )
                for r in rows
            ]

    def undone_by(self, op: int) -> list[Operation]:
        """The operations whose steps a teardown took back, oldest first."""
        with self._errors():
            rows = self._db.execute("SELECT DISTINCT op FROM step WHERE undone_by = ? AND op != ?", (op, op)).fetchall()
        wanted = {row["op"] for row in rows}
        return [found for found in self.operations() if found.id in wanted]


_STEPS = (
    "SELECT step.*, coalesce(mended_by, op) AS ran, operation.boot_id FROM step"
    " JOIN operation ON operation.id = coalesce(mended_by, op)"
)
_IN_ORDER = "ORDER BY coalesce(place, step.id), step.id"


def _words(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
