"""Handles in /run/netns: others', those that lead elsewhere by now, and what is left of one."""

from __future__ import annotations

import pytest
from test_crash import left_alone
from test_halfway import CONNECT, CREATE, Change, status
from world import World

from netwrap import supervise
from netwrap.desk import Mode
from netwrap.errors import CommandFailed, Interrupted
from netwrap.facts import HUSK, NO_NAMESPACE
from netwrap.plan import ConnectWish


def test_a_namespace_under_our_handles_name_is_known_by_its_cookie(world: World) -> None:
    world.must(CREATE)
    world.prepare("ip netns add lab")
    inode = world.kernel.handles["lab"]
    world.must("connect --netns lab --net testbridge -q")
    world.prepare("ip netns del lab")
    world.prepare("ip netns add lab")
    assert world.kernel.handles["lab"] == inode
    assert world.must("gc") == "lab\n"
    world.must("connect --netns lab --net testbridge -q")


def test_a_handle_that_a_stranger_made_in_the_place_of_runs_stays(world: World) -> None:
    world.must(CREATE)
    world.netwrap("ps")  # puts the state directory into the environment
    supervise._build(Mode(world.directory, quiet=True), ConnectWish("testbridge", name="job"))
    world.prepare("ip netns del job")
    world.prepare("ip netns add other")
    world.prepare("ip netns add job")
    stranger = world.kernel.handles["job"]
    assert world.netwrap("disconnect job").code == 0
    assert world.kernel.handles["job"] == stranger


@pytest.mark.parametrize("batch", ["", " --batch"])
def test_a_handle_that_leads_nowhere_is_named_mended_and_taken_away(batch: str, world: World) -> None:
    before = world.everything()
    world.must(CREATE)
    world.must(CONNECT)
    stands = world.everything()
    world.kernel.handles["bird2"] = HUSK
    assert status(world)["container:bird2"][0] == "drifted"
    assert "ip netns attach bird2 64560" in status(world)["container:bird2"][1]
    saved = world.save()
    world.must(f"repair{batch}")
    assert world.everything() == stands
    for lines in (["disconnect bird2", "network remove testbridge"], ["network remove --force testbridge"]):
        world.load(saved)
        for line in lines:
            world.must(f"{line}{batch}")
        assert world.everything() == before
    world.load(saved)
    del world.kernel.processes[64560]
    assert world.must("gc") == "bird2\n"
    assert "bird2" not in world.kernel.handles


@pytest.mark.parametrize("batch", ["", " --batch"])
def test_something_else_in_a_handles_place_stays_and_stops_nothing(batch: str, world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    world.kernel.handles["bird2"] = NO_NAMESPACE
    assert status(world)["container:bird2"][0] == "drifted"
    result = world.netwrap("repair")
    assert (result.code, result.complaint[0]) == (1, "not repaired: bird2")
    world.must(f"network remove --force testbridge{batch}")
    assert world.kernel.handles["bird2"] == NO_NAMESPACE


@pytest.mark.parametrize("line", ["disconnect bird2", "disconnect bird2 --batch", CONNECT])
@pytest.mark.parametrize("error", [Interrupted("by SIGINT", "netwrap log"), CommandFailed("x", None, "")])
def test_ip_netns_that_is_ended_in_its_middle_leaves_no_file(error: BaseException, line: str, world: World) -> None:
    world.must(CREATE)
    before = world.everything()
    if "disconnect" in line:
        world.must(CONNECT)
    ended = False

    def around(change: Change) -> None:
        nonlocal ended
        if world.kernel.log[-1][:2] == ("ip", "netns") and not ended:
            ended = True
            world.kernel.handles["bird2"] = HUSK
            raise error
        change()

    world.kernel.around = around
    world.netwrap(line)
    assert ended
    world.kernel.around = left_alone
    world.must("gc")
    if world.state().containers:  # it was told what is left
        world.must("disconnect bird2")
    assert world.everything() == before
