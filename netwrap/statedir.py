"""The state directory: who may write it, and the lock that every changing command holds."""

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
"""Bytes: the journal of a thousand steps, twice, as SQLite keeps what it overwrites (sqlite.org/atomiccommit.html)."""

NAME = "lock"

Waiting = Callable[[str], AbstractContextManager[None]]


def prepare(directory: Path) -> None:
    """Makes the directory if it is missing. Raises OSError, or BadInput if other users may write it."""
    with readable_by_all():
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    refuse_writable_by_others(directory)


@contextlib.contextmanager
def readable_by_all() -> Iterator[None]:
    """Files made in this context are readable by everybody and writable by their owner, whatever the umask(2)."""
    old = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(old)


def refuse_writable_by_others(path: Path) -> None:
    """Raises BadInput if other users than the owner may write, or the owner is neither root nor the current user."""
    found = path.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid not in (0, os.geteuid()):
        raise BadInput(
            f"state {path} may be written by other users, or belongs to another user",
            f"ls -ld {path}  # shows who; if the owner is right: chmod go-w {path}",
        )


def worker(directory: Path) -> str | None:
    """Who holds the lock, for commands that only read; None if nobody does, or if we may not open it."""
    with contextlib.suppress(OSError), open(directory / NAME, opener=_not_waiting) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _holder(file.read(200).strip(), directory / NAME)
    return None


def may_ask(directory: Path) -> bool:
    """Return whether we may open the lock to see who holds it: only its owner may."""
    return not (directory / NAME).exists() or os.access(directory / NAME, os.R_OK)


def _not_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def make_sure_of_room(directory: Path) -> None:
    """Allocates the disk space that a journal may need, and frees it again. Raises OSError if the disk is full."""
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, ROOM)


def unusable(directory: Path, error: OSError) -> StateFailed:
    """The error for a directory that cannot be made, read or written."""
    hint = "netwrap --state-dir DIR …  # a writable one; or try it in: netwrap sandbox"
    return StateFailed(f"state directory {directory}: {error.strerror}", hint)


@contextlib.contextmanager
def lock(directory: Path, title: str, waiting: Waiting) -> Iterator[int]:
    """Holds the lock (flock(2)) and yields its descriptor; it waits inside `waiting`, which is told for whom.

    Raises StateFailed if the directory cannot be written.
    """
    try:
        prepare(directory)
        with readable_by_all():
            fd = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(fd, 0o600)  # a user who may open it could hold it, and make everybody else wait
    except OSError as error:
        raise unusable(directory, error) from None
    try:
        try:
            _acquire(fd, directory / NAME, waiting)
        except OSError as error:
            raise unusable(directory, error) from None
        with contextlib.suppress(OSError):  # on a full disk, others only cannot see for whom they wait
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"netwrap {title} (pid {os.getpid()})\n".encode(errors="backslashreplace"), 0)
        yield fd
    finally:
        os.close(fd)


def _holder(written: str, path: Path) -> str:
    """Who holds the lock: the netwrap that is named in it or, if that was killed, a command that it had started."""
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
