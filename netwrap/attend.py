"""Programs that have our own terminal, or stay: started, given our signals, waited for.

Not by `sh`, which gives no pid for a foreground process.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from netwrap.init import FORWARDED, GO, IGNORED_BY_PYTHON, TERMINAL, heeded

PYTHON = (sys.executable, "-P", "-m")
"""What runs a module of ours. `-P`: in whatever directory we are, no package that lies there is taken for it."""


def background(words: Sequence[str]) -> int:
    """Starts a program on our own terminal and does not wait; gives its pid. Errors: OSError."""
    return os.posix_spawnp(words[0], list(words), os.environ, setsigdef=IGNORED_BY_PYTHON)


def foreground(words: Sequence[str]) -> int:
    """Runs a program on our own terminal; gives its exit code, -N for signal N. Errors: OSError."""
    return os.waitstatus_to_exitcode(os.waitpid(background(words), 0)[1])


class Attended:
    """A command under netwrap.init. Inside `handling(self.signal)` it gets our signals, earlier ones too."""

    def __init__(self) -> None:
        self._parent: int | None = None
        self._early: list[int] = []

    def signal(self, number: int) -> None:
        """Passes a signal on, now or as soon as the command's parent is there."""
        if self._parent is None:
            self._early.append(number)
            return
        with suppress(ProcessLookupError):
            os.kill(self._parent, number)

    def run(
        self, words: list[str], started: Callable[[int | None], None] = lambda _: None, *, forked: bool = False
    ) -> int:
        """Runs words that end in `netwrap.init COMMAND`, with the terminal where we have it; gives the exit code.

        `started` is told the command's pid, None where it has ended; then the command begins. `forked`:
        `unshare --fork` is before netwrap.init.
        """
        with _terminal() as lent, _gate() as (fd, go):
            environment = {k: v for k, v in os.environ.items() if k not in (GO, TERMINAL)} | {GO: str(fd)}
            environment |= {TERMINAL: "1"} if lent else {}
            child = os.posix_spawnp(words[0], words, environment, setsigmask=FORWARDED, setsigdef=IGNORED_BY_PYTHON)
            self._parent = _child_of(child) if forked else child
            for number in self._early:
                self.signal(number)
            command = _child_of(self._parent) if self._parent is not None else None
            with pidfd(command or child) as ended:
                started(command)
                go()
                code = _end_of(child)
                if ended is not None:  # where its parent was killed, it ends a moment later
                    select.select([ended], [], [], 10)
        return code if code >= 0 else 128 - code


def _end_of(child: int) -> int:
    """Waits for a child's end; gives its exit code, -N for signal N. No wait is long: a signal that comes just before
    one is passed on after it."""
    with pidfd(child) as ended:
        while ended is not None and not select.select([ended], [], [], 0.5)[0]:
            pass
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child_of(parent: int) -> int | None:
    """A process's first child, as soon as there is one; None where it ends before."""
    for _ in range(2000):
        try:
            pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            if pids:
                return int(pids[0])
            if Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return None
        except OSError:
            return None
        time.sleep(0.005)
    return None


@contextmanager
def _gate() -> Iterator[tuple[int, Callable[[], object]]]:
    """A descriptor for a command that waits, and what lets it begin; where we end before that, it does not."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    with os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0) as gate:
        yield read, lambda: gate.write(b".")


@contextmanager
def _terminal() -> Iterator[bool]:
    """Says whether we have the terminal to lend, and takes it back at the end, with its settings (tcsetpgrp(3))."""
    if not (os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()):
        yield False
        return
    settings = termios.tcgetattr(0)
    try:
        yield True
    finally:
        old = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpgrp())
        termios.tcsetattr(0, termios.TCSADRAIN, settings)
        signal.signal(signal.SIGTTOU, old)


@contextmanager
def handling(handle: Callable[[int], None]) -> Iterator[int]:
    """Calls `handle` for each signal that a user or system ends commands with; gives a descriptor that wakes."""
    read, write = os.pipe()
    os.set_blocking(write, False)

    def handler(number: int, _frame: FrameType | None) -> None:
        handle(number)

    old_fd = signal.set_wakeup_fd(write)
    old = {number: signal.signal(number, handler) for number in heeded(FORWARDED)}
    try:
        yield read
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(old_fd)
        os.close(read)
        os.close(write)


@contextmanager
def pidfd(pid: int) -> Iterator[int | None]:
    """A descriptor that is readable when the process has ended (pidfd_open(2)); None where it has already."""
    try:
        fd = os.pidfd_open(pid)
    except (OSError, OverflowError):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
