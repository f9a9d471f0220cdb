"""The registry of drivers: the entry-point group `netwrap.drivers`. A driver says which steps a wish takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from netwrap.errors import BadInput, quoted
from netwrap.facts import Facts
from netwrap.model import Container, Endpoint, Network, PublishedPort
from netwrap.steps import Step

GROUP = "netwrap.drivers"


class Driver(Protocol):
    """What a kind of network is made of. Every method only says steps; none runs anything."""

    def host(self, seen: Facts) -> Iterable[Step]:
        """What the host needs as long as any network stands."""

    def create(self, network: Network, seen: Facts) -> Iterable[Step]:
        """The network's links and addresses."""

    def forward(self, network: Network, seen: Facts) -> Iterable[Step]:
        """What lets traffic in and out of it; the host's part stands by then."""

    def link(self, one: Network, other: Network, seen: Facts) -> Iterable[Step]:
        """What lets the containers of two networks reach each other."""

    def connect(self, network: Network, endpoint: Endpoint, container: Container, seen: Facts) -> Iterable[Step]:
        """One container's way onto the network; its handle is there already."""

    def replies(self, network: Network, endpoint: Endpoint, container: Container) -> Iterable[Step]:
        """What makes a container on several networks answer by the one that it was called on."""

    def publishing(self, network: Network, seen: Facts) -> Iterable[Step]:
        """What the network needs as long as any of its ports is published."""

    def hairpin(self, endpoint: Endpoint) -> Iterable[Step]:
        """What the endpoint needs as long as any of its ports is published."""

    def to_itself(self, called: Endpoint, calling: Endpoint) -> Iterable[Step]:
        """What lets a container call, by one of its networks, a port that it publishes on another."""

    def publish(self, endpoint: Endpoint, port: PublishedPort, seen: Facts) -> Iterable[Step]:
        """One port, or one range, that leads from the host to the container."""


def names() -> list[str]:
    """The names of the drivers that are installed."""
    from importlib.metadata import entry_points  # 10 ms of start-up, for commands that need a driver alone

    return sorted(entry.name for entry in entry_points(group=GROUP))


def load(name: str) -> Driver:
    """Loads the driver of that name. Errors: BadInput where there is none."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        driver: Driver = entry.load()()
        return driver
    raise BadInput(
        f"no driver {quoted(name)}; there is: {', '.join(names())}", "netwrap network create --driver bridge NAME"
    )
