"""What the planners share."""

from __future__ import annotations

from collections.abc import Iterable

from netwrap.errors import NetwrapError
from netwrap.facts import Facts, holds
from netwrap.model import Network, State
from netwrap.steps import Step, owned


def shared(owner: str, steps: Iterable[Step], seen: Facts, state: State) -> tuple[Step, ...]:
    """The steps of a shared object; where it stands, those that do not hold: a teardown that failed left the rest."""
    return owned(owner, (s for s in steps if owner not in state.owners or holds(s.probe, seen) is False))


def refuse_down(network: Network, seen: Facts) -> None:
    if network.bridge not in seen.host.links:
        raise NetwrapError(
            f"network {network.name!r} is down: its bridge {network.bridge} is gone",
            f"netwrap repair {network.name}",
        )
