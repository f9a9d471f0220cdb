"""What every command needs around it: root, the lock, recovery from a crash, the store, the right namespace."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from netwrap import place
from netwrap.desk import Desk, Mode
from netwrap.errors import BadInput, NetwrapError
from netwrap.look import process
from netwrap.place import Elsewhere
from netwrap.schema import VERSION
from netwrap.spawn import Signals, kept_open
from netwrap.statedir import lock, may_ask, worker
from netwrap.steps import shell_line
from netwrap.store import Store
from netwrap.terminal import talk


@contextlib.contextmanager
def changing(mode: Mode, title: str, drops: Callable[[Desk, Elsewhere], None] | None = None) -> Iterator[Desk]:
    """The desk of a changing command, with the lock held and an earlier crash dealt with.

    A dry run only reads, without the lock. `drops` deals with what existed in a namespace that is gone.
    Raises NetwrapError without root, BadInput for --step without a terminal and if the state belongs elsewhere.
    """
    if mode.step and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadInput("--step asks before each step, but there is no terminal", "netwrap … --dry-run")
    if mode.dry_run:
        with reading(mode) as desk:
            if not _arrives(desk, drops) and at_work(desk) is None:
                desk.recover()
            yield desk
        return
    need_root(mode)
    with (
        Signals(heed=mode.heeds_signals) as signals,
        lock(mode.state_dir, title, lambda holder: _waiting(signals, holder)) as fd,
        _inherited(fd),
        contextlib.closing(Store(mode.state_dir, write=True)) as store,
    ):
        if store.migrated_from is not None:
            talk(f"netwrap: {store.path} now has version {VERSION}; a backup: {store.path}.v{store.migrated_from}")
        desk = Desk(mode, store, signals)
        _arrives(desk, drops)
        Desk(Mode(mode.state_dir, quiet=mode.quiet), store, signals).recover()
        signals.check()
        yield desk


@contextlib.contextmanager
def _inherited(fd: int) -> Iterator[None]:
    """Lets commands inherit a descriptor: one that outlives a killed netwrap goes on holding the lock."""
    os.set_inheritable(fd, True)
    kept_open.add(fd)
    try:
        yield
    finally:
        kept_open.discard(fd)


@contextlib.contextmanager
def reading(mode: Mode) -> Iterator[Desk]:
    """The desk of a command that only reads; every user may run it."""
    store = Store(mode.state_dir, write=False)
    try:
        yield Desk(mode, store)
    finally:
        store.close()


@contextlib.contextmanager
def looking(mode: Mode) -> Iterator[Desk]:
    """The desk of a command that looks at what netwrap made. Raises BadInput if that is elsewhere."""
    with reading(mode) as desk:
        if (found := elsewhere(desk)) is not None:
            raise _refusal(desk, found)
        yield desk


def need_root(mode: Mode, what: str = "changing links and rules") -> None:
    """Raises NetwrapError if the user is not root."""
    if os.geteuid() != 0:
        raise NetwrapError(f"{what} needs root", f"sudo {mode.line}  # or try it in: netwrap sandbox")


def _arrives(desk: Desk, drops: Callable[[Desk, Elsewhere], None] | None) -> bool:
    """Makes sure that the state belongs to this namespace. Return True if it belonged to one that is gone: then
    `drops` has dropped it."""
    place.make_sure_of_proc()
    found = elsewhere(desk)
    if found is None:
        return False
    if drops is None or not found.is_gone:
        raise _refusal(desk, found, drops is not None)
    drops(desk, found)
    return True


def elsewhere(desk: Desk) -> Elsewhere | None:
    """Where the objects are, if not here."""
    return place.elsewhere(desk.store.machine())


def _refusal(desk: Desk, found: Elsewhere, drops: bool = False) -> BadInput:
    sentence, hint = found.sentence(desk.store.path), found.hint(desk.mode.line, desk.store.directory)
    if drops and found.is_gone is None:
        path = shell_line((str(desk.store.path),))
        sentence += "; whether that still exists cannot be seen from here"
        hint = f"mv {path} {path}.old  # drops what was there: only if that no longer exists"
    return BadInput(sentence, hint)


def says_where(desk: Desk) -> bool:
    """Tells the user where the objects are, if not here. Return whether they are elsewhere."""
    found = elsewhere(desk)
    if found is not None:
        error = _refusal(desk, found)
        talk(f"netwrap: {error.message}\nhint: {error.hint}")
    return found is not None


def at_work(desk: Desk) -> str | None:
    """Who is changing the state now, for commands that only read; None if nobody is."""
    if (holder := worker(desk.mode.state_dir)) is not None or may_ask(desk.mode.state_dir):
        return holder
    here = place.here()
    for title, pid, starttime in desk.store.workers(here.boot_id):
        found = process(pid)
        if found is not None and found.starttime == starttime:
            return f"netwrap {title} (pid {pid})"
        if here.began is None:  # hidepid (proc(5))
            return f"netwrap {title} (pid {pid}; whether it still runs cannot be seen)"
    return None


@contextlib.contextmanager
def _waiting(signals: Signals, holder: str) -> Iterator[None]:
    talk(f"netwrap: waiting for {holder}")
    with signals.at_once():
        yield
