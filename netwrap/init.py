"""Starts a command, passes signals on, reaps, and ends with it: what the parent of a container's first process does.

    unshare --pid python -m netwrap.init COMMAND…       COMMAND is the first process of the new pid namespace

Unlike `unshare --fork` it gives the exit code of a command that was killed, lets it have the terminal as a shell's
foreground job has it, and ends it by a signal that the kernel keeps from a first process (pid_namespaces(7)).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are passed on. Who starts us blocks them until we can."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that a command has to have at their default again."""

GO = "NETWRAP_GO"
"""In the environment, where the command is to wait: a descriptor to read a byte from. At its end without one, nobody is
there any more who knows the command, and it is not started."""

TERMINAL = "NETWRAP_TERMINAL"
"""In the environment, where the command is to have the terminal."""


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """The signals that are to be handled: a hangup that is ignored already stays so (nohup(1))."""
    return [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def run(command: list[str]) -> int:
    """Runs the command; gives its exit code, 128 + N for signal N, 127 where it cannot be started."""
    terminal = os.environ.pop(TERMINAL, "") != ""
    go = os.environ.pop(GO, "")
    ended_by: list[int] = []
    heard = (*heeded(FORWARDED), signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)  # each is taken by sigwait: a handler's may come just before a wait
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # in the child it would lose an early Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        _become(command, terminal, int(go) if go else None)
    if go:
        os.close(int(go))
    if terminal and os.getpid() != 1:  # in the command's process group we hear of Ctrl-C too
        # Not as a namespace's first process: a group's number is in use until its last member is gone, and the kernel
        # lets a first process end only when no other number of its namespace is in use.
        with suppress(OSError):
            os.setpgid(child, child)
            os.setpgid(0, child)

    while True:
        number = signal.sigwait(heard)
        if number != signal.SIGCHLD:
            if _is_kept_from(child, number):
                ended_by.append(number)
                os.kill(child, signal.SIGKILL)
            elif not (terminal and number in (signal.SIGINT, signal.SIGQUIT)):  # the terminal has given it already
                os.kill(child, number)
        elif (status := _reaped(child)) is not None:
            code = -ended_by[0] if ended_by and os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _reaped(child: int) -> int | None:
    """Reaps who has ended, lets go on who was stopped; gives the child's status once it has ended."""
    with suppress(ChildProcessError):  # nobody is left
        while (found := os.waitpid(-1, os.WUNTRACED | os.WNOHANG))[0]:
            pid, status = found
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)  # no shell is there that could
            elif pid == child:
                return status
    return None


def _is_kept_from(pid: int, number: int) -> bool:
    """Says whether a process is the first of its pid namespace and has no handler for the signal (proc(5), status)."""
    with suppress(OSError), open(f"/proc/{pid}/status") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        met = int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)
        return len(fields["NSpid"].split()) > 1 and fields["NSpid"].split()[-1] == "1" and not met >> (number - 1) & 1
    return False


def _become(command: list[str], terminal: bool, go: int | None) -> None:
    """In the child: its own process group where it has the terminal, signals as they come, then the command."""
    if terminal:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # taking the terminal from the background would stop us
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*FORWARDED, signal.SIGCHLD))
    if go is not None:
        if not os.read(go, 1):
            os._exit(127)
        os.close(go)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"netwrap: {command[0]!r}: {error.strerror}\nhint: which {command[0]}", file=sys.stderr)
    os._exit(127)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
