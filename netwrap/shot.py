"""What `check` sends, and where it was seen: values that the one who sends and the one who judges share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from netwrap.packet import Packet


@dataclass(frozen=True)
class Point:
    """A side of a link that packets come by: in a container, by its name, or on the host, "" """

    place: str
    link: str
    out: bool

    def turned(self) -> Point:
        """The same link, passed the other way."""
        return replace(self, out=not self.out)

    def __str__(self) -> str:
        return f"{self.link} of {self.place or 'this host'}"


@dataclass(frozen=True)
class Frame:
    """What a packet is put into where it is not the kernel that sends it: a container may send whatever it wants."""

    link: str
    src_mac: str
    dst_mac: str
    src: str


@dataclass(frozen=True)
class Shot:
    """One packet, or one TCP connection, to send: from which place, to where, and in which place it has to arrive."""

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
    """A packet at a point; `for_us` is False where its MAC address is another's."""

    point: Point
    packet: Packet
    for_us: bool = True


@dataclass
class Result:
    """What became of a shot: who saw it where, whether an answer came, and what the kernel said at once."""

    answered: bool = False
    refused: bool = False
    error: int = 0
    seen: list[Sighting] = field(default_factory=list)
