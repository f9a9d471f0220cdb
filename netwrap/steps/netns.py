"""Steps on namespace handles: `ip netns` (ip-netns(8)). A handle is a bind mount in /run/netns."""

from __future__ import annotations

from netwrap.model import Netns
from netwrap.steps import Cmd, Probe, Step


def attach(ns: Netns, pid: int, why: str) -> Step:
    """Gives a process's network namespace a name; unlike a link to /proc it survives the process."""
    return _handle("netns attach", ("attach", ns.name, str(pid)), ns, why)


def add(ns: Netns, why: str) -> Step:
    """Makes a new network namespace with a name."""
    return _handle("netns add", ("add", ns.name), ns, why)


def clear(ns: Netns, why: str) -> Step:
    """Removes a stale handle, which names no namespace any more, to make room for a new one."""
    return Step("netns clear", Cmd(("ip", "netns", "del", ns.name)), None, Probe("passing", (ns.name, "0")), why)


def _handle(kind: str, words: tuple[str, ...], ns: Netns, why: str) -> Step:
    return Step(
        kind,
        Cmd(("ip", "netns", *words)),
        Cmd(("ip", "netns", "del", ns.name)),
        Probe("netns", (ns.name, str(ns.inode), str(ns.cookie))),
        why,
    )
