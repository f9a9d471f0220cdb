"""The objects that exist, and the journal of operations and steps (the undo log), in the tables of the state file.

A journal row and the row of the object that it makes change in the same transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from ipaddress import IPv4Address

from netwrap import codec
from netwrap.model import Container, Endpoint, Machine, Network, NetworkLink, Publication, State
from netwrap.statefile import StateFile
from netwrap.steps import NO_ROW, Object, Step
from netwrap.undo import SHARED, Chains, Entry, Operation, TakenDown


class Store(StateFile):
    """The state of one state directory."""

    # The objects

    def state(self) -> State:
        """Reads the objects that exist."""
        with self._errors():
            objects = [
                codec.load_object(row["kind"], row["data"])
                for row in self._db.execute("SELECT * FROM object WHERE undone_by IS NULL ORDER BY seq")
            ]
            owners = {row[0] for row in self._db.execute("SELECT DISTINCT owner FROM step WHERE state != 'undone'")}
            owners |= {row[0] for row in self._db.execute("SELECT owner FROM object WHERE undone_by IS NULL")}
            half = {
                row[0]
                for row in self._db.execute(
                    "SELECT DISTINCT owner FROM step JOIN operation ON operation.id = step.undone_by"
                    " WHERE step.state = 'undoing' AND operation.state = 'failed'"
                )
            }
            positions = self._db.execute("SELECT * FROM ipam WHERE undone_by IS NULL")
            last = {row["network"]: IPv4Address(row["last"]) for row in positions}
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

    def machine(self) -> Machine | None:
        """Where the objects were made; None if there are none, and no operation is running or half done."""
        with self._errors():
            row = self._db.execute(
                "SELECT boot_id, netns, cookie, pidns, began, boottime FROM machine WHERE"
                " EXISTS (SELECT 1 FROM object WHERE undone_by IS NULL) "
                " OR EXISTS (SELECT 1 FROM step WHERE state != 'undone')"
                " OR EXISTS (SELECT 1 FROM operation WHERE state = 'running')"
            ).fetchone()
        return Machine(*row) if row else None

    def stands_on(self, machine: Machine) -> None:
        """Records where the objects are."""
        with self._transaction():
            self._put(machine)

    def _put(self, machine: Machine) -> None:
        self._db.execute("DELETE FROM machine")
        self._db.execute(
            "INSERT INTO machine (boot_id, netns, cookie, pidns, began, boottime) VALUES (?, ?, ?, ?, ?, ?)",
            astuple(machine),
        )

    def update(self, made: Object) -> None:
        """Replaces the data of an object that exists."""
        with self._transaction():
            self._db.execute(
                "UPDATE object SET data = ? WHERE owner = ? AND undone_by IS NULL",
                (codec.dump_object(made), made.owner),
            )

    # The journal

    def begin(
        self,
        title: str,
        kind: str,
        machine: Machine,
        command: str = "",
        removes: Iterable[str] = (),
        *,
        undoes: int | None = None,
        rules: Chains | None = None,
        worker: tuple[int, int] | None = None,
    ) -> int:
        """Records that an operation begins. Return its number. `command` is the line that the user typed, `worker`
        the pid and start time of the process that works on it.

        `undoes`: the operation that it undoes; `rules`: the chains that it removes rules from, as they are now.
        Raises StateFailed if there is no room for its journal: then nothing is begun.
        """
        self._make_sure_of_room()
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO operation"
                " (at, title, kind, state, command, removes, boot_id, undoes, rules, pid, starttime)"
                " VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(time.time(), title, kind, command, json.dumps(sorted(removes)), machine.boot_id, undoes),
                    json.dumps([[*place, *prints] for place, prints in (rules or {}).items()]),
                    *(worker or (None, None)),
                ),
            )
            self._put(machine)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def works_on(self, op: int, worker: tuple[int, int] | None) -> None:
        """Records which process works on an operation that a crash has left."""
        with self._transaction():
            self._db.execute(
                "UPDATE operation SET pid = ?, starttime = ? WHERE id = ?", (*(worker or (None, None)), op)
            )

    def end_running(self) -> None:
        """Ends the operations that a crash has left, as if they had been finished or rolled back."""
        for found in self.operations():
            if found.state == "running":
                self.end(found.id, "done" if found.is_teardown else "rolled back")

    def workers(self, boot_id: str) -> list[tuple[str, int, int]]:
        """Title, pid and start time for each operation of this boot that is still running: whose netwrap it is."""
        with self._errors():
            rows = self._db.execute(
                "SELECT title, pid, starttime FROM operation WHERE state = 'running' AND boot_id = ? AND pid NOT NULL",
                (boot_id,),
            ).fetchall()
        return [(r["title"], r["pid"], r["starttime"]) for r in rows]

    def add(self, op: int, makes: Iterable[Object]) -> None:
        """Adds the objects that an operation makes; an endpoint's address is in use from now on."""
        with self._transaction():
            for made in makes:
                self._db.execute(
                    "INSERT INTO object (owner, seq, op, kind, data)"
                    " VALUES (?, (SELECT coalesce(max(seq), 0) + 1 FROM object), ?, ?, ?)",
                    (made.owner, op, type(made).__name__, codec.dump_object(made)),
                )
                if isinstance(made, Endpoint):
                    self._db.execute("DELETE FROM ipam WHERE network = ? AND undone_by IS NULL", (made.network,))
                    self._db.execute("INSERT INTO ipam VALUES (?, ?, NULL)", (made.network, str(made.ip)))

    def add_again(self, op: int, rows: Iterable[int]) -> None:
        """Adds objects again as they were before they were taken down, by the numbers of their rows: in the same order,
        for the operation that made them first; a network with its last allocated address."""
        with self._transaction():
            for row in rows:
                self._db.execute(
                    "INSERT INTO object (owner, seq, op, rebuilt_by, kind, data)"
                    " SELECT owner, seq, op, ?, kind, data FROM object WHERE id = ?",
                    (op, row),
                )
                self._db.execute(
                    "INSERT INTO ipam SELECT network, last, NULL FROM ipam JOIN object"
                    " ON 'network:' || network = owner AND ipam.undone_by = object.undone_by WHERE id = ?",
                    (row,),
                )

    def step_begins(self, op: int, steps: Sequence[Step]) -> list[int]:
        """Records what is about to be run, inverses included. Return the rows' numbers."""
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
                        # the next time, a rule's position may be another one
                        " data = CASE WHEN ? THEN old.data ELSE step.data END"
                        " FROM (SELECT * FROM step WHERE id = ?) AS old WHERE step.id = ?",
                        (step.kind == "rule", step.mends, cursor.lastrowid),
                    )
                assert cursor.lastrowid is not None
                rows.append(cursor.lastrowid)
        return rows

    def step_done(self, rows: Iterable[int]) -> None:
        """Records that the steps took effect."""
        with self._transaction():
            self._db.executemany(
                "UPDATE step SET state = CASE state WHEN 'undoing' THEN 'undone' ELSE 'done' END WHERE id = ?",
                [(row,) for row in rows],
            )

    def step_is(self, row: int, step: Step) -> None:
        """Replaces the data of a step, when more is known about what it made."""
        with self._transaction():
            self._db.execute("UPDATE step SET data = ? WHERE id = ?", (codec.dump_step(step), row))

    def step_stands(self, row: int) -> None:
        """Records that a step which was undone is in effect again."""
        with self._transaction():
            self._db.execute("UPDATE step SET state = 'done', undone_by = NULL WHERE id = ?", (row,))

    def end(self, op: int, state: str, *, undone: Iterable[int] = (), removes: Iterable[str] = ()) -> None:
        """Ends an operation, with the steps that are undone or were already gone, and the objects that are gone."""
        with self._transaction():
            self._db.executemany(
                "UPDATE step SET state = 'undone', undone_by = coalesce(undone_by, ?) WHERE id = ?",
                [(op, row) for row in undone],
            )
            for owner in removes:
                self._db.execute("UPDATE object SET undone_by = ? WHERE owner = ? AND undone_by IS NULL", (op, owner))
                self._db.execute(
                    "UPDATE ipam SET undone_by = ? WHERE 'network:' || network = ? AND undone_by IS NULL", (op, owner)
                )
            self._db.execute("UPDATE operation SET state = ? WHERE id = ?", (state, op))
            if state == "done":
                self._turn_over(op)
            touched = self._db.execute(
                "SELECT DISTINCT id FROM operation WHERE kind = 'build' AND state = 'done' AND undoes IS NULL"
                " AND id IN (SELECT op FROM step WHERE undone_by = ?)",
                (op,),
            ).fetchall()
            self._db.executemany(
                "UPDATE operation SET state = 'undone' WHERE id = ?",
                [(row["id"],) for row in touched if not self._wanted(row["id"])],
            )

    def _turn_over(self, op: int) -> None:
        """An undo is done: the operation that it undid is `undone`; operations that this one had undone are `done`."""
        (undoes,) = self._db.execute("SELECT undoes FROM operation WHERE id = ?", (op,)).fetchone()
        self._db.execute("UPDATE operation SET state = 'undone' WHERE id = ?", (undoes,))
        self._db.execute(
            "UPDATE operation SET state = 'done' WHERE id = (SELECT undoes FROM operation WHERE id = ?)", (undoes,)
        )
        built = self._db.execute(
            "SELECT id FROM operation WHERE kind = 'build' AND state = 'undone' AND undoes IS NULL AND id != ?1"
            " AND id IN (SELECT op FROM object WHERE rebuilt_by = ?2 UNION SELECT op FROM step WHERE mended_by = ?2)",
            (undoes, op),
        ).fetchall()
        self._db.executemany(
            "UPDATE operation SET state = 'done' WHERE id = ?",
            [(row["id"],) for row in built if self._wanted(row["id"])],  # not for a shared object alone
        )

    def entries(
        self, *, owners: Iterable[str] | None = None, op: int | None = None, made_by: int | None = None
    ) -> list[Entry]:
        """The journal's steps: of `owners` (those in effect), or all that `op` ran or undid, or those that `made_by`
        ran, each as it was run again for the last time."""
        with self._errors():
            if owners is not None:
                wanted = set(owners)
                standing = self._db.execute(f"{_STEPS} WHERE step.state != 'undone' {_IN_ORDER}")
                rows = [row for row in standing if row["owner"] in wanted]
            elif made_by is not None:
                of_it = self._db.execute(f"{_STEPS} WHERE ? IN (op, mended_by) {_IN_ORDER}", (made_by,)).fetchall()
                return _latest(map(_entry, of_it), made_by)
            else:
                rows = self._db.execute(f"{_STEPS} WHERE ran = ?1 OR undone_by = ?1 {_IN_ORDER}", (op,)).fetchall()
            return list(map(_entry, rows))

    def owners_of(self, op: int) -> frozenset[str]:
        """The objects that an operation was asked to make and that still exist, without shared ones."""
        with self._errors():
            return self._wanted(op)

    def made_by(self, op: int) -> frozenset[str]:
        """Every object that an operation made, shared ones included."""
        with self._errors():
            rows = self._db.execute(
                "SELECT owner FROM object WHERE coalesce(rebuilt_by, op) = ? AND undone_by IS NULL", (op,)
            )
            return frozenset(row[0] for row in rows)

    def _wanted(self, op: int) -> frozenset[str]:
        rows = self._db.execute(
            "SELECT owner FROM object WHERE op = ?1 AND undone_by IS NULL"
            " UNION SELECT owner FROM step WHERE op = ?1 AND state != 'undone'",
            (op,),
        )
        return frozenset(row[0] for row in rows if row[0].partition(":")[0] not in SHARED)

    def operations(self) -> list[Operation]:
        """The log, oldest first."""
        with self._errors():
            rows = self._db.execute("SELECT * FROM operation ORDER BY id").fetchall()
            return [
                Operation(
                    *(r["id"], float(r["at"]), r["title"], r["kind"], r["state"], r["command"], _words(r["removes"])),
                    undoes=r["undoes"],
                )
                for r in rows
            ]

    # What operations have taken down

    def taken_down(self, op: int, *, only: str | None = None, standing: Iterable[str] = ()) -> TakenDown:
        """What an operation took down (`only`: one object of that), and `standing`, which it still has to take down."""
        with self._errors():
            chains = json.loads(self._db.execute("SELECT rules FROM operation WHERE id = ?", (op,)).fetchone()[0])
            going = set(standing)
            objects = [
                row
                for row in self._db.execute(
                    "SELECT * FROM object WHERE coalesce(undone_by, ?1) = ?1 ORDER BY seq", (op,)
                )
                if only in (None, row["owner"]) and (row["undone_by"] is not None or row["owner"] in going)
            ]
            steps = [
                row
                for row in self._db.execute(f"{_STEPS} WHERE coalesce(undone_by, ?1) = ?1 {_IN_ORDER}", (op,))
                if only in (None, row["owner"]) and (row["undone_by"] is not None or row["owner"] in going)
            ]
            return TakenDown(
                op,
                tuple(map(_entry, steps)),
                {row["id"]: codec.load_object(row["kind"], row["data"]) for row in objects},
                {(table, chain): tuple(prints) for table, chain, *prints in chains},
            )

    def last_taken_down(self, owner: str) -> TakenDown | None:
        """An object as it was when it was taken down for the last time."""
        with self._errors():
            (op,) = self._db.execute(
                "SELECT max(undone_by) FROM object JOIN operation ON operation.id = undone_by"
                " WHERE owner = ? AND operation.kind != 'build'",
                (owner,),
            ).fetchone()
        return None if op is None else self.taken_down(op, only=owner)

    def makers(self) -> dict[str, int]:
        """The operations that first made the objects, by object, even if others have built them up again since."""
        with self._errors():
            return {row["owner"]: row["op"] for row in self._db.execute("SELECT * FROM object WHERE undone_by IS NULL")}

    def has_ended(self, op: int) -> bool:
        """Return whether what an operation made was removed because a process has ended."""
        with self._errors():
            found = self._db.execute(
                "SELECT 1 FROM object JOIN operation ON operation.id = undone_by"
                " WHERE op = ? AND operation.kind = 'gc'",
                (op,),
            ).fetchone()
        return found is not None


_STEPS = (
    "SELECT step.*, coalesce(mended_by, op) AS ran, operation.boot_id FROM step"
    " JOIN operation ON operation.id = coalesce(mended_by, op)"
)
_IN_ORDER = "ORDER BY coalesce(place, step.id), step.id"


def _latest(entries: Iterable[Entry], op: int) -> list[Entry]:
    """The steps that an operation ran, each as it was run again for the last time."""
    entries = list(entries)
    latest = {(e.order[0], e.step.probe): e for e in entries}
    return list({(p := (e.order[0], e.step.probe)): latest[p] for e in entries if e.op == op}.values())


def _entry(row: sqlite3.Row) -> Entry:
    step = codec.load_step(row["data"], row["owner"])
    return Entry(row["id"], row["ran"], row["state"], step, row["boot_id"], row["place"] or 0)


def _words(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
