"""The verb `check`: tries who reaches whom and, if a trial fails, finds out why."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from netwrap import cabling, cause, check, losses
from netwrap.check import ISOLATED, Outside, Trial
from netwrap.desk import Desk, Mode
from netwrap.errors import BadInput
from netwrap.evidence import grown, risen
from netwrap.facts import Facts, Listener
from netwrap.look import NETNS_DIR
from netwrap.model import State
from netwrap.probe import Round, inside, source_of
from netwrap.session import looking, need_root
from netwrap.shot import Frame, Result, Shot
from netwrap.undo import Entry
from netwrap.verdict import Break, Case
from netwrap.witness import Witness

SECONDS = 2.0
"""How long a trial may take, in seconds."""

NEGATIVE = 0.5
"""How long, in seconds, to wait for packets that must not arrive."""

AT_ONCE = 60
"""How many trials run at a time: failing trials only wait."""

AGAIN = 3
"""How many packets are sent again for a failed trial, one trial at a time, to see what takes them."""

LONG, IDLE = 1.4, 0.3
"""How long, in seconds, such packets are watched: ARP asks once a second; a packet that was seen and gets no further is
lost at once."""

PATIENCE = 60.0
"""How long, in seconds, to search for the causes of failed trials; later failures are reported without a cause."""

LAN = ("neighbour", "internet")
"""Namespace handles of the machines around a sandbox's host."""


def trying(mode: Mode, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run all trials, or only those of these containers and networks; return each as a document.

    Raises NetwrapError without root, BadInput for an unknown name.
    """
    need_root(mode, "trying from inside containers")
    with looking(mode) as desk:
        state = desk.state()
        for name in names:
            if name not in state.containers and name not in state.networks:
                raise BadInput(f"no container or network {name!r}", "netwrap ps; netwrap network list")
        return _Check(desk, state, desk.look_at_all(ports=True, way_out=True)).run(names)


class _Check:
    def __init__(self, desk: Desk, state: State, seen: Facts) -> None:
        self.state, self.seen = state, seen
        self.entries = _by_owner(desk, state)
        self.order = losses.disorder(self.entries, seen)
        self.paths = {"": ""} | {name: p for name in state.containers if (p := _path(name, state, seen))}
        self.outside = self._around()
        self.listeners: dict[str, frozenset[Listener]] = {}
        self.witness = Witness(self.paths)
        self.heard: dict[str, bool] = {}

    def _around(self) -> Outside:
        way = check.next_hop(self.seen)
        ours = {n.bridge for n in self.state.networks.values()} | {"lo"}
        local = [(dev, c.split("/")[0]) for dev, c in sorted(self.seen.host.addrs) if dev not in ours and ":" not in c]
        called_from = source_of("", way.ip) if way.ip else None
        local.sort(key=lambda found: (found[0] != way.link, found[1] != called_from))
        if not local:
            return Outside(way)
        (link, address), *_ = local
        if os.environ.get("NETWRAP_SANDBOX") != "1":
            return Outside(way, link=link, address=address)
        around = LAN if way.link else LAN[:1]
        handles = [name for name in around if self.seen.handles.get(name, 0) > 0 and name not in self.state.containers]
        self.paths |= {name: f"{NETNS_DIR}/{name}" for name in handles}
        lan = [(name, source_of(self.paths[name], address) or "") for name in handles]
        internet = _address("internet", self.paths) if "internet" in handles else ""
        return Outside(way, tuple(lan), link, address, internet, self._lan_frame(lan, link))

    def _lan_frame(self, lan: Sequence[tuple[str, str]], link: str) -> Frame | None:
        host = self.seen.host.links.get(link)
        if not lan or host is None or not lan[0][1]:
            return None
        name, ip = lan[0]
        for row in Witness(self.paths).rows(name, "ip", "-4", "-j", "addr", "show"):
            if any(a.get("local") == ip for a in row.get("addr_info", ())):
                mac = next(
                    (
                        r["address"]
                        for r in Witness(self.paths).rows(name, "ip", "-j", "link", "show")
                        if r.get("ifname") == row["ifname"]
                    ),
                    "",
                )
                return Frame(row["ifname"], mac, host.mac, ip) if mac else None
        return None

    def run(self, names: Sequence[str]) -> list[dict[str, Any]]:
        found = check.wanted(check.trials(self.state, self.outside, self.seen), names)
        rows: dict[int, tuple[bool | None, Break | None]] = {}
        todo = []
        for n, trial in enumerate(found):
            early = self._early(trial)
            if early is None:
                todo.append(n)
            else:
                rows[n] = early
        failed = []
        for start in range(0, len(todo), AT_ONCE):
            some = todo[start : start + AT_ONCE]
            for n, works in zip(some, self._tried([found[n] for n in some]), strict=True):
                rows[n] = (works, None)
                if works is False:
                    failed.append(n)
        until = time.monotonic() + PATIENCE
        for n in failed:
            rows[n] = self._why(found[n], late=time.monotonic() > until)
        return [_document(trial, *rows[n]) for n, trial in enumerate(found)]

    def _early(self, trial: Trial) -> tuple[bool | None, Break | None] | None:
        """Return what is known of a trial without a packet: a container has ended, or there is nothing to try."""
        if dead := losses.gone(trial, self.state, self.seen):
            return False, dead
        if closed := next((p for p in (trial.start, trial.goal) if p is not None and p not in self.paths), None):
            return None, Break(None, f"the namespace of {closed} cannot be entered")
        if trial.vain and self.outside.way.down and not trial.port:
            down = self.outside.way.down
            return False, Break("link", f"{down} is down, and {trial.vain}", f"ip link set dev {down.split()[0]} up")
        return (None, Break(None, trial.vain)) if trial.vain else None

    def _shots(self, trial: Trial) -> list[Shot]:
        return check.shots(trial, self._listening(trial.goal))

    def _listening(self, place: str | None) -> frozenset[Listener]:
        if not place or place not in self.paths:
            return frozenset()
        if place not in self.listeners:
            self.listeners[place] = self.witness.listeners(place)
        return self.listeners[place]

    def _tried(self, some: Sequence[Trial]) -> list[bool | None]:
        """Run some trials at a time; return True, False, or None if nothing was shown."""
        shots = [(n, shot) for n, trial in enumerate(some) for shot in [*self._shots(trial), *self._big(trial)]]
        places = {p for trial in some for p in (trial.start, trial.goal) if p is not None} | {""}
        before = {p: self.witness.sums(p) for p in places if p}
        waits = NEGATIVE if any(t.how == ISOLATED for t in some) else 0
        results = Round([shot for _, shot in shots], {p: self.paths[p] for p in places}).run(SECONDS, waits)
        found: list[bool | None] = []
        for n, trial in enumerate(some):
            mine = [result for (m, _), result in zip(shots, results, strict=True) if m == n]
            found.append(self._works(trial, mine, before))
        return found

    def _big(self, trial: Trial) -> list[Shot]:
        """Return a ping as big as the MTU of its first link: if that ping is lost, big packets hang."""
        if trial.how != "ping" or trial.goal is None or not trial.way:
            return []
        point = next((p for p in trial.way if p.place == trial.start), None)
        space = self.seen.host if not trial.start else self.seen.spaces.get(self.state.containers[trial.start].inode)
        link = space.links.get(point.link) if space and point else None
        return check.shots(trial, (), size=link.mtu - 20) if link and 1000 < link.mtu <= 9216 else []

    def _works(self, trial: Trial, results: list[Result], before: dict[str, dict[str, int]]) -> bool | None:
        if trial.how == ISOLATED:
            if any(_arrived(trial, result) for result in results):
                return False
            return True if trial.frame is None or any(_reached_host(result) for result in results) else None
        if not all(r.answered and _arrived(trial, r) for r in results):
            return False
        if trial.how == "udp" and trial.goal:
            if not check.heard(trial, self._listening(trial.goal)):
                return False
            now = self.witness.sums(trial.goal)
            return now.get(_SPOILT, 0) > before.get(trial.goal, {}).get(_SPOILT, 0)
        return True

    def _why(self, trial: Trial, *, late: bool) -> tuple[bool | None, Break | None]:
        """Send packets again for one trial, and watch what happens to them."""
        if late:
            hint = f"netwrap check {(trial.containers or trial.networks or ('',))[0]}".rstrip()
            return False, Break("unknown", "not looked into, as too much fails", hint)
        places = {p for p in (trial.start, trial.goal) if p is not None} | {""}
        paths = {p: self.paths[p] for p in places}
        before = {p: self.witness.counters(p) for p in places}
        sent = [replace(shot, once=True) for shot in self._shots(trial)] * AGAIN
        results = Round(sent, paths).run(LONG, NEGATIVE if trial.how == ISOLATED else 0, IDLE)
        ports = sorted({shot.port for shot, r in zip(sent, results, strict=True) if not r.answered})
        one = ports[0] if trial.how != ISOLATED and 0 < len(ports) < len({shot.port for shot in sent}) else None
        if one is not None:  # some ports of a range work
            sent, results = map(
                list, zip(*((s, r) for s, r in zip(sent, results, strict=True) if s.port == one), strict=True)
            )
        after = {p: self.witness.counters(p) for p in places}
        seen = [s for result in results for s in result.seen]
        arrived = any(_arrived(trial, result) for result in results)
        failed = AGAIN if trial.how == ISOLATED else max(1, sum(not r.answered for r in results))
        from_ip = next(
            (
                s.packet.src
                for s in seen
                if s.point.place == trial.goal and s.packet.what == "request" and s.packet.kind != "arp"
            ),
            "",
        )
        counted = {p: grown(before[p], after[p], p, failed) for p in places}
        case = Case(
            trial,
            failed,
            seen,
            frozenset(r.error for r in results if r.error),
            any(r.answered for r in results),
            any(r.refused for r in results),
            counted,
            {p: risen(before[p], after[p]) for p in places},
            self.witness.clues(trial, from_ip, counted[""]),
            losses.lost(trial, self.entries, self.seen),
            self.seen,
            self.state,
            arrived,
            self.order,
            self._host_hears(trial) if trial.goal is None and trial.how != ISOLATED else None,
        )
        if trial.how == ISOLATED:
            return (False, cause.lets_through(case)) if arrived else (True, None)
        for _ in range(2):  # ARP asks three times, once a second, and again for the next packet
            if self._is_waiting(case):
                again = Round(sent, paths).run(LONG)
                case = replace(case, seen=[*case.seen, *(s for result in again for s in result.seen)])
        if self._works(trial, results, {p: reading.sums for p, reading in before.items()}):
            big = self._big(trial)
            return self._why_big(trial, big, case) if big else (True, None)
        found = cause.explain(case)
        if one is not None:
            found = replace(found, broken=f"port {one}: {found.broken}")
        return None if found.hop is None else False, found

    def _host_hears(self, trial: Trial) -> bool:
        """Return whether this host gets an answer from a machine outside."""
        if trial.ip not in self.heard:
            sent = [Shot("icmp", "", trial.ip, None, once=True)] * AGAIN
            self.heard[trial.ip] = any(r.answered for r in Round(sent, {"": ""}).run(LONG))
        return self.heard[trial.ip]

    def _is_waiting(self, case: Case) -> bool:
        """Return whether packets wait for an ARP answer although no ARP request was seen."""
        asked = {s.packet.dst for s in case.seen if s.packet.kind == "arp"}
        rows = [row for found in case.clues.neighbours.values() for row in found]
        return any(row.get("state") in (["INCOMPLETE"], ["FAILED"]) and row.get("dst") not in asked for row in rows)

    def _why_big(self, trial: Trial, big: list[Shot], case: Case) -> tuple[bool | None, Break | None]:
        (result,) = Round(
            [replace(shot, once=True) for shot in big], {p: self.paths[p] for p in {trial.start, trial.goal or "", ""}}
        ).run(SECONDS)
        if result.answered or result.error or any(s.packet.what == "error" for s in result.seen):
            return True, None  # the sender is told the size that does pass
        return False, cabling.too_big(replace(case, seen=result.seen), big[0].size + 20)


_SPOILT = "UdpInCsumErrors"
"""Counts the datagrams with a wrong checksum that have passed all rules."""


def _arrived(trial: Trial, result: Result) -> bool:
    """Return whether a trial's packet has arrived at the place where it must, or must not, arrive."""
    asked = [s for s in result.seen if s.packet.what == "request" and s.packet.kind != "arp"]
    if trial.goal is None:
        return any(s.point.out and not s.point.place and s.point.link == trial.way[-1].link for s in asked) or (
            trial.how != ISOLATED
            and any(s.point.out and not s.point.place and s.point not in trial.back for s in asked)
        )
    goal = trial.way[-1]
    return any(s.for_us and s.point == goal for s in asked)


def _reached_host(result: Result) -> bool:
    return any(not s.point.place and not s.point.out and s.packet.what == "request" for s in result.seen)


def _by_owner(desk: Desk, state: State) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in desk.store.entries(owners=state.owners):
        found.setdefault(entry.step.owner, []).append(entry)
    return found


def _path(name: str, state: State, seen: Facts) -> str | None:
    """Return the path of a container's namespace: its handle, else that of its process; None without either."""
    container = state.containers[name]
    ways = [f"{NETNS_DIR}/{name}"] if seen.handles.get(name) == container.inode else []
    ways += [f"/proc/{container.watched[0]}/ns/net"] if container.watched else []
    for path in ways:
        with suppress(OSError):
            if os.stat(path).st_ino == container.inode:
                with inside(path):
                    return path
    return None


def _address(name: str, paths: dict[str, str]) -> str:
    for row in Witness(paths).rows(name, "ip", "-4", "-j", "addr", "show"):
        for a in row.get("addr_info", ()):
            if row.get("ifname") != "lo":
                return str(a.get("local", ""))
    return ""


def _document(trial: Trial, works: bool | None, found: Break | None) -> dict[str, Any]:
    head = {"from": trial.source, "to": trial.target, "ip": trial.ip, "how": trial.how, "works": works}
    why = (found.hop, found.broken, found.fix) if found is not None else (None, None, None)
    return head | dict(zip(("hop", "broken", "fix"), why, strict=True))


def is_wrong(rows: Iterable[dict[str, Any]]) -> bool:
    """Return whether any trial has gone wrong."""
    return any(row["works"] is False or (row["works"] is None and row["hop"]) for row in rows)
