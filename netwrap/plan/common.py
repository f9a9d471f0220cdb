"""What the planners share."""

from __future__ import annotations

from collections.abc import Iterable

from netwrap.errors import NetwrapError
from netwrap.facts import Facts, holds
from netwrap.model import Network, State, mac_of
from netwrap.steps import Probe, Step, owned


def shared(owner: str, steps: Iterable[Step], seen: Facts, state: State) -> tuple[Step, ...]:
    """The steps of a shared object; if it exists already, only those that no longer hold."""
    steps = tuple(steps)
    if owner in state.owners:
        lost = [s for s in steps if holds(s.probe, seen) is False]
        if any(step.kind == "sysctl" for step in lost):  # its side effects are kept off each time
            lost = [s for s in steps if s in lost or s.probe.kind == "keep"]
        steps = tuple(lost)
    return owned(owner, steps)


def refuse_down(network: Network, seen: Facts, state: State) -> None:
    """Raises NetwrapError if a network's bridge is gone, or the network is half removed."""
    if network.owner in state.half_removed:
        raise NetwrapError(
            f"network {network.name!r} is half removed", f"netwrap network remove --force {network.name}"
        )
    bridge = Probe("link", (network.bridge, mac_of("bridge", network.gateway)))
    if holds(bridge, seen) is False:
        raise NetwrapError(
            f"network {network.name!r} is down: its bridge {network.bridge} is gone",
            f"netwrap repair {network.name}",
        )
