"""Looks at the machine: runs the commands in facts.py and reads /proc. Changes nothing."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from netwrap import facts, nft
from netwrap.errors import CommandFailed, NetwrapError
from netwrap.facts import Facts, Space
from netwrap.listeners import SOCKETS, parse_sockets
from netwrap.model import Netns, Process
from netwrap.spawn import spawn
from netwrap.steps import shell_line, sysctl
from netwrap.wayout import WAY_OUT, WayOut, parse_way_out

NETNS_DIR = "/run/netns"
OPTIONAL = ("conntrack",)
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_SO_NETNS_COOKIE = 71
_CONF = Path("/proc/sys/net")
_SETTINGS = {"ipv4": ("forwarding", "route_localnet", "accept_redirects", "rp_filter"), "ipv6": ("disable_ipv6",)}


def look(
    pids: Iterable[int] = (), namespaces: Iterable[Netns] = (), *, ports: bool = False, way_out: bool = False
) -> Facts:
    """Looks at the host, the processes, and into the namespaces: those of the processes and those with a handle.

    `ports`: also looks at what may conflict with a published port, which takes longer: sockets, nftables' chains.
    `way_out`: also asks the kernel how the outside is reached.
    Raises CommandFailed if a command fails or its output cannot be parsed, NetwrapError if one is missing.
    """
    unseen: list[str] = []
    saved = _rules(unseen)
    with _readable(facts.RULES):
        rules, policies = facts.parse_rules(saved or ""), facts.parse_policies(saved or "")
    handles = look_at_handles()
    processes = {p.pid: p for pid in pids if (p := process(pid)) is not None}
    own = own_namespace()
    spaces = {own: _space(())}
    cookies: dict[int, int] = {}
    for pid, found in processes.items():
        cookies[found.inode] = cookie_of(f"/proc/{pid}/ns/net")
        where = _Where(
            ("nsenter", "-t", str(pid), "-n"), f"the network namespace of process {pid}", f"/proc/{pid}/ns/net"
        )
        _look_into(spaces, found.inode, where, unseen)
    for ns in namespaces:
        inode, path = handles.get(ns.name, 0), f"{NETNS_DIR}/{ns.name}"
        cookies[inode] = cookie_of(path)
        where = _Where(("nsenter", f"--net={path}"), f"the network namespace {ns.name!r}", path)
        _look_into(spaces, inode, where, unseen)
    return Facts(
        host=spaces[own],
        inode=own,
        boot_id=boot_id(),
        handles=handles,
        spaces=spaces,
        cookies=cookies,
        rules=rules,
        policies=policies,
        hooks=_hooks() if ports else (),
        sysctls=_sysctls(),
        processes=processes,
        listeners=_listeners() if ports else frozenset(),
        way_out=_way_out(spaces[own]) if way_out else None,
        unseen=tuple(unseen),
        rules_seen=saved is not None,
        tools=frozenset(tool for tool in OPTIONAL if shutil.which(tool)),
    )


def alive(pids: Iterable[int], namespaces: Iterable[Netns]) -> Facts:
    """Only what shows whether processes and namespaces still exist: this is quick."""
    handles = look_at_handles()
    return Facts(
        boot_id=boot_id(),
        handles=handles,
        cookies={handles[ns.name]: cookie_of(f"{NETNS_DIR}/{ns.name}") for ns in namespaces if ns.name in handles},
        processes={p.pid: p for pid in pids if (p := process(pid)) is not None},
    )


def process(pid: int) -> Process | None:
    """One process from /proc, with namespace 0 if that may not be seen; None if there is no such process."""
    base = Path("/proc") / str(pid)
    try:
        line, status = (base / "stat").read_text(errors="replace"), (base / "status").read_text(errors="replace")
    except OSError:
        return None
    if line.rpartition(")")[2].split()[0] in ("Z", "X"):  # it has ended; its parent has not waited for it yet
        return None
    try:
        inode = os.stat(base / "ns" / "net").st_ino
    except OSError:
        inode = 0
    return facts.parse_process(pid, line, status, inode)


def netns_at(name: str) -> Netns | None:
    """The namespace of a handle in /run/netns; None if there is no such handle."""
    path = f"{NETNS_DIR}/{name}"
    return Netns(name, _inode(path), cookie_of(path)) if os.path.lexists(path) else None


def cookie_of(path: str) -> int:
    """The cookie of a namespace; 0 if it cannot be entered, and before Linux 5.14.

    A thread enters it, makes a socket there, asks for the cookie and ends: setns(2) affects only that thread.
    """
    found = [0]

    def ask() -> None:
        with suppress(OSError), open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET) == 0:
                found[0] = own_cookie()

    asking = threading.Thread(target=ask)
    with suppress(RuntimeError, MemoryError):  # no thread can be started: the inode has to be enough
        asking.start()
        asking.join()
    return found[0]


def own_cookie() -> int:
    """The cookie of the current network namespace; 0 before Linux 5.14."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        return int.from_bytes(inside.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
    return 0


def read_sysctl(key: str) -> str | None:
    """The value of a kernel setting, from /proc/sys (proc(5)); None if there is no such setting."""
    path = key if "/" in key else key.replace(".", "/")
    try:
        with open(f"/proc/sys/{path}") as file:
            return file.read().strip()
    except OSError:
        return None


def boot_id() -> str:
    """The kernel's id of this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def own_namespace() -> int:
    """The inode of the current network namespace."""
    return os.stat("/proc/self/ns/net").st_ino


def _space(where: tuple[str, ...]) -> Space:
    words = (*where, *facts.SPACE)
    with _readable(words):
        return facts.parse_space(spawn(words, facts.QUESTIONS))


@contextmanager
def _readable(words: tuple[str, ...]) -> Iterator[None]:
    """Raises CommandFailed if a parser does not understand a command's output."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CommandFailed(shell_line(words), 0, f"its output cannot be read: {error}") from None


@dataclass(frozen=True)
class _Where:
    """A namespace: the prefix that runs a command in it, what it is called, and its path."""

    enter: tuple[str, ...]
    what: str
    path: str


def _look_into(spaces: dict[int, Space], inode: int, where: _Where, unseen: list[str]) -> None:
    """Raises CommandFailed unless the namespace has ended meanwhile: what cannot be seen might be in use by others."""
    if inode in spaces or (inode <= 0 and os.geteuid() == 0):
        return
    if os.geteuid() != 0:
        unseen.append(f"{where.what} cannot be seen without root; treated as if only netwrap had changed it")
        return
    try:
        spaces[inode] = _space(where.enter)
    except CommandFailed:
        with suppress(OSError):
            if os.stat(where.path).st_ino == inode:
                raise


def _way_out(host: Space) -> WayOut | None:
    """How the kernel would send to the outside; None if it has no route: `ip` answers with an error then."""
    try:
        answer = spawn(WAY_OUT)
    except CommandFailed:
        return None
    with _readable(WAY_OUT):
        return parse_way_out(answer, {name: link.mtu for name, link in host.links.items()})


def _rules(unseen: list[str]) -> str | None:
    if os.geteuid() == 0:
        return spawn(facts.RULES)
    unseen.append("firewall rules cannot be seen without root; treated as if no other rules used the same names")
    return None


def _hooks() -> tuple[nft.Hook, ...]:
    """The base chains of nftables; empty if `nft` is not installed, or may not be run."""
    if os.geteuid() != 0 or shutil.which(facts.HOOKS[0]) is None:
        return ()
    try:
        return nft.parse_hooks(spawn(facts.HOOKS))
    except (CommandFailed, ValueError, LookupError, TypeError, AttributeError):
        return ()


def look_at_handles() -> dict[str, int]:
    """The handles in /run/netns: name to inode."""
    try:
        names = os.listdir(NETNS_DIR)
    except OSError:
        return {}
    return {name: _inode(f"{NETNS_DIR}/{name}") for name in names}


def _inode(path: str) -> int:
    """The inode of the network namespace at a path (ioctl_nsfs(2)), or a number for what is there instead."""
    with suppress(OSError):
        found, itself = os.stat(path), os.lstat(path)
        if found.st_dev == os.stat("/proc/self/ns/net").st_dev:
            with open(path) as file:
                if fcntl.ioctl(file, _NS_GET_NSTYPE) == _CLONE_NEWNET:
                    return found.st_ino
        elif stat.S_ISREG(itself.st_mode) and itself.st_size == 0:
            return facts.HUSK
    return facts.NO_NAMESPACE


def _sysctls() -> dict[str, str]:
    found = {}
    for name in os.listdir(_CONF / "ipv4" / "conf"):
        for family, setting in ((family, s) for family, settings in _SETTINGS.items() for s in settings):
            with suppress(OSError):  # there may be no IPv6, and a link may be gone by now
                value = (_CONF / family / "conf" / name / setting).read_text().strip()
                found[sysctl.of_link(name, setting, family)] = value
    return found


def _listeners() -> frozenset[facts.Listener]:
    """Sockets from `ss` or, if that fails, from /proc, which does not show which sockets take only IPv6."""
    with suppress(CommandFailed, NetwrapError, ValueError):
        return frozenset(parse_sockets(spawn(SOCKETS)))
    found: set[facts.Listener] = set()
    for protocol in ("tcp", "udp"):
        for version in ("", "6"):
            try:
                text = Path(f"/proc/net/{protocol}{version}").read_text()
            except OSError:
                continue
            found |= facts.parse_listeners(text, protocol)
    return frozenset(found)
