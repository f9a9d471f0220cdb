"""The verbs that look after what stands: status, repair, gc; and what dead processes left in the way of others."""

from __future__ import annotations

from typing import Any

from netwrap import health, mend
from netwrap.desk import Desk, Mode, changing, reading, watched
from netwrap.errors import BadInput
from netwrap.facts import Facts
from netwrap.look import alive
from netwrap.model import Container, State
from netwrap.terminal import talk
from netwrap.undo import Entry, closure, foundation, take_back
from netwrap.views import documents


def clear(desk: Desk) -> list[str]:
    """Releases what containers have left whose process has ended; gives their names.

    A dry run prints that in front of its own commands, and plans as if it were done.
    """
    state = desk.state()
    gone = _gone(state)
    if not gone:
        return []
    names = [container.name for container in gone]
    title = f"gc {' '.join(names)}"
    owners = closure((o for c in gone for o in _owners_of(c, state)), state.owners)
    talk(f"netwrap: {', '.join(names)}: the process has ended; what it left is released")
    if desk.mode.dry_run:
        entries = desk.store.entries(owners=owners)
        desk.cleared = take_back(title, entries, desk.look(inside=[c.netns for c in gone]), owners)
    else:
        desk.take_down(title, owners)
    return names


def _gone(state: State) -> list[Container]:
    containers = state.containers.values()
    seen = alive(watched(containers), [c.netns for c in containers])
    return [c for c in containers if health.is_gone(c, seen)]


def _owners_of(container: Container, state: State) -> list[str]:
    return [container.owner, *(e.owner for e in state.endpoints_of(container=container.name))]


def gc(mode: Mode) -> list[str]:
    """Releases what dead processes left; gives their containers' names."""
    with changing(mode, "gc") as desk:
        names = clear(desk)
        if mode.dry_run:
            desk.print(desk.cleared, Facts())
        return names


def status(mode: Mode) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Every object with how it is and the steps that no longer hold; and sentences about what could not be seen."""
    with reading(mode) as desk:
        state, seen = desk.state(), desk.look_at_all()
        found = []
        entries = desk.store.entries(owners=state.owners)
        for owner in dict.fromkeys(entry.step.owner for entry in entries):
            own = [entry for entry in entries if entry.step.owner == owner]
            lost = [e for e in health.drifted(own, seen) if e.step.probe.kind != "keep"]
            found.append(documents.status(owner, _state_of(owner, lost, state, seen), lost))
        for operation in desk.store.operations():
            if operation.state == "running":
                found.append(documents.cut_off(operation))
    return found, seen.unseen


def _state_of(owner: str, lost: list[Entry], state: State, seen: Facts) -> str:
    kind, _, name = owner.partition(":")
    of_container = kind not in ("host", "network", "published", "link")
    container = state.containers.get(name.partition("/")[0]) if of_container else None
    if container is not None and health.is_gone(container, seen):
        return "gone"
    if kind == "network" and state.networks[name].bridge not in seen.host.links:
        return "down"
    return "drifted" if lost else "up"


def repair(mode: Mode, name: str | None) -> bool:
    """Runs the steps that no longer hold, of all that stands or of one network or container; False where all hold."""
    with changing(mode, f"repair {name or ''}".strip()) as desk:
        clear(desk)
        state = desk.state()
        owners = state.owners if name is None else _around(name, state)
        entries = desk.store.entries(owners=owners)
        seen = desk.look_at_all()
        made = mend.repair(f"repair {name or ''}".strip(), entries, seen, state)
        if made.steps or made.replaces or mode.dry_run:
            desk.carry_out(made, seen, "repair")
        return bool(made.steps)


def _around(name: str, state: State) -> frozenset[str]:
    """A network or a container with all that it is built upon, and what is built upon it. Errors: BadInput."""
    if name not in state.networks and name not in state.containers:
        raise BadInput(f"no network or container {name!r}", "netwrap status")
    targets = [state.networks[name].owner] if name in state.networks else []
    if name in state.containers:
        targets += _owners_of(state.containers[name], state)
    built = set(targets)
    for owner in state.owners:
        if foundation([owner]) & set(targets):
            built.add(owner)
    return foundation(built) & state.owners
