"""The state directory: who may write it, and the one lock of every changing command."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from netwrap.errors import BadInput, StateFailed

ROOM = 512 * 1024
"""Bytes: a thousand steps of a journal, twice, as SQLite keeps what it overwrites (sqlite.org/atomiccommit.html)."""

NAME = "lock"

Waiting = Callable[[str], AbstractContextManager[None]]


def prepare(directory: Path) -> None:
    """Makes the directory where it is missing. Errors: OSError, BadInput where others may write it."""
    with readable_by_all():
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    refuse_writable_by_others(directory)


@contextlib.contextmanager
def readable_by_all() -> Iterator[None]:
    """What is made here everybody may read and its owner alone may write, whatever the umask (umask(2))."""
    old = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(old)


def refuse_writable_by_others(path: Path) -> None:
    """Errors: BadInput where others than the owner may write, or the owner is neither root nor we."""
    found = path.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid not in (0, os.geteuid()):
        raise BadInput(
            f"state {path} may be written by others than its owner, or is somebody else's",
            f"ls -ld {path}  # who; where it is right otherwise: chmod go-w {path}",
        )


def worker(directory: Path) -> str | None:
    """Who holds the lock, for who only reads; None where nobody does, or it may not be asked."""
    with contextlib.suppress(OSError), open(directory / NAME, opener=_not_waiting) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _holder(file.read(200).strip(), directory / NAME)
    return None


def may_ask(directory: Path) -> bool:
    """Return whether we may ask who holds the lock: its owner alone may open it."""
    return not (directory / NAME).exists() or os.access(directory / NAME, os.R_OK)


def _not_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def make_sure_of_room(directory: Path) -> None:
    """Takes as much of the disk as a journal may need, and gives it back. Errors: OSError where it is full."""
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, ROOM)


def unusable(directory: Path, error: OSError) -> StateFailed:
    """The error for a directory that cannot be made, read or written."""
    hint = "netwrap --state-dir DIR …  # one that can be written; or try it in: netwrap sandbox"
    return StateFailed(f"state directory {directory}: {error.strerror}", hint)


@contextlib.contextmanager
def lock(directory: Path, title: str, waiting: Waiting) -> Iterator[int]:
    """Holds the one lock (flock(2)) and gives its descriptor; it waits inside `waiting`, which is told for whom.

    Errors: StateFailed where the directory cannot be written.
    """
    try:
        prepare(directory)
        with readable_by_all():
            fd = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(fd, 0o600)  # who may open it may hold it, and keep everybody else waiting
    except OSError as error:
        raise unusable(directory, error) from None
    try:
        try:
            _acquire(fd, directory / NAME, waiting)
        except OSError as error:
            raise unusable(directory, error) from None
        with contextlib.suppress(OSError):  # a full disk: nobody learns for whom he waits, no more
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"netwrap {title} (pid {os.getpid()})\n".encode(errors="backslashreplace"), 0)
        yield fd
    finally:
        os.close(fd)


def _holder(written: str, path: Path) -> str:
    """Who holds the lock: who has written its name there, or, where that was killed, a command that it has started."""
    pid = re.search(r"\(pid (\d+)\)$", written)
    if pid is not None and not os.path.exists(f"/proc/{pid[1]}"):
        return f"a command of {written}, which was killed (fuser -v {path})"
    return written or "another netwrap"


def _acquire(fd: int, path: Path, waiting: Waiting) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise
        with waiting(_holder(os.pread(fd, 200, 0).decode(errors="replace").strip(), path)):
            fcntl.flock(fd, fcntl.LOCK_EX)
