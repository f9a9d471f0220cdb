"""`spawn`, the only way to run a process and wait for it. Only this module imports `sh`, when the first one is run."""

from __future__ import annotations

import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from netwrap.errors import CommandFailed, Interrupted, NetwrapError
from netwrap.init import heeded
from netwrap.steps import shell_line

PACKAGES = {
    "ip": "iproute2",
    "sysctl": "procps",
    "mount": "mount",
    "conntrack": "conntrack",
    "ping": "iputils-ping",
    **dict.fromkeys(("iptables", "iptables-save", "iptables-restore"), "iptables"),
    **dict.fromkeys(("unshare", "nsenter", "setpriv"), "util-linux"),
}


class Signals:
    """While entered, SIGINT, SIGTERM, SIGHUP and SIGQUIT end the running command, and `check` raises Interrupted.

    Inside `at_once`, where nothing is half done (waiting for a lock, for a key), a signal raises it immediately.
    """

    def __init__(self, *, heed: bool = True) -> None:
        self._numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT) if heed else ()
        self.caught: int | None = None
        self.child: Any = None
        self._at_once = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in heeded(self._numbers):
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        before = self._old.get(self.caught or 0)
        if kind is None and callable(before) and before is not signal.default_int_handler:
            before(self.caught, None)  # it came when everything was done: pass it to the caller's handler

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self.caught = self.caught is None, number
        if first and self.child is not None:
            end(self.child)
        if self._at_once:
            self.check()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal interrupt the waiting inside."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.caught is not None:
            raise Interrupted(f"interrupted by {signal.Signals(self.caught).name}", "netwrap log")


kept_open: set[int] = set()
"""Descriptors that every spawned command inherits: the lock's, so that the lock is held until the command that a
killed netwrap has started is done (flock(2))."""


def time_limit() -> float:
    """Seconds that a spawned command may take: $NETWRAP_TIMEOUT, or 30 if that is not a positive number."""
    try:
        limit = float(os.environ.get("NETWRAP_TIMEOUT", "30"))
    except ValueError:
        return 30.0
    return min(limit, threading.TIMEOUT_MAX) if limit > 0 else 30.0


def spawn(words: Sequence[str], stdin: str | None = None, signals: Signals | None = None) -> str:
    """Runs one command without a shell and returns its stdout.

    Raises CommandFailed with exit code and stderr; NetwrapError if the program is missing.
    """
    import sh

    line = shell_line(words)
    try:
        command = sh.Command(words[0])
    except sh.CommandNotFound:
        raise missing(words[0]) from None
    if not _can_start_threads():  # sh needs two or three for each command
        return _without_threads(words, stdin, signals)
    try:
        child = command(
            *words[1:],
            _in=stdin,
            _tty_out=False,
            _env={**os.environ, "LC_ALL": "C"},
            _pass_fds=kept_open,
            _new_group=True,  # Ctrl-C goes to netwrap, which decides what to end
            _bg=True,
            _bg_exc=False,
        )
    except (OSError, sh.ForkException):
        raise CommandFailed(line, 126, f"{words[0]} cannot be executed") from None
    except (RuntimeError, MemoryError) as error:  # the command may be running: it is ended, and its probe decides
        _end_half_started(error)
        raise CommandFailed(line, 126, _NO_THREAD) from None
    late = threading.Timer(time_limit(), end, (child,))  # sh's own _timeout polls: 100 ms a command
    late.daemon = True
    if signals is not None:
        signals.child = child
        if signals.caught is not None:  # the signal came while the command was being started
            end(child)
    try:
        late.start()
        child.wait()
    except sh.ErrorReturnCode as error:  # its own message is cut at 750 bytes, its stderr is not
        code = None if late.finished.is_set() else error.exit_code
        raise CommandFailed(line, code, error.stderr.decode(errors="replace")) from None
    except (RuntimeError, MemoryError):
        end(child)
        raise CommandFailed(line, 126, _NO_THREAD) from None
    finally:
        late.cancel()
        if signals is not None:
            signals.child = None
    return str(child.stdout.decode(errors="surrogateescape"))  # to pass it to another command unchanged


_NO_THREAD = "not enough memory, or too many threads, to run it"


def _can_start_threads() -> bool:
    """Return whether a thread can be started now: RLIMIT_NPROC, the cgroup or a lack of memory may prevent it."""
    trial = threading.Thread(target=int, daemon=True)
    try:
        trial.start()
    except (RuntimeError, MemoryError):
        return False
    trial.join()
    return True


def _end_half_started(error: BaseException) -> None:
    """Ends the command that sh has started and no longer knows, by the pid in the frames of its error."""
    trace = error.__traceback__
    while trace is not None:
        pid = getattr(trace.tb_frame.f_locals.get("self"), "pid", None)
        if isinstance(pid, int) and pid > 0:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
            return
        trace = trace.tb_next


@dataclass(frozen=True)
class _Child:
    """What `end` needs to know of a command."""

    pid: int


def _without_threads(words: Sequence[str], stdin: str | None, signals: Signals | None) -> str:
    """Runs one command with its output in memory files, as `spawn` does with sh: a rollback needs no thread."""
    line = shell_line(words)
    given, out, err = (os.memfd_create(name) for name in ("in", "out", "err"))
    try:
        os.write(given, (stdin or "").encode(errors="surrogateescape"))
        os.lseek(given, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, here, there) for here, there in ((given, 0), (out, 1), (err, 2))]
        actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in kept_open]
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            pid = os.posix_spawnp(words[0], list(words), environment, file_actions=actions, setpgroup=0)
        except OSError:
            raise CommandFailed(line, 126, f"{words[0]} cannot be executed") from None
        code = _waited_for(_Child(pid), signals)
        if code != 0:
            raise CommandFailed(line, code, _content(err).decode(errors="replace"))
        return _content(out).decode(errors="surrogateescape")
    finally:
        for fd in (given, out, err):
            os.close(fd)


def _waited_for(child: _Child, signals: Signals | None) -> int | None:
    """The exit code of a command; None if it timed out and was ended."""
    if signals is not None:
        signals.child = child
        if signals.caught is not None:
            end(child)
    ended = os.pidfd_open(child.pid)
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        until = time.monotonic() + time_limit()
        while (rest := until - time.monotonic()) > 0:
            if waiting.poll(min(rest, 0.5) * 1000):  # no wait is long: a signal that comes just before is handled after
                break
        if is_late := rest <= 0:
            end(child)
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        return None if is_late else code
    finally:
        os.close(ended)
        if signals is not None:
            signals.child = None


def _content(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read()


def end(child: Any) -> None:
    """Ends a command with its whole process group, even if the command itself has ended already."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def missing(program: str) -> NetwrapError:
    """The error for a program that is not installed."""
    return NetwrapError(
        f"{program!r} is not installed on this machine", f"sudo apt-get install {PACKAGES.get(program, program)}"
    )


def require(programs: Iterable[str]) -> None:
    """Finds a missing program before the first change. Raises NetwrapError."""
    for program in sorted(programs):
        if shutil.which(program) is None:
            raise missing(program)
