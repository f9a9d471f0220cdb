"""Where a state belongs: boot, network, pid and time namespace. That may be here, elsewhere, or gone."""

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
"""In place of a pid namespace's inode, where /proc is that of another one."""


def here() -> Machine:
    """Where we are."""
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
    """Pid and start time of this process."""
    found = process(os.getpid())
    return (found.pid, found.starttime) if found is not None else None


def make_sure_of_proc() -> None:
    """Raises BadInput if /proc shows the pids of another pid namespace than the one that commands run in."""
    if here().pidns == _OTHERS_PROC:
        raise _no_proc()


def _no_proc() -> BadInput:
    return BadInput(
        "/proc is not that of this pid namespace: its pids are those of other processes here",
        "unshare --pid --fork --mount-proc netwrap …  # a pid namespace with a /proc of its own",
    )


def _is_our_proc() -> bool:
    """Return whether /proc shows our own pid namespace: then we have one number in it (proc(5), NSpid)."""
    found = _NSPID.search(Path("/proc/self/status").read_text(errors="replace"))
    return found is None or found[1].split() == [str(os.getpid())]


def _boottime(pid: int | str = "self") -> int:
    """How far a time namespace's boot clock is ahead, in nanoseconds (time_namespaces(7)); start times are by it."""
    with suppress(OSError):
        found = re.search(r"^boottime +(-?\d+) +(\d+)$", Path(f"/proc/{pid}/timens_offsets").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 10**9 + int(found[2])
    return 0


@dataclass(frozen=True)
class Elsewhere:
    """Another place than here."""

    theirs: Machine
    ours: Machine
    differs: tuple[str, ...]
    """The kinds of namespaces that differ from ours."""
    is_gone: bool | None
    """True if it no longer exists, None if that cannot be seen from here."""
    enter: tuple[str, ...]
    """The words before a command that run it there; none if no way is known."""

    def sentence(self, path: Path) -> str:
        """Where the objects of a state file stand."""
        where = " and ".join(_named(kind, self.theirs) for kind in self.differs)
        if self.is_gone:
            return f"the objects in {path} stood in {where}, which no longer exists"
        this = " and ".join(_named(kind, self.ours) for kind in self.differs)
        return f"the objects in {path} stand in {where}; this is {this}"

    def hint(self, line: str, directory: Path) -> str:
        """A command to go on with; `line` is the one that the user has typed."""
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
    """How a place differs from here; None if it does not."""
    if theirs is None or not (differs := theirs.differs(ours := here())):
        return None
    sight = _Sight(theirs, ours)
    is_gone: bool | None = False
    if "network" in differs:
        is_gone = sight.is_netns_gone()
    elif "pid" in differs:  # its processes are gone with it; what stands, stands here
        is_gone = sight.is_pidns_gone()
    return Elsewhere(theirs, ours, differs, is_gone, sight.way(differs) if is_gone is False else ())


class _Sight:
    """What can be seen from here of another place of the same boot."""

    def __init__(self, theirs: Machine, ours: Machine) -> None:
        self._theirs = theirs
        self._ours = ours
        self._is_whole = (
            os.geteuid() == 0
            and ours.began is not None
            and (ours.pidns == _FIRST_PID_NAMESPACE or (theirs.pidns > 0 and "pid" not in theirs.differs(ours)))
        )
        """False where a process might be there that /proc does not show: nobody sees those of the pid namespaces
        around its own. What was made in our own one is entered from there, and so seen."""
        self._hidden: set[int] = set()
        """The tables of threads that may not be looked at, even by root: /proc/PID/net everybody may see."""
        self._others: set[int] = set()
        """The same of threads that are in other network namespaces: each has its own."""

    def is_netns_gone(self) -> bool | None:
        """Return whether no process is in the network namespace, none holds it open, and no handle names it."""
        if next(self._ways_to_netns(), None) is not None:
            return False
        return True if self._is_whole and self._hidden <= self._others else None

    def is_pidns_gone(self) -> bool | None:
        """Return whether the pid namespace has ended: with its first process, all of them have."""
        if next(self._in_pidns(), None) is not None:
            return False
        return True if self._is_whole else None

    def way(self, differs: tuple[str, ...]) -> tuple[str, ...]:
        """What enters the place, as far as it is there."""
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
            self._is_whole &= len(_numbers(pid)) == 1  # it is in our own
            return False
        except OSError:
            return False
        return found == self._theirs.pidns and self._first_is_right(pid)

    def _is_in_time(self, pid: int) -> bool:
        return _boottime(pid) == self._theirs.boottime

    def _ways_to_netns(self) -> Iterator[str]:
        """Paths that lead to the network namespace: handles, threads, what they hold open, mounts elsewhere."""
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
        """Return whether the namespace of a process began when it should have: its inode may be given again."""
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
    """The inode that a path leads to; 0 where it cannot be seen."""
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
    """Where a namespace is mounted in a process's mount namespace (proc(5), mountinfo)."""
    with suppress(OSError):
        for fields in map(str.split, Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()):
            if fields[3] == what:
                yield f"/proc/{pid}/root{fields[4]}"


def _numbers(pid: int) -> list[str]:
    """A process's pids, from /proc's pid namespace to its own."""
    with suppress(OSError):
        found = _NSPID.search(Path(f"/proc/{pid}/status").read_text(errors="replace"))
        return found[1].split() if found else []
    return []


_NSPID = re.compile(r"^NSpid:(.*)$", re.MULTILINE)
