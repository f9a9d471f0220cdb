"""Random sequences of commands, kills and strangers: in the end nothing of ours is left, and nothing else is gone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_crash import at
from test_sequences import FIRST, commands
from world import Killed, World

from netwrap.model import LINK_GROUP

PIDS = (64560, 64561, 64562)

strangers = st.one_of(
    st.tuples(st.just("flush"), st.sampled_from(["filter", "nat", "raw", "mangle"])),
    st.tuples(st.sampled_from(["delete", "rename", "down"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["unhandle", "end"]), st.integers(0, 2)),
    st.tuples(st.just("forwarding"), st.just(0)),
)
events = st.one_of(commands, st.tuples(st.just("kill"), commands, st.integers(1, 40)), strangers)


def meddle(world: World, what: str, which: Any) -> None:
    """Somebody takes something away, or renames it, if it is there."""
    kernel = world.kernel
    ours = sorted(name for name, link in kernel.host.links.items() if link.group == str(LINK_GROUP))
    match what:
        case "flush":
            kernel.tables.flush(which)
        case "forwarding":
            world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
        case "delete" if which < len(ours):
            world.prepare(f"ip link del dev {ours[which]}")
        case "down" if which < len(ours):
            world.prepare(f"ip link set dev {ours[which]} down")
        case "rename" if which < len(ours) and f"x{which}" not in kernel.host.links:
            world.prepare(f"ip link set dev {ours[which]} down")
            world.prepare(f"ip link set dev {ours[which]} name x{which}")
        case "unhandle":
            names = sorted(set(kernel.handles) - {"lab"})
            if which < len(names):
                world.prepare(f"ip netns del {names[which]}")
        case "end" if PIDS[which] in kernel.processes:
            world.prepare(f"end {PIDS[which]}")


def run(world: World, event: Any, option: str) -> None:
    """One event; a command that is killed is followed by one that recovers."""
    match event:
        case ("kill", line, k):
            world.kernel.around = at(k, Killed(), after=bool(k % 2))
            try:
                world.netwrap(line + option)
            except Killed:
                pass
            finally:
                world.kernel.around = lambda change: change()
            assert world.netwrap("gc").code in (0, 3)
        case (what, which):
            meddle(world, what, which)
        case line:
            result = world.netwrap(line + option)
            assert result.code in (0, 1, 2), result.err


@pytest.mark.parametrize("option", ["", " --batch"], ids=["one by one", "batch"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=st.lists(events, min_size=3, max_size=12), mends=st.booleans())
def test_whatever_happens_nothing_of_ours_is_left_and_nothing_else_is_gone(
    option: str, happened: list[Any], mends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name) / "state", monkeypatch)
        world.prepare("ip netns add lab")
        start = world.kernel.snapshot()
        for line in FIRST:
            world.must(line)
        for event in happened:
            run(world, event, option)
        if mends:
            result = world.netwrap(f"repair{option}")
            assert result.code == 0, result.err
            found = world.netwrap("status")
            assert found.code == 0, found.out
        nets = " ".join(world.state().networks)
        world.must("gc")
        if nets:
            world.must(f"network remove --force {nets}{option}")
        assert world.state().owners == frozenset()
        living = {p.inode for p in world.kernel.processes.values()} | set(world.kernel.handles.values())
        start["namespaces"] = {inode: ns for inode, ns in start["namespaces"].items() if inode in living}
        assert world.kernel.snapshot() == start
