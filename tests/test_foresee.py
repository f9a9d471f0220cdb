"""The facts as commands will leave them are what a look finds after they were run."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from toytables import split
from world import World

from netwrap.facts import Facts, Link, Route, Space
from netwrap.foresee import after
from netwrap.model import Netns
from netwrap.steps import Cmd, Probe, Step, addr, link, route
from netwrap.undo import take_back


def told(seen: Facts) -> tuple[object, ...]:
    """What is foreseen: links, addresses and routes of the host, handles, rules, settings that are still there."""
    return (seen.host.links, seen.host.addrs, set(seen.host.routes), seen.handles, seen.rules)


def test_a_teardown_is_foreseen_as_it_comes(world: World) -> None:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("connect --pid 64560 --name bird2 --net testbridge -p 8080:80 --quiet")
    with world.store() as store:
        entries = store.entries(owners=store.state().owners)
    seen = world.kernel.everything()
    plan = take_back("t", entries, seen)
    foreseen = after(seen, plan.steps)
    for step in plan.steps:
        world.kernel.do(step.do)
    now = world.kernel.everything()
    assert told(foreseen) == told(now)
    kept = {key: value for key, value in foreseen.sysctls.items() if key in now.sysctls}
    assert kept["net.ipv4.conf.all.forwarding"] == "0"


@pytest.mark.parametrize(
    "line",
    [
        "ip link set dev veth5b5fc03 down",
        "iptables -w -I NETWRAP-testbridge 2 -s 10.9.0.0/16 -j DROP",
        "iptables -w -A FORWARD -j NETWRAP",
        "iptables -w -t nat -D OUTPUT -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -m comment "
        "--comment netwrap:bird2/testbridge -j DNAT --to-destination 10.0.0.2:80",
    ],
)
def test_one_command_is_foreseen_as_it_comes(line: str, world: World) -> None:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("connect --pid 64560 --name bird2 --net testbridge -p 8080:80 --quiet")
    seen = world.kernel.everything()
    step = _step(line)
    foreseen = after(seen, [step])
    world.prepare(line)
    assert told(foreseen) == told(world.kernel.everything())


def _step(line: str) -> Step:
    return Step("any", Cmd(tuple(split(line))), None, Probe("flows", ()), "why")


def test_a_dry_run_plans_upon_what_it_would_clear_away(world: World) -> None:
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.must("connect --pid 64560 --name web --net testbridge -p 8080:80 --quiet")
    world.prepare("end 64560")
    line = "connect --pid 64561 --name web --net testbridge -p 8080:80"
    rows = json.loads(world.netwrap(f"{line} --dry-run --json").out)
    said = world.netwrap(line).err.splitlines()
    shown = [command.removeprefix("+ ") for command in said if command.startswith("+ ")]
    assert [row["do"] for row in rows] == [command.replace(f"netns {os.getpid()} ", "netns $$ ") for command in shown]


def test_an_address_a_route_and_a_link_that_goes_back_to_the_host_are_not_in_the_namespace_any_more() -> None:
    ns = Netns("web", 7)
    space = Space(
        {"lo": Link("lo", ""), "eth0": Link("eth0", "0a:6e:0a:00:00:02", "veth")},
        frozenset({("lo", "127.0.0.1/8"), ("eth0", "10.0.0.2/24")}),
        (Route("default", "eth0", "10.0.0.1"), Route("default", "eth1", "10.0.1.1")),
    )
    seen = Facts(handles={"web": 7}, spaces={7: space})
    made = [
        addr.add("lo", "", "127.0.0.1/8", "", ns),
        route.add_default("10.0.0.1", "eth0", "0a:6e:0a:00:00:02", "", ns),
    ]
    back = [replace(step, do=step.undo) for step in made if step.undo is not None]
    found = after(seen, back).spaces[7]
    assert found.addrs == {("eth0", "10.0.0.2/24")}
    assert found.routes == (Route("default", "eth1", "10.0.1.1"),)
    move = link.move("peer", "0a:6e:0a:00:00:02", ns, "eth0", "")
    assert move.undo is not None
    found = after(seen, [replace(move, do=move.undo)]).spaces[7]
    assert set(found.links) == {"lo"}
    assert found.addrs == {("lo", "127.0.0.1/8")}
