"""Where a packet that did not arrive was lost: what was seen of it, against the points that it should come by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from netwrap.check import Trial
from netwrap.evidence import Counted, Suspect
from netwrap.facts import Facts, Listener
from netwrap.model import State
from netwrap.packet import Packet
from netwrap.shot import Point, Sighting
from netwrap.steps import Step

SENDING, CABLE, BRIDGE, FORWARDING, RECEIVING, BEYOND = (
    "sending",
    "cable",
    "bridge",
    "forwarding",
    "receiving",
    "outside",
)
"""Where a packet can be lost between two points: in who sends it, between the ends of a cable, in a bridge, between two
links of this host, in who gets it, and outside."""


REPAIR = "netwrap repair"
"""What runs the steps again that no longer hold."""


@dataclass(frozen=True)
class Break:
    """The first hop that breaks: what kind of hop, what is so, and the command that mends it where one does."""

    hop: str | None
    broken: str
    fix: str | None = None


@dataclass(frozen=True)
class Way:
    """What the kernel says where it would send a packet: by which link, to which machine; or why not."""

    dev: str = ""
    via: str = ""
    kind: str = ""
    error: str = ""


@dataclass(frozen=True)
class Clues:
    """What explains a loss, asked after it; most of it by place, as `ip -j` prints it."""

    ways: dict[str, Way] = field(default_factory=dict)
    policy: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    routes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    neighbours: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    links: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    addresses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    listeners: frozenset[Listener] = frozenset()
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    suspects: dict[str, list[Suspect]] = field(default_factory=dict)
    source: str = ""
    """The address that the packet was sent from."""
    marks: dict[str, int] = field(default_factory=dict)
    """The marks that packets get on this host, forward and on their return; what asks for routes asks with them."""
    has_nft: bool = True

    def link(self, place: str, name: str) -> dict[str, Any] | None:
        """A link of a place; None where there is none of that name."""
        return next((row for row in self.links.get(place, ()) if row.get("ifname") == name), None)

    def setting(self, place: str, key: str) -> str:
        """A kernel setting of a place; "" where it was not asked or is not there."""
        return self.settings.get(place, {}).get(key, "")


@dataclass(frozen=True)
class Lost:
    """A step of ours that no longer holds, on the way of a trial."""

    step: Step
    hop: str


@dataclass(frozen=True)
class Case:
    """Everything that is known of a trial that failed."""

    trial: Trial
    shots: int
    """How many packets were lost."""
    seen: Sequence[Sighting]
    errors: frozenset[int]
    answered: bool
    refused: bool
    counted: dict[str, list[Counted]]
    """By place: the rules that have met all of them."""
    sums: dict[str, dict[str, int]]
    """By place: what the kernel has counted of dropped packets."""
    clues: Clues
    lost: Sequence[Lost]
    facts: Facts
    state: State
    arrived: bool = False
    order: str | None = None
    """A rule of ours that does not stand in its place."""
    host_hears: bool | None = None
    """Whether this host gets an answer from there; None where that was not tried."""

    def packets(self, point: Point, *what: str) -> list[Packet]:
        """The packets of the trial's own kind that came by a point."""
        return [s.packet for s in self.seen if s.point == point and s.packet.kind != "arp" and s.packet.what in what]

    def arps(self, point: Point, what: str) -> list[Packet]:
        """The questions or answers of ARP that came by a point."""
        return [s.packet for s in self.seen if s.point == point and s.packet.kind == "arp" and s.packet.what == what]

    def errors_seen(self) -> list[Packet]:
        """What routers said about the packets: ICMP errors, `src` being who says it."""
        return [s.packet for s in self.seen if s.packet.what == "error"]


@dataclass(frozen=True)
class Gap:
    """Between which two points a packet was lost, and where that is."""

    kind: str
    place: str | None
    last: Point | None
    next: Point | None
    going: bool
    arp: str = ""
    """The address that was asked for by ARP, where nothing more than that was sent."""

    def seen(self, trial: Trial) -> str:
        """Up to where it was seen, as a sentence."""
        what = f"the ARP request for {self.arp}" if self.arp else "the packet" if self.going else "the answer"
        if self.last is None and self.next is not None and self.next.place != self.place:
            return f"{what} never comes to {self.next}"
        if self.last is None:
            where = self.place if self.place is not None else trial.target
            return f"{what} does not leave {where or 'this host'}"
        if self.next is None:
            return f"{what} reaches {self.last} and gets no answer" if self.going else f"{what} reaches {self.last}"
        return f"{what} reaches {self.last} but not {self.next}"


def missing(line: str, hop: str) -> Break:
    """A step of ours that no longer holds."""
    return Break(hop, f"missing: {line}", REPAIR)


def locate(case: Case) -> Gap:
    """The place where the trial's packets, or the answers to them, are lost."""
    trial = case.trial
    asked = [bool(case.packets(point, "request")) for point in trial.way]
    if case.refused and trial.goal and case.packets(trial.back[0], "refused"):
        return Gap(RECEIVING, trial.goal, trial.way[-1], None, going=True)
    replied = [bool(case.packets(point, "answer")) for point in trial.back]
    if any(replied):
        return _after(case, trial.back, replied, going=False)
    gap = _after(case, trial.way, asked, going=True)
    if gap.next is None and trial.goal is not None:  # it has arrived: does who got it want to answer?
        asked_for = _arp_gap(case, trial.back[0], trial.back, going=False)
        return asked_for or gap
    return gap


def _after(case: Case, way: tuple[Point, ...], seen: list[bool], *, going: bool) -> Gap:
    trial = case.trial
    at = max((n for n, was_there in enumerate(seen) if was_there), default=-1)
    last = way[at] if at >= 0 else None
    start, goal = (trial.start, trial.goal) if going else (trial.goal, trial.start)
    if at + 1 == len(way):
        return Gap(BEYOND if goal is None else RECEIVING, goal, last, None, going)
    following = way[at + 1]
    if last is None:
        if following.place != start:
            return Gap(BEYOND, start, None, following, going)
        return _arp_gap(case, following, way, going=going) or Gap(SENDING, start, None, following, going)
    if last.place != following.place:
        return Gap(CABLE, following.place, last, following, going)
    if is_forwarded(trial, last, following):
        return _arp_gap(case, following, way, going=going) or Gap(FORWARDING, "", last, following, going)
    return Gap(BRIDGE, "", last, following, going)


def is_forwarded(trial: Trial, last: Point, following: Point) -> bool:
    """Return whether the host's routes and rules lead from one point to the next, and not a bridge."""
    return trial.is_forwarded and {last.link, following.link} == {*trial.passes}


def _arp_gap(case: Case, first: Point, way: tuple[Point, ...], *, going: bool) -> Gap | None:
    """Where ARP fails before a packet can leave by a point; None where it was not asked, or answered."""
    asked = case.arps(first, "request")
    wanted = [a for a in asked if not case.arps(first.turned(), "answer") or not _is_answered(case, first, a.dst)]
    if not wanted or case.packets(first, "request" if going else "answer"):
        return None
    ip, segment = wanted[-1].dst, _segment(case.trial, first, way)
    question = [any(a.dst == ip for a in case.arps(p, "request")) for p in segment]
    at = max(n for n, was_there in enumerate(question) if was_there)
    end = segment[-1]
    if at + 1 < len(segment):
        last, following = segment[at], segment[at + 1]
        kind = CABLE if last.place != following.place else BRIDGE
        return Gap(kind, following.place, last, following, going, ip)
    answers = [any(a.src == ip for a in case.arps(p.turned(), "answer")) for p in reversed(segment)]
    if any(answers):
        at = max(n for n, was_there in enumerate(answers) if was_there)
        back = tuple(p.turned() for p in reversed(segment))
        if at + 1 < len(back):
            kind = CABLE if back[at].place != back[at + 1].place else BRIDGE
            return Gap(kind, back[at + 1].place, back[at], back[at + 1], not going, ip)
    if end.out:
        return Gap(BEYOND, None, end, None, going, ip)
    return Gap(RECEIVING, end.place, end, None, going, ip)


def _is_answered(case: Case, first: Point, ip: str) -> bool:
    return any(a.src == ip for a in case.arps(first.turned(), "answer"))


def _segment(trial: Trial, first: Point, way: tuple[Point, ...]) -> tuple[Point, ...]:
    """The points from one on that frames pass without a router."""
    found = [first]
    for point in way[way.index(first) + 1 :]:
        if is_forwarded(trial, found[-1], point):
            break
        found.append(point)
    return tuple(found)
