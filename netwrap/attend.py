"""Programs that have our own terminal, or stay: started, given our signals, waited for.

Not by `sh`, which gives no pid for a foreground process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from netwrap.init import FORWARDED, IGNORED_BY_PYTHON, LINE, TERMINAL, heeded

PYTHON = (sys.executable, "-P", "-m")
"""What runs one of netwrap's modules. `-P`: a package in the current directory cannot replace it."""


def background(words: Sequence[str]) -> int:
    """Starts a program in a process group of its own, does not wait, returns its pid. Raises OSError."""
    return os.posix_spawnp(words[0], list(words), os.environ, setsigdef=IGNORED_BY_PYTHON, setpgroup=0)


def foreground(words: Sequence[str]) -> int:
    """Runs a program on our own terminal; returns its exit code, -N for signal N. Raises OSError."""
    pid = os.posix_spawnp(words[0], list(words), os.environ, setsigdef=IGNORED_BY_PYTHON)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Attended:
    """A command under netwrap.init. Inside `handling(self.signal)` it gets our signals, including earlier ones."""

    def __init__(self) -> None:
        self._parent: int | None = None
        self._early: list[int] = []

    def signal(self, number: int) -> None:
        """Passes a signal on, now or as soon as the command's parent has started."""
        if self._parent is None:
            self._early.append(number)
            return
        with suppress(ProcessLookupError):
            os.kill(self._parent, number)

    def run(self, words: list[str], started: Callable[[int | None], None] = lambda _: None) -> int:
        """Runs words that end in `netwrap.init COMMAND`, with the terminal where we have it; returns the exit code.

        `started` is told the command's pid, None where it has ended; then the command begins. Where it is stopped, we
        are too, and it goes on with us, as a job of the shell that started us.
        """
        with Terminal() as terminal, _line() as (line, theirs):
            environment = {k: v for k, v in os.environ.items() if k not in (LINE, TERMINAL)}
            environment |= {LINE: str(theirs.fileno())} | ({TERMINAL: "1"} if terminal.is_there else {})
            child = os.posix_spawnp(words[0], words, environment, setsigmask=FORWARDED, setsigdef=IGNORED_BY_PYTHON)
            theirs.close()
            command = self._meet(line, child)
            with pidfd(command or child) as ended:
                started(command)
                if command is not None:
                    terminal.lend(command)
                    with suppress(OSError):  # it has ended meanwhile
                        line.send(b".")
                code = self._end_of(child, command, line, terminal)
                if ended is not None:  # where its parent was killed, it ends a moment later
                    select.select([ended], [], [], 10)
        return code if code >= 0 else 128 - code

    def _meet(self, line: socket.socket, child: int) -> int | None:
        """Waits until netwrap.init and the command have reported their start; returns the command's pid."""
        command: int | None = None
        with pidfd(child) as ended:
            waits = [line.fileno(), *([] if ended is None else [ended])]
            while self._parent is None or command is None:
                ready = select.select(waits, [], [], 0.5)[0]
                who, pid = _heard(line) if line.fileno() in ready else (b"", 0)
                if who == b"parent":
                    self._parent = pid
                    for number in self._early:
                        self.signal(number)
                elif who == b"command":
                    command = pid
                elif ready or ended is None:
                    return None
        return command

    def _end_of(self, child: int, command: int | None, line: socket.socket, terminal: Terminal) -> int:
        """Waits for a child's end, and stops with the command; returns its exit code, -N for signal N.

        No wait is long: a signal that comes just before one is passed on after it.
        """
        waits = [line.fileno()]
        with pidfd(child) as ended:
            while ended is not None and ended not in (ready := select.select([ended, *waits], [], [], 0.5)[0]):
                if ready and command is not None and _says_stop(line):
                    terminal.stop(command)
                elif ready:
                    waits = []
                elif command is not None and terminal.is_there:
                    if child == self._parent and _is_stopped(child):  # `suspend` of a shell does that
                        with suppress(ProcessLookupError):
                            os.kill(command, signal.SIGSTOP)
                        terminal.stop(command)
                    terminal.lend(command)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _is_stopped(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG) is not None


@contextmanager
def _line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket to netwrap.init and the command, and its other end, which they inherit. Messages come with a pid."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    theirs.set_inheritable(True)
    with ours, theirs:
        yield ours, theirs


def _heard(line: socket.socket) -> tuple[bytes, int]:
    """A message on the socket, and its sender's pid in our pid namespace (unix(7), SCM_CREDENTIALS)."""
    with suppress(OSError):
        word, more, _, _ = line.recvmsg(16, socket.CMSG_SPACE(12))
        for _, _, credentials in more:
            return word, int.from_bytes(credentials[:4], sys.byteorder)
    return b"", 0


def _says_stop(line: socket.socket) -> bool:
    with suppress(OSError):
        return line.recv(16) != b""
    return False


class Terminal:
    """Our controlling terminal, if it is our stdin: lent to the command, and taken back with its settings.

    The command has a process group of its own, as a shell's job; between the shell and it we give the terminal on.
    """

    def __init__(self) -> None:
        self.is_there = False
        self._lent = False
        self._ours: list[Any] | None = None
        self._theirs: list[Any] | None = None

    def __enter__(self) -> Terminal:
        with suppress(OSError):  # it is none, or not the one that controls us
            os.tcgetpgrp(0)
            self.is_there = True
        return self

    def __exit__(self, *_: object) -> None:
        self._take()

    def stop(self, command: int) -> None:
        """Stops us with the command, as the terminal has stopped it; once we go on, it has the terminal if we have it.

        Where no shell is there that could let us go on, the kernel does not stop us (setpgid(2), orphaned).
        """
        self._take()
        os.kill(0, signal.SIGTSTP)
        self.lend(command)
        with suppress(ProcessLookupError):
            os.killpg(command, signal.SIGCONT)

    def lend(self, command: int) -> None:
        """Gives the terminal to the command's group if we have it by now."""
        with _unstoppable(), suppress(OSError, termios.error):
            if self.is_there and not self._lent and os.tcgetpgrp(0) == os.getpgrp():
                self._ours = termios.tcgetattr(0)
                os.tcsetpgrp(0, command)
                self._lent = True
                if self._theirs is not None:
                    termios.tcsetattr(0, termios.TCSADRAIN, self._theirs)

    def _take(self) -> None:
        if not self._lent:
            return
        self._lent = False
        with _unstoppable(), suppress(OSError, termios.error):  # it may be closed
            self._theirs = termios.tcgetattr(0)
            os.tcsetpgrp(0, os.getpgrp())
            termios.tcsetattr(0, termios.TCSADRAIN, self._ours or self._theirs)


@contextmanager
def _unstoppable() -> Iterator[None]:
    """Inside, changing the terminal from the background does not stop us (tcsetpgrp(3))."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


@contextmanager
def handling(handle: Callable[[int], None]) -> Iterator[int]:
    """Calls `handle` for each signal that users or the system end commands with; returns a wakeup descriptor."""
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
    """A descriptor that is readable when the process has exited (pidfd_open(2)); None if it already has."""
    try:
        fd = os.pidfd_open(pid)
    except (OSError, OverflowError):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
