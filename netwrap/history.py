"""The log of operations as the user sees it, and `undo`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from netwrap.desk import Desk, Mode
from netwrap.errors import BadInput
from netwrap.session import changing, reading
from netwrap.steps import shell_line
from netwrap.undo import Operation, closure
from netwrap.views import documents


def operations(mode: Mode) -> list[dict[str, Any]]:
    """The log as documents, oldest first."""
    with reading(mode) as desk:
        return [documents.operation(o, _local_time(o.at)) for o in desk.store.operations()]


def operation(mode: Mode, number: int) -> dict[str, Any]:
    """One operation as a document, with its steps in the order in which it ran them. Errors: BadInput."""
    with reading(mode) as desk:
        found = _operation(desk, number)
        entries = desk.store.entries(op=number)
        if found.kind == "teardown":
            entries = [e for e in reversed(entries) if e.step.undo is not None]
        else:  # what it has replaced is not of its own making
            entries = [e for e in entries if e.op == number]
        return documents.operation(found, _local_time(found.at)) | {
            "steps": [documents.step(n, found, e) for n, e in enumerate(entries, 1)]
        }


def _local_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _operation(desk: Desk, number: int) -> Operation:
    for found in desk.store.operations():
        if found.id == number:
            return found
    raise BadInput(f"no operation {number}", "netwrap log")


def undo(mode: Mode, number: int | None, confirm: Callable[[str], bool], say: Callable[[str], None]) -> None:
    """Undoes the last operation that built something, or that one with all that was built upon it."""
    with changing(mode, "undo" if number is None else f"undo {number}") as desk:
        if number is None:
            standing = [o for o in desk.store.operations() if o.kind == "build" and _stands(desk, o)]
            if not standing:
                say("nothing to undo: nothing that netwrap built stands")
                return
            found = standing[-1]
        else:
            found = _operation(desk, number)
            if found.kind != "build":
                did, hint = "took down", "netwrap log"
                if found.kind == "repair":
                    did = "mended what others had undone"
                else:
                    hint = _again(desk, found)
                raise BadInput(f"operation {number}, {found.title}, {did}; its undo is not offered", hint)
            if not _stands(desk, found):
                say(f"operation {number}, {found.title}: {found.state} already; nothing to do")
                return
        asked = desk.store.owners_of(found.id)
        owners = closure(asked, desk.state().owners)
        others = sorted(o for o in owners - asked if o.partition(":")[0] in ("network", "link", "endpoint", "port"))
        if others and not mode.dry_run:
            listing = ", ".join(others)
            say(f"built upon it, and goes with it: {listing}")
            with desk.signals.at_once():
                agreed = confirm("go on?")
            if not agreed:
                raise BadInput(
                    f"operation {found.id}, {found.title}, has {listing} built upon it",
                    f"netwrap undo {found.id} --yes",
                )
        desk.take_down(f"undo {found.id}: {found.title}", owners)


def _stands(desk: Desk, found: Operation) -> bool:
    """Says whether what an operation made stands: as it was made, or what its rollback could not take back."""
    return found.state == "done" or (found.state == "failed" and bool(desk.store.owners_of(found.id)))


def _again(desk: Desk, found: Operation) -> str:
    """The commands that make again what a teardown took down."""
    ports = [owner.partition(":")[2].split("/", 2) for owner in found.removes if owner.startswith("port:")]
    if any(owner.partition(":")[0] in ("network", "endpoint") for owner in found.removes) or not ports:
        return " && ".join(o.command for o in desk.store.undone_by(found.id)) or "netwrap log"
    allowed: dict[str, list[str]] = {}
    for entry in desk.store.entries(op=found.id):
        if "-s" in (words := entry.step.do.argv):
            allowed.setdefault(entry.step.owner, []).extend(("--allow-from", words[words.index("-s") + 1]))
    places: dict[tuple[str, ...], list[str]] = {}
    for container, network, spec in ports:
        more = allowed.get(f"port:{container}/{network}/{spec}", [])
        places.setdefault((container, network, *more), []).append(spec)
    return " && ".join(
        shell_line(["netwrap", "publish", c, *specs, "--net", n, *more]) for (c, n, *more), specs in places.items()
    )
