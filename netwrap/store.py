"""What stands, and the journal of every operation and step (the undo log), in the tables of the state file.

A journal row and the row of the object that it makes change in one transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from netwrap import codec
from netwrap.model import Container, Endpoint, Network, NetworkLink, Publication, State
from netwrap.statefile import StateFile
from netwrap.steps import NO_ROW, Object, Step
from netwrap.undo import SHARED, Entry, Operation


class Store(StateFile):
    """The state of one state directory."""

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
        self._make_sure_of_room()
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
