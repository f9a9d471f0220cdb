"""Where a state belongs: boot, network, pid and time namespace. This place may be here, elsewhere, or gone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from netwrap.errors import BadInput
from netwrap.look import NETNS_DIR, boot_id, cookie_of, own_cookie, own_namespace, process
from netwrap.model import Machine
from netwrap.steps import shell_line

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # its inode is fixed: PROC_PID_INIT_INO, linux/proc_ns.h
_OTHERS_PROC = -1
"""Stands for a pid namespace's inode if /proc belongs to another pid namespace."""


def here() -> Machine:
    """Return where we are."""
    try:
        first = process(1)
        return Machine(
            boot_id(),
            own_namespace(),
            own_cookie(),
            os.stat("/proc/self/ns/pid").st_ino if _is_our_proc() else _OTHERS_PROC,
            first.starttime if first is not None else None,
            _boottime(),
        )
    except OSError:
        raise _no_proc() from None


def ourselves() -> tuple[int, int] | None:
    """Return pid and start time of this process."""
    found = process(os.getpid())
    return (found.pid, found.starttime) if found is not None else None


def make_sure_of_proc() -> None:
    """Raises BadInput if /proc shows the pids of another pid namespace than the one in which commands run."""
    if here().pidns == _OTHERS_PROC:
        raise _no_proc()


def _no_proc() -> BadInput:
    return BadInput(
        "/proc is not that of this pid namespace: its pids are those of other processes here",
        "unshare --pid --fork --mount-proc netwrap …  # a pid namespace with a /proc of its own",
    )


def _is_our_proc() -> bool:
    """Return whether /proc shows our own pid namespace: then we have exactly one pid in it (proc(5), NSpid)."""
    found = _NSPID.search(Path("/proc/self/status").read_text(errors="replace"))
    return found is None or found[1].split() == [str(os.getpid())]


def _boottime(pid: int | str = "self") -> int:
    """Return the boot clock offset of a time namespace in nanoseconds (time_namespaces(7)); start times include it."""
    with suppress(OSError):
        found = re.search(r"^boottime +(-?\d+) +(\d+)$", Path(f"/proc/{pid}/timens_offsets").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 10**9 + int(found[2])
    return 0


@dataclass(frozen=True)
class Elsewhere:
    """A place other than here."""

    theirs: Machine
    ours: Machine
    differs: tuple[str, ...]
    """The kinds of namespaces that differ from ours."""
    is_gone: bool | None
    """True if it no longer exists, None if that cannot be seen from here."""
    enter: tuple[str, ...]
    """The words to put before a command to run it there; empty if no way is known."""

    def sentence(self, path: Path) -> str:
        """Return a sentence that says where the objects of a state file are."""
        where = " and ".join(_named(kind, self.theirs) for kind in self.differs)
        if self.is_gone:
            return f"the objects in {path} stood in {where}, which no longer exists"
        this = " and ".join(_named(kind, self.ours) for kind in self.differs)
        return f"the objects in {path} stand in {where}; this is {this}"

    def hint(self, line: str, directory: Path) -> str:
        """Return a command to continue with; `line` is the command that the user typed."""
        sudo = "" if os.geteuid() == 0 else "sudo "
        state = ("--state-dir", str(directory)) if "--state-dir" in line else ()
        gc = f"{sudo}{shell_line(('netwrap', *state, 'gc'))}"
        if self.is_gone:
            return f"{gc}  # drops what stood there"
        if self.enter:
            return f"{sudo}{shell_line(self.enter)} {line}"
        if self.is_gone is None and sudo:
            return f"{gc}  # drops what stood there, where that no longer exists"
        return "netwrap --state-dir DIR …  # another state for this namespace"


def _named(kind: str, machine: Machine) -> str:
    match kind:
        case "network":
            return f"network namespace {machine.netns}"
        case "pid":
            return f"pid namespace {machine.pidns}" if machine.pidns > 0 else "a pid namespace without its /proc"
    return f"a time namespace {(machine.boottime or 0) / 10**9:g} s ahead"


def elsewhere(theirs: Machine | None) -> Elsewhere | None:
    """Return how a place differs from here; None if it does not."""
    if theirs is None or not (differs := theirs.differs(ours := here())):
        return None
    sight = _Sight(theirs, ours)
    is_gone: bool | None = False
    if "network" in differs:
        is_gone = sight.is_netns_gone()
    elif "pid" in differs:  # its processes are gone with it; what remains is here
        is_gone = sight.is_pidns_gone()
    return Elsewhere(theirs, ours, differs, is_gone, sight.way(differs) if is_gone is False else ())


class _Sight:
    """What we can see from here of another place of the same boot."""

    def __init__(self, theirs: Machine, ours: Machine) -> None:
        self._theirs = theirs
        self._ours = ours
        self._is_whole = (
            os.geteuid() == 0
            and ours.began is not None
            and (ours.pidns == _FIRST_PID_NAMESPACE or (theirs.pidns > 0 and "pid" not in theirs.differs(ours)))
        )
        """False if /proc may not show all processes there: a process cannot see those of the pid namespaces around its
        own. A place that was created in our own pid namespace is entered from there, and so is visible."""
        self._hidden: set[int] = set()
        """Inodes of /proc/PID/net/dev of threads that even root may not inspect: every user may read those."""
        self._others: set[int] = set()
        """The same for threads in other network namespaces: each namespace has its own."""

    def is_netns_gone(self) -> bool | None:
        """Return whether the network namespace is gone: no process is in it or holds it open, no handle names it."""
        if next(self._ways_to_netns(), None) is not None:
            return False
        return True if self._is_whole and self._hidden <= self._others else None

    def is_pidns_gone(self) -> bool | None:
        """Return whether the pid namespace has ended: with its first process, all of them have."""
        if next(self._in_pidns(), None) is not None:
            return False
        return True if self._is_whole else None

    def way(self, differs: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command that enters the place, as far as it still exists."""
        if differs == ("time",):
            seconds, rest = divmod(self._theirs.boottime or 0, 10**9)
            return ("unshare", "--time", "--fork", "--boottime", str(seconds)) if not rest else ()
        tests = {"network": self._is_netns, "pid": self._is_pidns, "time": self._is_in_time}
        wanted = [kind for kind in differs if not (kind == "pid" and self.is_pidns_gone())]
        for pid in _pids():
            if all(tests[kind](pid) for kind in wanted):
                into = [_OPTIONS[kind] for kind in wanted]
                mount = "pid" in wanted or _link(f"/proc/{pid}/ns/mnt") != _link("/proc/self/ns/mnt")
                return ("nsenter", "--target", str(pid), *into, *(["--mount"] if mount else []))
        for name in sorted(handles) if wanted == ["network"] and (handles := self._handles()) else ():
            return ("nsenter", f"--net={NETNS_DIR}/{name}")
        return ()

    def _is_netns(self, pid: int) -> bool:
        return self._leads_to_netns(f"/proc/{pid}/ns/net")

    def _is_pidns(self, pid: int) -> bool:
        try:
            found = os.stat(f"/proc/{pid}/ns/pid").st_ino
        except PermissionError:
            self._is_whole &= len(_numbers(pid)) == 1  # then it is in our own pid namespace
            return False
        except OSError:
            return False
        return found == self._theirs.pidns and self._first_is_right(pid)

    def _is_in_time(self, pid: int) -> bool:
        return _boottime(pid) == self._theirs.boottime

    def _ways_to_netns(self) -> Iterator[str]:
        """Yield paths that lead to the network namespace: handles, threads, their open files, mounts elsewhere."""
        yield from (f"{NETNS_DIR}/{name}" for name in self._handles())
        mounts: set[str] = set()
        for pid in _pids():
            paths = [f"/proc/{pid}/task/{thread}" for thread in _list(f"/proc/{pid}/task")]
            yield from (f"{path}/ns/net" for path in paths if self._thread_is_in_netns(path))
            held = f"net:[{self._theirs.netns}]"
            fds = (f"/proc/{pid}/fd/{fd}" for fd in _list(f"/proc/{pid}/fd"))
            yield from (path for path in fds if _link(path) == held and self._leads_to_netns(path))
            if (space := _link(f"/proc/{pid}/ns/mnt")) not in mounts:
                mounts.add(space)
                yield from filter(self._leads_to_netns, _mounted(pid, held))

    def _thread_is_in_netns(self, thread: str) -> bool:
        try:
            os.stat(f"{thread}/ns/net")
        except OSError as error:
            if isinstance(error, PermissionError):
                self._hidden.add(_number(f"{thread}/net/dev"))
            return False
        if self._leads_to_netns(f"{thread}/ns/net"):
            return True
        self._others.add(_number(f"{thread}/net/dev"))
        return False

    def _handles(self) -> list[str]:
        return [name for name in _list(NETNS_DIR) if self._leads_to_netns(f"{NETNS_DIR}/{name}")]

    def _in_pidns(self) -> Iterator[int]:
        return (pid for pid in _pids() if process(pid) is not None and self._is_pidns(pid))

    def _first_is_right(self, member: int) -> bool:
        """Return whether a process's namespace began at the recorded time: the kernel may reuse its inode."""
        if self._ours.boottime != self._theirs.boottime:
            return True
        space = _link(f"/proc/{member}/ns/pid")
        for pid in _pids():
            if _link(f"/proc/{pid}/ns/pid") == space and _numbers(pid)[-1:] == ["1"] and (first := process(pid)):
                return self._theirs.began in (None, first.starttime)
        return True

    def _leads_to_netns(self, path: str) -> bool:
        if _number(path) != self._theirs.netns:
            return False
        cookie = cookie_of(path) if self._theirs.cookie else 0
        return cookie in (0, self._theirs.cookie)


_OPTIONS = {"network": "--net", "pid": "--pid", "time": "--time"}


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _number(path: str) -> int:
    """Return the inode to which a path leads; 0 if it cannot be read."""
    with suppress(OSError):
        return os.stat(path).st_ino
    return 0


def _link(path: str) -> str:
    with suppress(OSError):
        return os.readlink(path)
    return ""


def _list(path: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(path)
    return []


def _mounted(pid: int, what: str) -> Iterator[str]:
    """Yield where a namespace is mounted in a process's mount namespace (proc(5), mountinfo)."""
    with suppress(OSError):
        for fields in map(str.split, Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()):
            if fields[3] == what:
                yield f"/proc/{pid}/root{fields[4]}"


def _numbers(pid: int) -> list[str]:
    """Return a process's pids, from /proc's pid namespace to its own."""
    with suppress(OSError):
        found = _NSPID.search(Path(f"/proc/{pid}/status").read_text(errors="replace"))
        return found[1].split() if found else []
    return []


_NSPID = re.compile(r"^NSpid:(.*)$", re.MULTILINE)
