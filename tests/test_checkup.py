"""`netwrap check` as a whole: what it tries, how, and what it says of each trial."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from test_check import all_trials
from test_check import built as built
from world import World

from netwrap import checkup
from netwrap.errors import CommandFailed


class Machine:
    """Answers what check asks, apart from the facts: every ping, /proc/net in a container, connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        self.world = world
        self.silent: set[str] = set()
        self.tables = {"tcp": "0100007F:0052 00000000:0000 0A", "udp": "00000000:0035 00000000:0000 07"}
        self.answering = {8080}
        self.called: list[int] = []
        for name, put in (
            ("need_root", lambda *_: None),
            ("require", lambda _: None),
            ("spawn", self.spawn),
            ("_connects", self.connects),
        ):
            monkeypatch.setattr(checkup, name, put)

    def spawn(self, words: tuple[str, ...]) -> str:
        table = words[-1].removeprefix("/proc/net/")
        if "ping" in words and words[-1] not in self.silent:
            return ""
        if "cat" in words and table in self.tables:
            return f"  sl  local_address rem_address   st\n   0: {self.tables[table]} and more\n"
        raise CommandFailed(" ".join(words), 1, "")

    def connects(self, _: str, port: int) -> bool:
        self.called.append(port)
        return port in self.answering

    def check(self) -> dict[str, Any]:
        """What check says, by trial."""
        result = self.world.netwrap("check --json")
        assert result.err == ""
        found = {f"{row['from']} to {row['to']}": row for row in json.loads(result.out)}
        assert list(found) == list(all_trials(self.world))
        assert result.code == (0 if all(row["works"] for row in found.values()) else 1)
        return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, built: World) -> Machine:
    """A machine on which everything works."""
    found = Machine(monkeypatch, built)
    found.tables["tcp"] = "00000000:0050 00000000:0000 0A"
    return found


def test_what_works_has_no_hop(machine: Machine) -> None:
    found = machine.check()
    assert all(row["works"] and row["hop"] is row["broken"] is row["mend"] is None for row in found.values())


def test_a_port_whose_rule_for_other_machines_is_gone_does_not_work(machine: Machine) -> None:
    (rule, *_) = machine.world.kernel.tables.chains["nat", "PREROUTING"]
    machine.world.prepare(f"iptables -w -t nat -D PREROUTING {' '.join(rule)}")
    row = machine.check()["host to c1 by 8080:80/tcp"]
    assert (row["works"], row["hop"], row["how"]) == (False, "rule", "tcp")
    assert row["mend"].startswith("iptables -w -t nat -A PREROUTING ")


def test_a_container_that_answers_works_though_its_handle_is_gone(machine: Machine) -> None:
    machine.world.prepare("ip netns del c2")
    assert machine.check()["host to c2"]["works"]
    machine.silent.add("10.0.0.3")
    assert machine.check()["host to c2"]["hop"] == "handle"


def test_a_namespace_that_outlives_its_process_does_not_count_as_working(machine: Machine) -> None:
    machine.world.prepare("end 64561")
    row = machine.check()["c1 to c2"]
    assert (row["works"], row["hop"]) == (False, "process")


@pytest.mark.parametrize(
    ("protocol", "name"), [("tcp", "host to c1 by 8080:80/tcp"), ("udp", "host to c3 by 127.0.0.1:5300:53/udp")]
)
def test_a_service_on_the_containers_loopback_is_nothing_that_listens(
    protocol: str, name: str, machine: Machine
) -> None:
    machine.tables[protocol] = machine.tables[protocol].replace("00000000:00", "0100007F:00", 1)
    machine.answering.clear()
    row = machine.check()[name]
    assert (row["works"], row["hop"]) == (False, "service")


def test_of_a_range_the_first_port_that_is_listened_on_is_called(machine: Machine) -> None:
    machine.world.must("publish c2 9000-9002:90-92 --quiet")
    machine.tables["tcp6"] = f"{'0' * 32}:005B {'0' * 32}:0000 0A"  # [::]:91
    machine.answering.add(9001)
    assert machine.check()["host to c2 by 9000-9002:90-92/tcp"]["works"]
    assert 9001 in machine.called
    assert 9000 not in machine.called


def test_sctp_works_where_its_rules_stand(machine: Machine) -> None:
    name = "host to c2 by 7000:70/sctp"
    machine.world.must("publish c2 7000:70/sctp --quiet")
    row = machine.check()[name]
    assert (row["works"], row["how"]) == (True, "sctp rules")
    rule = machine.world.kernel.tables.chains["nat", "OUTPUT"][-1]
    machine.world.prepare(f"iptables -w -t nat -D OUTPUT {' '.join(rule)}")
    row = machine.check()[name]
    assert (row["works"], row["hop"], row["how"]) == (False, "rule", "sctp rules")


def test_trials_wait_side_by_side(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(5)  # each container's way outside, c1 and the host to c2

    def spawn(words: tuple[str, ...]) -> str:
        if words[-1] in ("192.168.1.1", "10.0.0.3"):
            together.wait(timeout=20)
        return machine.spawn(words)

    monkeypatch.setattr(checkup, "spawn", spawn)
    assert all(row["works"] for row in machine.check().values())
