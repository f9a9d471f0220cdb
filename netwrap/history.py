"""The log of operations as documents, and `undo`, which walks back through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from netwrap.desk import Desk, Mode, watched
from netwrap.errors import BadInput, NetwrapError
from netwrap.model import Container
from netwrap.rebuild import rebuild
from netwrap.session import changing, reading, says_where
from netwrap.undo import SHARED, Operation, TakenDown, closure, foundation, spoken
from netwrap.views import documents


def operations(mode: Mode) -> list[dict[str, Any]]:
    """The log as documents, oldest first."""
    with reading(mode) as desk:
        says_where(desk)
        return [documents.operation(o, _local_time(o.at)) for o in desk.store.operations()]


def operation(mode: Mode, number: int) -> dict[str, Any]:
    """One operation as a document, with its steps in the order in which it ran them. Raises BadInput."""
    with reading(mode) as desk:
        says_where(desk)
        found = _operation(desk.store.operations(), number)
        if found.is_teardown:
            entries = [e for e in reversed(desk.store.entries(op=number)) if e.step.undo is not None]
        elif found.kind == "build" and found.undoes is None:
            entries = desk.store.entries(made_by=number)
        else:  # without the steps of others that it has replaced
            entries = [e for e in desk.store.entries(op=number) if e.op == number]
        return documents.operation(found, _local_time(found.at)) | {
            "steps": [documents.step(n, found, e) for n, e in enumerate(entries, 1)]
        }


def _local_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _operation(log: Sequence[Operation], number: int) -> Operation:
    for found in log:
        if found.id == number:
            return found
    raise BadInput(f"no operation {number}", "netwrap log")


def undo(mode: Mode, number: int | None, confirm: Callable[[str], bool | None], say: Callable[[str], None]) -> None:
    """Undoes the last operation that is not undone yet, or the one with that number, of whichever kind.

    `confirm` asks before more is removed than the operation itself made; it returns None if nobody can be asked.
    Raises BadInput if the operation has nothing to undo, or what it took down cannot be built up again.
    """
    with changing(mode, "undo" if number is None else f"undo {number}") as desk:
        log = desk.store.operations()
        if number is None:
            walked = [o for o in log if o.undoes is None and _is_open(desk, o)]
            if not walked:
                say("nothing to undo: every operation is undone")
                desk.show_deferred("undo")
                return
            found = walked[-1]
        else:
            found = _operation(log, number)
        _refuse(desk, found, _before(desk, log, found))
        if not _is_open(desk, found):
            how = f"already {found.state}" if found.state != "done" else "nothing of it is left"
            say(f"operation {found.id}, {found.title}: {how}; nothing to do")
            desk.show_deferred("undo")
            return
        if found.is_teardown:
            _build_again(desk, found, _before(desk, log, found), say)
        else:
            _take_down(desk, found, confirm, say)


def _is_open(desk: Desk, found: Operation) -> bool:
    """Return whether there is something of an operation that is not undone yet."""
    if found.is_teardown or found.kind == "repair":  # a teardown that was cut off is finished first
        return found.state in ("done", "failed", "running")
    return found.state in ("done", "failed") and bool(_built(desk, found))


def _built(desk: Desk, found: Operation) -> frozenset[str]:
    """What is left of what an operation was asked to make; for the undo of a teardown, what that had taken down."""
    if found.undoes is None:
        return desk.store.owners_of(found.id)
    taken = _operation(desk.store.operations(), found.undoes)
    makers = desk.store.makers()
    return frozenset(
        o for o in taken.removes if makers.get(o, taken.id) < taken.id and o.partition(":")[0] not in SHARED
    )


def _before(desk: Desk, log: Sequence[Operation], found: Operation) -> str:
    """The command that undoes the operation before one that cannot be undone."""
    for earlier in reversed([o for o in log if o.id < found.id and o.undoes is None and _is_open(desk, o)]):
        if earlier.kind == "build" or (earlier.kind == "teardown" and earlier.state == "done"):
            return f"netwrap undo {earlier.id}"
    return "netwrap log"


def _refuse(desk: Desk, found: Operation, hint: str) -> None:
    """Raises BadInput if an operation has nothing to undo."""
    why = ""
    if found.kind == "repair":
        why = "it restored what others had undone"
    elif found.kind == "gc":
        why = "what it removed had already ended, or was half removed"
    elif found.kind == "build" and found.state == "undone" and found.title.startswith("run "):
        why = "it has ended" if desk.store.has_ended(found.id) else ""
    elif found.kind == "teardown" and found.state == "failed":
        raise BadInput(f"operation {found.id}, {found.title}, failed half-way: it cannot be undone", "netwrap gc")
    if why:
        raise BadInput(f"operation {found.id}, {found.title}, has nothing to undo: {why}", hint)


def _take_down(desk: Desk, found: Operation, confirm: Callable[[str], bool | None], say: Callable[[str], None]) -> None:
    asked = _built(desk, found)
    owners = closure(asked, desk.state().owners)
    others = ", ".join(spoken(o) for o in sorted(owners - asked) if o.partition(":")[0] not in SHARED)
    say(f"undoing {found.id}: {found.title}")
    if others and not desk.mode.dry_run:
        say(f"this also removes: {others}")
        with desk.signals.at_once():
            agreed = confirm("go on?")
        if agreed is None:
            raise BadInput(
                f"undoing operation {found.id}, {found.title}, also removes {others}",
                f"netwrap undo {found.id} --yes",
            )
        if not agreed:
            say("nothing done")
            return
    desk.take_down(f"undo {found.id}: {found.title}", owners, undoes=found.id)


def _build_again(desk: Desk, found: Operation, hint: str, say: Callable[[str], None]) -> None:
    still = found.removes if found.state == "running" else ()  # of a dry run: it is finished first
    gone = _with_containers(desk, desk.store.taken_down(found.id, standing=still))
    state = desk.state()
    containers = {c.name: c for c in gone.objects.values() if isinstance(c, Container)}
    coming = [c.netns for c in containers.values() if c.pid is None]  # the others are found by their processes
    below = [state.containers[n] for o in foundation(gone.owners) if (n := _container(o)) in state.containers]
    seen = desk.look(watched([*containers.values(), *below]), [*coming, *(c.netns for c in below)], ports=True)
    standing = desk.store.entries(owners=state.owners)
    try:
        if not gone.objects:
            raise BadInput("the netwrap of that time did not record what it took down", "")
        made = rebuild(f"undo {found.id}: {found.title}", gone, standing, desk.store.makers(), seen, state)
    except NetwrapError as error:
        what = f"operation {found.id}, {found.title}, cannot be undone: {error.message}"
        raise BadInput(what, error.hint or hint) from None
    say(f"undoing {found.id}: {found.title}")
    desk.carry_out(replace(made, undoes=found.id), seen)


def _with_containers(desk: Desk, gone: TakenDown) -> TakenDown:
    """Adds the containers that it needs and that were removed later, from their last teardown."""
    for owner in foundation(gone.owners) - gone.owners - desk.state().owners:
        if owner.startswith("container:") and (later := desk.store.last_taken_down(owner)) is not None:
            entries = tuple(sorted((*gone.entries, *later.entries), key=lambda e: e.order))
            gone = replace(gone, entries=entries, objects=gone.objects | later.objects)
    return gone


def _container(owner: str) -> str:
    return owner.partition(":")[2] if owner.startswith("container:") else ""
