"""The state of objects: up, drifted, down or gone; from the facts and the journal's probes."""

from __future__ import annotations

from collections.abc import Iterable

from netwrap.facts import Facts, holds
from netwrap.model import Container, Network
from netwrap.steps import Probe
from netwrap.undo import Entry


def is_gone(container: Container, seen: Facts) -> bool:
    """Return whether a container's process has exited, or its handle is gone; a reused pid does not count as alive."""
    if container.boot_id != seen.boot_id:
        return True
    if container.watched is None:
        return not container.netns.is_same(seen.handle(container.name))
    pid, starttime = container.watched
    found = seen.processes.get(pid)
    if found is None or found.starttime != starttime:
        return True
    if container.pid is None or found.inode == 0:
        return False
    return not container.netns.is_same(seen.namespace(container.name, found.inode))


def container_state(container: Container, is_drifted: bool, seen: Facts) -> str:
    """The STATE of a container or of one of its endpoints: `up`, `drifted`, or `gone` if its process has exited."""
    if is_gone(container, seen):
        return "gone"
    return "drifted" if is_drifted else "up"


def network_state(network: Network, is_drifted: bool, seen: Facts) -> str:
    """The STATE of a network: `up`, `drifted`, or `down` if its bridge is gone."""
    if network.bridge not in seen.host.links:
        return "down"
    return "drifted" if is_drifted else "up"


def is_drifted(entries: Iterable[Entry], seen: Facts) -> bool:
    """Return whether a step no longer holds, or is being undone."""
    entries = list(entries)
    return any(entry.state == "undoing" for entry in entries) or drifted(entries, seen) != []


def drifted(entries: Iterable[Entry], seen: Facts) -> list[Entry]:
    """The entries whose step no longer holds. What cannot be seen counts as holding.

    Kept settings (probe `keep`) do not count: they exist only to be restored by undo.
    """
    standing = (e for e in entries if e.state != "undone" and e.step.probe.kind != "keep")
    return [e for e in standing if holds(e.step.probe, seen) is False and not _has_no_such_setting(e.step.probe, seen)]


def _has_no_such_setting(probe: Probe, seen: Facts) -> bool:
    """Return whether a link exists but a setting of it does not: with an MTU below 1280 bytes it has no IPv6."""
    return probe.kind == "setting on" and probe.key[0] not in seen.sysctls and probe.key[1] in seen.host.links
