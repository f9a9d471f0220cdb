"""The state file itself: how it is opened, who may use it, its versions; what is wrong with one.

One SQLite file, `netwrap.db`, with a rollback journal: who may only read the directory can read it, which a
WAL file would not allow (sqlite.org/wal.html, section 2).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from netwrap import schema, statedir
from netwrap.errors import BadInput, StateFailed

FILE = "netwrap.db"


class StateFile:
    """The database of one state directory. Raises BadInput for a file that it will not use."""

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
        """Return whether nothing is being written, or was cut off; waits for a write that goes on."""
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

    def _make_sure_of_room(self) -> None:
        """Makes the file where it is missing. Raises StateFailed if there is no room for what is to be written."""
        with self._errors():
            statedir.make_sure_of_room(self.directory)
            if self._is_new:
                self._db, self._is_new = self._with_schema(self._as_uri("rwc")), False
