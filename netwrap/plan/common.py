"""What the planners share."""

from __future__ import annotations

from collections.abc import Iterable

from netwrap.errors import NetwrapError
from netwrap.facts import Facts, holds
from netwrap.model import Network, State, mac_of
from netwrap.steps import Probe, Step, owned


def shared(owner: str, steps: Iterable[Step], seen: Facts, state: State) -> tuple[Step, ...]:
    """The steps of a shared object; where it stands, those that do not hold: somebody has undone them."""
    steps = tuple(steps)
    if owner in state.owners:
        lost = [s for s in steps if holds(s.probe, seen) is False]
        if any(step.kind == "sysctl" for step in lost):  # what it changes along is held on to each time
            lost = [s for s in steps if s in lost or s.probe.kind == "keep"]
        steps = tuple(lost)
    return owned(owner, steps)


def refuse_down(network: Network, seen: Facts, state: State) -> None:
    """Errors: NetwrapError where a network's bridge is away, or half of the network is."""
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
