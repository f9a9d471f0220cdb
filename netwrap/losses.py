"""What has changed since we created it, on the way of a trial: steps that no longer hold, rules in another order."""

from __future__ import annotations

from collections.abc import Mapping

from netwrap import amiss
from netwrap.check import Trial
from netwrap.facts import Facts, holds
from netwrap.health import is_gone
from netwrap.model import State
from netwrap.undo import Entry
from netwrap.verdict import Break, Lost

HOPS = {
    "netns": "handle",
    "link": "link",
    "up": "link",
    "mtu": "link",
    "master": "bridge port",
    "hairpin": "bridge port",
    "addr": "address",
    "route": "route",
    "ip rule": "route",
    "sysctl": "forwarding",
    "chain": "rule",
    "rule": "rule",
}
"""The hop to which a step belongs, by the kind of its probe; the other kinds (keep, flows) carry no packet."""


def gone(trial: Trial, state: State, seen: Facts) -> Break | None:
    """Find a container that must be alive for a trial but is not."""
    for name in trial.containers:
        if is_gone(state.containers[name], seen):
            return Break("process", f"{name} is gone", f"netwrap disconnect {name}")
    return None


def lost(trial: Trial, entries: Mapping[str, list[Entry]], seen: Facts) -> list[Lost]:
    """Return the steps of the objects on a trial's way that no longer hold, in the order of the way."""
    found = []
    for owner in trial.path:
        for entry in entries.get(owner, ()):
            step = entry.step
            hop = HOPS.get(step.probe.kind)
            if hop is not None and step.probe.key[0] != "lo" and holds(step.probe, seen) is False:
                found.append(Lost(step, hop))
    return found


def disorder(entries: Mapping[str, list[Entry]], seen: Facts) -> str | None:
    """Find a rule of ours that is out of order among our rules; None if all are in order."""
    everything = sorted((e for found in entries.values() for e in found), key=lambda e: e.order)
    return next((step.why for step in amiss.displaced(everything, seen)), None)
