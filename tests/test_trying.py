"""`netwrap check` as a whole: what it tries, what counts as working, and what it says of each trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from test_check import WAY, all_trials
from test_check import built as built
from world import World

from netwrap import trying
from netwrap.check import Outside
from netwrap.evidence import Reading
from netwrap.facts import Listener
from netwrap.packet import Packet
from netwrap.shot import Point, Result, Shot, Sighting
from netwrap.verdict import Clues


class Machine:
    """Stands in for namespaces and packets: each shot goes the way of its trial, as far as `stops` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        self.world = world
        self.stops: dict[str, int] = {}
        """How many points of its way a packet to an address passes; all of them where it is not here."""
        self.elsewhere: set[str] = set()
        """Addresses for which somebody else answers."""
        self.lets_through = False
        self.taken_inside = False
        self.listeners = {Listener("tcp", None, 80), Listener("udp", None, 53)}
        self.rounds: list[int] = []
        self.spoilt = 0
        monkeypatch.setattr(trying, "need_root", lambda *_: None)
        monkeypatch.setattr(trying, "_path", lambda name, *_: f"/run/netns/{name}")
        monkeypatch.setattr(trying, "Witness", lambda _: self)
        monkeypatch.setattr(trying, "Round", self.round)

    # What a witness is asked

    def sums(self, _: str) -> dict[str, int]:
        return {"UdpInCsumErrors": self.spoilt}

    def counters(self, place: str) -> Reading:
        return Reading(sums=self.sums(place))

    def clues(self, *_: object) -> Clues:
        return Clues()

    def rows(self, *_: str) -> list[dict[str, Any]]:
        return []

    # What a round does

    def round(self, shots: Sequence[Shot], paths: Mapping[str, str]) -> Machine:
        assert {s.start for s in shots} | {s.goal for s in shots if s.goal is not None} <= set(paths)
        self.rounds.append(len(shots))
        self._shots = list(shots)
        return self

    def run(self, *_: float) -> list[Result]:
        return [self.sent(shot) for shot in self._shots]

    def sent(self, shot: Shot) -> Result:
        trials = all_trials(self.world, Outside(WAY, link="eth0", address="192.168.1.10")).values()
        trial = next(
            t for t in trials if (t.start, t.ip, t.goal) == (shot.start, shot.ip, shot.goal) and
            (t.frame is not None) == (shot.frame is not None) and (t.port is None or t.port.host_port == shot.port)
        )  # fmt: skip
        passes = self.stops.get(shot.ip, len(trial.way))
        if shot.frame is not None and not self.lets_through:
            passes = min(passes, 3)
        if shot.ip in self.elsewhere:
            passes = 0
        packet = Packet(shot.kind, "request", "10.0.0.1", shot.ip, 1)
        seen = [Sighting(point, packet) for point in trial.way[:passes]]
        arrives = passes == len(trial.way)
        if arrives and shot.kind == "udp" and shot.frame is None and not self.taken_inside:
            self.spoilt += 1
        return Result(answered=arrives or shot.ip in self.elsewhere, seen=seen)

    def check(self, words: str = "") -> dict[str, Any]:
        result = self.world.netwrap(f"check {words} --json")
        assert result.out, result.err
        rows = json.loads(result.out)
        wrong = any(r["works"] is False or (r["works"] is None and r["hop"]) for r in rows)
        assert result.code == int(wrong), result
        return {f"{r['from']} to {r['to']} at {r['ip']}{' must not' * (r['how'] == 'isolated')}": r for r in rows}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, built: World) -> Machine:
    """A machine on which everything works."""
    found = Machine(monkeypatch, built)
    monkeypatch.setattr(trying._Check, "_listening", lambda _, __: frozenset(found.listeners))
    return found


def test_what_works_has_no_hop_and_is_tried_once(machine: Machine) -> None:
    found = machine.check()
    assert {r["works"] for r in found.values()} == {True}
    assert {r[key] for r in found.values() for key in ("hop", "broken", "fix")} == {None}
    assert len(machine.rounds) == 1


def test_a_trial_that_fails_is_repeated_alone_and_said_how_far_it_came(machine: Machine) -> None:
    machine.stops["10.0.0.3"] = 2
    found = machine.check()
    failed = {name for name, r in found.items() if not r["works"]}
    assert failed == {"c1 to c2 at 10.0.0.3", "host to c2 at 10.0.0.3"}
    assert all(found[name]["broken"] for name in failed)
    assert machine.rounds[1:] == [trying.AGAIN] * 2


def test_an_answer_from_somebody_else_is_none(machine: Machine) -> None:
    machine.elsewhere.add("10.0.0.3")
    found = machine.check()
    assert found["host to c2 at 10.0.0.3"]["works"] is False
    assert found["host to c1 at 10.0.0.2"]["works"] is True


def test_a_missing_step_is_no_fault_where_packets_pass(machine: Machine) -> None:
    machine.world.kernel.tables.chains["nat", "OUTPUT"].clear()
    assert machine.check()["host to c1 by 8080:80/tcp at 127.0.0.1"]["works"] is True


def test_udp_works_where_the_datagram_came_past_the_containers_rules_and_somebody_listens(machine: Machine) -> None:
    name = "host to c3 by 127.0.0.1:5300:53/udp at 127.0.0.1"
    assert machine.check()[name]["works"] is True
    machine.taken_inside = True
    assert machine.check()[name]["works"] is False
    machine.taken_inside = False
    machine.listeners.clear()
    assert machine.check()[name]["works"] is False


def test_isolation_works_where_nothing_comes_through_and_is_shown_only_where_the_host_got_it(machine: Machine) -> None:
    name = "c1 to c3 at 10.0.1.2 must not"
    machine.lets_through = True
    row = machine.check()[name]
    assert (row["works"], row["hop"]) == (False, "isolation")
    machine.lets_through = False
    machine.stops["10.0.1.2"] = 1
    assert machine.check()[name]["works"] is None


def test_who_has_ended_is_not_tried(machine: Machine) -> None:
    machine.world.prepare("end 64561")
    found = machine.check()
    assert {name for name, r in found.items() if r["hop"] == "process"} == {n for n in found if "c2" in n}


def test_names_limit_it_and_a_wrong_one_is_bad_input(machine: Machine) -> None:
    assert set(machine.check("c3")) == {name for name in machine.check() if "c3" in name}
    result = machine.world.netwrap("check nobody")
    assert (result.code, result.complaint[0]) == (2, "no container or network 'nobody'")


def test_nothing_stands_nothing_is_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, world)
    assert machine.check() == {}


def test_a_point_says_where_it_is() -> None:
    assert str(Point("", "eth0", out=True)) == "eth0 of this host"
    assert str(Point("c1", "eth0", out=False)) == "eth0 of c1"
