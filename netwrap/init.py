"""Starts a command, passes signals on, reaps, and ends with it: what the parent of a container's first process does.

    unshare --pid python -m netwrap.init COMMAND…       COMMAND is the first process of the new pid namespace

Unlike `unshare --fork` it gives the exit code of a command that was killed, lets it have the terminal as a shell's
foreground job has it, and ends it by a signal that the kernel keeps from a first process (pid_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are passed on. Who starts us blocks them until we can."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that a command has to have at their default again."""

STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Signals by which a terminal stops a job."""

LINE = "NETWRAP_LINE"
"""In the environment, a socket to who attends. We and the command say that we are there, by which our pids are known
(SCM_CREDENTIALS in unix(7)); the command waits for a word: at the end without one, nobody is there any more who knows
it, and it is not started. With a terminal, each stop of the command is told."""

TERMINAL = "NETWRAP_TERMINAL"
"""In the environment, where there is a terminal: the command gets a process group of its own, which is lent it."""


ENTER = "NETWRAP_ENTER"
"""In the environment, a process: the command is to have its network, mounts, host name, root and directory."""


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """The signals that are to be handled: a hangup that is ignored already stays so (nohup(1))."""
    return [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def run(command: list[str]) -> int:
    """Runs the command; returns its exit code, 128 + N for signal N, 127 or 126 where it cannot be started."""
    terminal = os.environ.pop(TERMINAL, "") != ""
    enter = os.environ.pop(ENTER, "")
    line = socket.socket(fileno=int(fd)) if (fd := os.environ.pop(LINE, "")) else None
    heard = (*heeded(FORWARDED), *STOPS, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)  # each is taken by sigwait: a handler's may come just before a wait
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # in the child it would lose an early Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if line is not None:
        line.set_inheritable(False)
    child = os.fork()
    if child == 0:
        _become(command, terminal, line, enter)
    if terminal and os.getpid() != 1:  # in the command's process group we hear of Ctrl-Z too
        # Not as a namespace's first process: a group's number is in use until its last member is gone, and the kernel
        # lets a first process end only when no other number of its namespace is in use.
        with suppress(OSError):
            os.setpgid(child, child)
            os.setpgid(0, child)
    if line is not None:  # now: who lends the terminal waits until we are in the group
        line.send(b"parent")
    return _Child(child, line if terminal else None).wait(heard)


class _Child:
    """The command: what it gets, and what comes of it. `line` where its stops are to be told."""

    def __init__(self, pid: int, line: socket.socket | None) -> None:
        self._pid = pid
        self._line = line
        self._ended_by: int | None = None

    def wait(self, heard: Iterable[signal.Signals]) -> int:
        """Passes signals on until it ends; returns its exit code."""
        while True:
            came = signal.sigwaitinfo(heard)
            if came.si_signo in STOPS:
                self._stop(came)
            elif came.si_signo == signal.SIGCHLD:
                if (status := self._reaped()) is not None:
                    ended = self._ended_by is not None and os.WIFSIGNALED(status)
                    code = -(self._ended_by or 0) if ended else os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code
            elif _is_kept_from(self._pid, came.si_signo):
                self._ended_by = self._ended_by or came.si_signo
                os.kill(self._pid, signal.SIGKILL)
            elif came.si_code <= 0:  # not from the kernel: a terminal gives its signals to the command as well
                os.kill(self._pid, came.si_signo)

    def _stop(self, came: signal.struct_siginfo) -> None:
        """Stops a first process along with its group: what the kernel keeps from it, as if it were not there.

        One that has handled the signal and wants to be stopped now raises it itself: process 1 by its own number.
        """
        number = came.si_signo
        own_wish = came.si_code == 0 and came.si_pid == 1
        if not _is_kept_from(self._pid, number, handled=own_wish):
            return
        os.kill(self._pid, signal.SIGSTOP)
        if self._line is None:  # then all of us are one job: we stop too, unless there is no shell to go on by
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
            os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])
            os.kill(self._pid, signal.SIGCONT)

    def _reaped(self) -> int | None:
        """Reaps who has ended, tells of a stop; gives the command's status once it has ended."""
        with suppress(ChildProcessError):  # nobody is left
            while (found := os.waitpid(-1, os.WUNTRACED | os.WNOHANG))[0]:
                pid, status = found
                if pid == self._pid and os.WIFSTOPPED(status):
                    self._has_stopped(os.WSTOPSIG(status))
                elif os.WIFSTOPPED(status):
                    os.kill(pid, signal.SIGCONT)
                elif pid == self._pid:
                    return status
        return None

    def _has_stopped(self, number: int) -> None:
        if self._line is not None:
            with suppress(OSError):
                self._line.send(b"stopped")
                return
        if self._line is not None or number not in STOPS:  # nobody is there who could let it go on
            os.kill(self._pid, signal.SIGCONT)


def _is_kept_from(pid: int, number: int, *, handled: bool = False) -> bool:
    """Return whether a process is the first of its pid namespace and has no handler for the signal (proc(5), status).

    `handled`: it may have one, as long as it does not ignore it.
    """
    with suppress(OSError), open(f"/proc/{pid}/status") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        met = int(fields["SigIgn"], 16) | (0 if handled else int(fields["SigCgt"], 16))
        return len(fields["NSpid"].split()) > 1 and fields["NSpid"].split()[-1] == "1" and not met >> (number - 1) & 1
    return False


def _become(command: list[str], terminal: bool, line: socket.socket | None, enter: str) -> None:
    """In the child: its own process group where there is a terminal, signals as they come, then the command."""
    if terminal:
        os.setpgid(0, 0)
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*FORWARDED, *STOPS, signal.SIGCHLD))
    if line is not None:
        line.send(b"command")
        if not line.recv(1):
            os._exit(127)
    code = 126
    try:
        if enter:
            _enter(enter)
        os.execvp(command[0], command)
    except OSError as error:
        where = f"nsenter -t {enter} --mount --root --wd " if enter else ""
        how = "ls -l" if "/" in command[0] else "which"
        hint = f"{where}{how} {shlex.quote(command[0])}"
        print(f"netwrap: {command[0]!r}: {error.strerror}\nhint: {hint}", file=sys.stderr)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            code = 127
    os._exit(code)


def _enter(pid: str) -> None:
    """Goes where a process is: setns(2), for its number is another one inside. Raises OSError."""
    spaces = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "uts", "mnt")]
    root, here = (os.open(f"/proc/{pid}/{place}", os.O_PATH | os.O_CLOEXEC) for place in ("root", "cwd"))
    libc = ctypes.CDLL(None, use_errno=True)
    for space in spaces:
        if libc.setns(space, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.fchdir(root)
    os.chroot(".")
    os.fchdir(here)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
