"""What `check` sends, and where it was seen: values shared by the code that sends and the code that judges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from netwrap.packet import Packet


@dataclass(frozen=True)
class Point:
    """A side of a link that packets pass: in a container, given by its name, or on the host, "" """

    place: str
    link: str
    out: bool

    def turned(self) -> Point:
        """Return the same link, passed in the other direction."""
        return replace(self, out=not self.out)

    def __str__(self) -> str:
        return f"{self.link} of {self.place or 'this host'}"


@dataclass(frozen=True)
class Frame:
    """The headers of a packet that we build instead of the kernel: a container may send whatever it wants."""

    link: str
    src_mac: str
    dst_mac: str
    src: str


@dataclass(frozen=True)
class Shot:
    """One packet or TCP connection to send: from which place, to which address, and in which place it must arrive."""

    kind: str
    start: str
    ip: str
    goal: str | None
    port: int = 0
    size: int = 64
    spoilt: bool = True
    """A datagram with a wrong checksum, which no program gets."""
    frame: Frame | None = None
    once: bool = False


@dataclass(frozen=True)
class Sighting:
    """A packet at a point; `for_us` is False if its MAC address belongs to another machine."""

    point: Point
    packet: Packet
    for_us: bool = True


@dataclass
class Result:
    """The result of a shot: where it was seen, whether an answer came, and the error that the kernel gave at once."""

    answered: bool = False
    refused: bool = False
    error: int = 0
    seen: list[Sighting] = field(default_factory=list)
