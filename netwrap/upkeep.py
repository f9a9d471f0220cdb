"""The verbs status, repair and gc; and the clean-up after exited processes before other commands."""

from __future__ import annotations

from typing import Any

from netwrap import amiss, health, mend
from netwrap.desk import Desk, Mode, watched
from netwrap.errors import BadInput, NetwrapError, quoted
from netwrap.facts import Facts
from netwrap.look import alive
from netwrap.model import Container, State
from netwrap.place import Elsewhere
from netwrap.session import at_work, changing, looking
from netwrap.terminal import talk
from netwrap.undo import closure, foundation, whose
from netwrap.views import documents


def clear(desk: Desk) -> list[str]:
    """Cleans up after containers that are gone. Return their names.

    A dry run prints the commands for that before its own, and plans as if they had been run.
    """
    state = desk.state()
    gone = _gone(state)
    names = [container.name for container in gone]
    if gone:
        does = "would clean up" if desk.mode.dry_run else "cleaning up"
        talk(f"netwrap: {does} after containers that are gone: {', '.join(names)}")
        owners = closure((o for c in gone for o in _owners_of(c, state)), state.owners)
        desk.take_down(f"gc {' '.join(names)}", owners, kind="gc", first=True)
    return names


def _gone(state: State) -> list[Container]:
    containers = state.containers.values()
    seen = alive(watched(containers), [c.netns for c in containers])
    return [c for c in containers if health.is_gone(c, seen)]


def _owners_of(container: Container, state: State) -> list[str]:
    return [container.owner, *(e.owner for e in state.endpoints_of(container=container.name))]


def gc(mode: Mode) -> list[str]:
    """Cleans up after containers that are gone, and after failed teardowns. Return the containers' names."""
    names: list[str] = []

    def drop(desk: Desk, found: Elsewhere) -> None:
        names.extend(_drop(desk, found))

    with changing(mode, "gc", drop) as desk:
        names += clear(desk)
        owners = desk.state().owners
        if unneeded := closure(desk.state().half_removed, owners):
            desk.take_down("gc", unneeded, kind="gc", first=True)
        desk.show_deferred("gc")
        return names


def _drop(desk: Desk, found: Elsewhere) -> list[str]:
    """Forgets what existed in a network namespace that is gone. Return the containers' names."""
    talk(f"netwrap: {found.sentence(desk.store.path)}")
    if "network" not in found.differs:  # the objects are here; the processes have ended with their pid namespace
        if not desk.mode.dry_run:
            desk.store.stands_on(found.ours)
        return []
    state = desk.state()
    dropped = [*(f"network {name}" for name in state.networks), *(f"container {name}" for name in state.containers)]
    talk(f"netwrap: gone with it, and forgotten: {', '.join(dropped) or 'what a failed removal had left'}")
    desk.drop(f"gc of network namespace {found.theirs.netns}")
    return list(state.containers)


def status(mode: Mode) -> tuple[list[dict[str, Any]], list[str]]:
    """Every object with its state and the steps that no longer hold; and sentences about what could not be seen."""
    with looking(mode) as desk:
        state, seen = desk.state(), desk.look_at_all()
        found = []
        entries = desk.store.entries(owners=state.owners)
        others = amiss.drift(entries, seen, state)
        for owner in dict.fromkeys(entry.step.owner for entry in entries):
            own = [entry for entry in entries if entry.step.owner == owner]
            drift = [entry.step.do.text() for entry in health.drifted(own, seen)]
            drift += [text for whose_, text in others if whose_ == owner]
            if owner == "host":
                fresh = [step.do.text() for step in mend.host_settings(seen, state)]
                drift = [*(line for line in fresh if line not in drift), *drift]
            if owner in state.half_removed:
                left = [e.step.undo.text() for e in own if e.state == "undoing" and e.step.undo]
                drift = [f"half removed; not yet run: {line}" for line in left] + drift
            found.append(documents.status(owner, _state_of(owner, drift, state, seen), drift))
        unseen = list(seen.unseen)
        running = [o for o in desk.store.operations() if o.state == "running"]
        if running and (busy := at_work(desk)):
            unseen.append(f"what {busy} is changing; it is at work")
        else:
            found += map(documents.cut_off, running)
    return found, unseen


def _state_of(owner: str, drift: list[str], state: State, seen: Facts) -> str:
    kind, name = whose(owner)
    if kind == "container" and name in state.containers:
        return health.container_state(state.containers[name], bool(drift), seen)
    if owner.startswith("network:"):
        return health.network_state(state.networks[name], bool(drift), seen)
    return "drifted" if drift else "up"


def repair(mode: Mode, name: str | None) -> bool:
    """Runs the steps that no longer hold, of everything or of one network or container. Return False if all hold.

    The host, each network and each container are an operation each: if one fails, the others are still repaired.
    Raises NetwrapError if something could not be repaired.
    """
    with changing(mode, f"repair {name or ''}".strip()) as desk:
        wanted = None if name is None else _around(name, desk.state())
        clear(desk)
        state = desk.state()
        owners = state.owners if wanted is None else wanted & state.owners
        failed, done = [], False
        seen = desk.look_at_all()
        for kind, part in sorted({whose(owner) for owner in owners}, key=lambda p: (_PARTS.index(p[0]), p[1])):
            title = f"repair {part or kind}"
            try:
                if _repair_part(desk, title, {o for o in owners if whose(o) == (kind, part)}, seen):
                    done, seen = True, desk.look_at_all()
            except NetwrapError as error:
                if type(error) is not NetwrapError:
                    raise
                talk(f"netwrap: {error.message}\nhint: {error.hint}")
                failed.append(part or kind)
                seen = desk.look_at_all()
        desk.show_deferred("repair")
        if failed:
            raise NetwrapError(f"not repaired: {', '.join(failed)}", "netwrap status")
        return done


_PARTS = ("host", "network", "link", "container")


def _repair_part(desk: Desk, title: str, owners: set[str], seen: Facts) -> bool:
    state = desk.state()
    standing = desk.store.entries(owners=state.owners)
    made = mend.repair(title, [e for e in standing if e.step.owner in owners], standing, seen, state)
    if made.steps or made.replaces:
        desk.carry_out(made, seen, "repair", first=True)
    return bool(made.steps)


def _around(name: str, state: State) -> frozenset[str]:
    """A network or a container with what it depends on, and what depends on it. Raises BadInput."""
    if name not in state.networks and name not in state.containers:
        raise BadInput(f"no network or container {quoted(name)}", "netwrap status")
    targets = [state.networks[name].owner] if name in state.networks else []
    if name in state.containers:
        targets += _owners_of(state.containers[name], state)
    built = set(targets)
    for owner in state.owners:
        if foundation([owner]) & set(targets):
            built.add(owner)
    return foundation(built) & state.owners
