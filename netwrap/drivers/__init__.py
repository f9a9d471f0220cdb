"""The registry of drivers: the entry-point group `netwrap.drivers`. A driver names the steps that a request needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from netwrap.errors import BadInput, quoted
from netwrap.facts import Facts
from netwrap.model import Container, Endpoint, Network, PublishedPort
from netwrap.steps import Step

GROUP = "netwrap.drivers"


class Driver(Protocol):
    """What a kind of network is made of. The methods only return steps; none of them runs anything."""

    def host(self, seen: Facts) -> Iterable[Step]:
        """What the host needs as long as any network stands."""

    def create(self, network: Network, seen: Facts) -> Iterable[Step]:
        """The network's links and addresses."""

    def forward(self, network: Network, seen: Facts) -> Iterable[Step]:
        """What lets traffic in and out of it; the steps of `host` have been done before."""

    def link(self, one: Network, other: Network, seen: Facts) -> Iterable[Step]:
        """What lets the containers of two networks reach each other."""

    def connect(self, network: Network, endpoint: Endpoint, container: Container, seen: Facts) -> Iterable[Step]:
        """What connects a container to the network; the container's handle exists already."""

    def replies(self, network: Network, endpoint: Endpoint, container: Container) -> Iterable[Step]:
        """What makes a container on several networks reply through the network that the request came from."""

    def publishing(self, network: Network, seen: Facts) -> Iterable[Step]:
        """What the network needs as long as any of its ports is published."""

    def hairpin(self, endpoint: Endpoint) -> Iterable[Step]:
        """What the endpoint needs as long as any of its ports is published."""

    def to_itself(self, called: Endpoint, calling: Endpoint) -> Iterable[Step]:
        """What lets a container reach, through one of its networks, a port that it publishes on another."""

    def publish(self, endpoint: Endpoint, port: PublishedPort, seen: Facts) -> Iterable[Step]:
        """What forwards one port of the host, or one range, to the container."""


def names() -> list[str]:
    """The names of the drivers that are installed."""
    from importlib.metadata import entry_points  # 10 ms of start-up, for commands that need a driver alone

    return sorted(entry.name for entry in entry_points(group=GROUP))


def load(name: str) -> Driver:
    """Loads the driver of that name. Raises BadInput if there is none."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        driver: Driver = entry.load()()
        return driver
    raise BadInput(
        f"no driver {quoted(name)}; available: {', '.join(names())}", "netwrap network create --driver bridge NAME"
    )
