"""Starts a command, passes signals on, reaps, and exits with it: the parent of a container's first process.

    unshare --pid python -m netwrap.init COMMAND…       COMMAND is the first process of the new pid namespace

Unlike `unshare --fork`, it returns the exit code of a command that was killed, gives the command the terminal like a
shell's foreground job, and ends it on a signal that the kernel does not deliver to a first process
(pid_namespaces(7)).
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
"""Signals that are passed on. The process that starts us blocks them until we are ready."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that must be reset to their default for the command."""

STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Signals by which a terminal stops a job."""

LINE = "NETWRAP_LINE"
"""Environment variable: a socket to the attending process. We and the command each send a message, which tells our pids
(SCM_CREDENTIALS in unix(7)). The command waits for a reply: if the socket closes without one, nothing is left that
knows the command, and it is not started. With a terminal, each stop of the command is reported."""

TERMINAL = "NETWRAP_TERMINAL"
"""Environment variable, set if there is a terminal: it is lent to the command, which gets its own process group."""


ENTER = "NETWRAP_ENTER"
"""Environment variable: a process whose network, mounts, host name, root and directory the command gets."""


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return the signals to handle: a hangup that is already ignored stays ignored (nohup(1))."""
    return [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def run(command: list[str]) -> int:
    """Run the command; return its exit code, 128 + N for signal N, 127 or 126 if it cannot be started."""
    terminal = os.environ.pop(TERMINAL, "") != ""
    enter = os.environ.pop(ENTER, "")
    line = socket.socket(fileno=int(fd)) if (fd := os.environ.pop(LINE, "")) else None
    heard = (*heeded(FORWARDED), *STOPS, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)  # sigwait takes each: a handler could run just before a wait
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # in the child it would lose an early Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if line is not None:
        line.set_inheritable(False)
    child = os.fork()
    if child == 0:
        _become(command, terminal, line, enter)
    if terminal and os.getpid() != 1:  # in the command's process group we receive Ctrl-Z too
        # Not as a namespace's first process: a group's id is in use until its last member is gone, and the kernel
        # lets a first process end only when no other id of its namespace is in use.
        with suppress(OSError):
            os.setpgid(child, child)
            os.setpgid(0, child)
    if line is not None:  # only now: the lender of the terminal waits until we are in the group
        line.send(b"parent")
    return _Child(child, line if terminal else None).wait(heard)


class _Child:
    """The command: signals sent to it, and its status. `line` is set if its stops must be reported."""

    def __init__(self, pid: int, line: socket.socket | None) -> None:
        self._pid = pid
        self._line = line
        self._ended_by: int | None = None

    def wait(self, heard: Iterable[signal.Signals]) -> int:
        """Pass signals on until the command ends; return its exit code."""
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
            elif came.si_code <= 0:  # not from the kernel: a terminal sends its signals to the command as well
                os.kill(self._pid, came.si_signo)

    def _stop(self, came: signal.struct_siginfo) -> None:
        """Stop a first process along with its group on a signal that the kernel does not deliver to it.

        A first process that has handled the signal and now wants to stop raises it itself: process 1, from its own pid.
        """
        number = came.si_signo
        own_wish = came.si_code == 0 and came.si_pid == 1
        if not _is_kept_from(self._pid, number, handled=own_wish):
            return
        os.kill(self._pid, signal.SIGSTOP)
        if self._line is None:  # then we are all one job: we stop too, unless no shell could continue us
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
            os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])
            os.kill(self._pid, signal.SIGCONT)

    def _reaped(self) -> int | None:
        """Reap processes that have ended and report a stop; return the command's status once it has ended."""
        with suppress(ChildProcessError):  # no child is left
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
        if self._line is not None or number not in STOPS:  # nothing else could continue it
            os.kill(self._pid, signal.SIGCONT)


def _is_kept_from(pid: int, number: int, *, handled: bool = False) -> bool:
    """Return whether a process is the first of its pid namespace and has no handler for the signal (proc(5), status).

    `handled`: it may have a handler, but must not ignore the signal.
    """
    with suppress(OSError), open(f"/proc/{pid}/status") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        met = int(fields["SigIgn"], 16) | (0 if handled else int(fields["SigCgt"], 16))
        return len(fields["NSpid"].split()) > 1 and fields["NSpid"].split()[-1] == "1" and not met >> (number - 1) & 1
    return False


def _become(command: list[str], terminal: bool, line: socket.socket | None, enter: str) -> None:
    """In the child: create a process group if there is a terminal, unblock and reset signals, then run it."""
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
    """Enter the namespaces of a process: setns(2), because its pid is different inside. Raises OSError."""
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
