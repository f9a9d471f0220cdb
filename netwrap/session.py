"""The frame of every command: the lock, what a crash left, the store; who may change what."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from netwrap.desk import Desk, Mode, machine
from netwrap.errors import BadInput, NetwrapError
from netwrap.schema import VERSION
from netwrap.spawn import Signals, kept_open
from netwrap.statedir import lock, worker
from netwrap.store import Store
from netwrap.terminal import talk


@contextlib.contextmanager
def changing(mode: Mode, title: str) -> Iterator[Desk]:
    """The desk of a changing command, with the lock held and an earlier crash dealt with.

    A dry run has neither: it reads. Errors: NetwrapError without root, BadInput for --step without a terminal.
    """
    if mode.step and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadInput("--step asks before each step, and there is no terminal to ask on", "netwrap … --dry-run")
    if mode.dry_run:
        with reading(mode) as desk:
            _refuse_other_host(desk.store)
            if worker(mode.state_dir) is None:
                desk.recover()
            yield desk
        return
    need_root(mode)
    with (
        Signals(heed=mode.heeds_signals) as signals,
        lock(mode.state_dir, title, lambda holder: _waiting(signals, holder)) as fd,
    ):
        os.set_inheritable(fd, True)
        kept_open.add(fd)
        store = Store(mode.state_dir, write=True)
        if store.migrated_from is not None:
            talk(f"netwrap: {store.path} is of version {VERSION} now; as it was: {store.path}.v{store.migrated_from}")
        try:
            desk = Desk(mode, store, signals)
            _refuse_other_host(store)
            Desk(Mode(mode.state_dir, quiet=mode.quiet), store, signals).recover()
            signals.check()
            yield desk
        finally:
            store.close()
            kept_open.discard(fd)


@contextlib.contextmanager
def reading(mode: Mode) -> Iterator[Desk]:
    """The desk of a command that only reads; everybody may."""
    store = Store(mode.state_dir, write=False)
    try:
        yield Desk(mode, store)
    finally:
        store.close()


def need_root(mode: Mode, what: str = "changing links and rules") -> None:
    """Errors: NetwrapError where we are not root."""
    if os.geteuid() != 0:
        raise NetwrapError(f"{what} needs root", f"sudo {mode.line}, or try it in: netwrap sandbox")


def _refuse_other_host(store: Store) -> None:
    theirs, state = store.machine(), store.state()
    if theirs is None or not (state.networks or state.containers):
        return
    if theirs[0] == machine()[0] and theirs[1] != machine()[1]:
        raise BadInput(
            f"the objects in {store.path} stand in network namespace {theirs[1]}, and this one is {machine()[1]}",
            "netwrap --state-dir DIR …  # another state for this namespace",
        )


@contextlib.contextmanager
def _waiting(signals: Signals, holder: str) -> Iterator[None]:
    talk(f"netwrap: waiting for {holder}")
    with signals.at_once():
        yield
