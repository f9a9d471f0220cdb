"""Whatever is built and taken down in whatever order: at the end the machine is as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import World

from netwrap.model import State
from netwrap.undo import foundation

NETS, NAMES, PIDS = ("a", "b.1", "c-network-of-a-long-name"), ("web", "db", "lab"), (64560, 64561, 64562)

nets, names, pids = st.sampled_from(NETS), st.sampled_from(NAMES), st.sampled_from(PIDS)
ports = st.sampled_from(["8080:80", "8080:80/udp", "127.0.0.1:8080:80", "8000-8100:8000-8100", "9000-9001:80-81"])
FIRST = (
    *(f"network create {net}" for net in NETS[:2]),
    "connect --net a --pid 64560 --name web",
    "connect --net b.1 --pid 64560",
    "connect --net b.1 --pid 64561 --name db -p 8443:443",
)
commands = st.one_of(
    st.builds("network create {}{}".format, nets, st.sampled_from(["", " --internal", " --subnet 10.0.0.1/29"])),
    st.builds("connect --net {} --pid {} --name {}".format, nets, pids, names),
    st.builds("connect --net {} --pid {} -p {}".format, nets, pids, ports),
    st.builds("publish web --net {} {}".format, nets, ports),
    st.builds("connect --net {} --netns lab".format, nets),
    st.builds("publish {} {}".format, names, ports),
    st.builds("unpublish {} {}".format, names, ports),
    st.builds("disconnect {}".format, names),
    st.builds("disconnect --pid {} --net {}".format, pids, nets),
    st.builds("network remove {}{}".format, nets, st.sampled_from(["", " --force"])),
    st.builds("undo{}".format, st.sampled_from(["", " 1 --yes", " 3 --yes"])),
    st.builds("network link a {}".format, nets),
    st.builds("network unlink a {}".format, nets),
)


def calls_to_itself(state: State) -> set[str]:
    """What a container needs on several networks: its ports on each are for calls from each other one."""
    return {
        f"self:{p.container}/{p.network}/{e.network}"
        for p in state.publications
        for e in state.endpoints_of(container=p.container)
        if e.network != p.network and not state.network(e.network).internal
    }


@pytest.mark.parametrize("option", ["", " --batch"], ids=["one by one", "batch"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(commands, min_size=3, max_size=14))
def test_any_sequence_of_commands_leaves_nothing_when_all_is_removed(
    option: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name) / "state", monkeypatch)
        world.prepare("ip netns add lab")
        world.prepare("sysctl net.ipv4.conf.eth0.forwarding=1")
        start = world.kernel.snapshot()
        for line in [*FIRST, *lines]:
            before = world.everything()
            result = world.netwrap(line + option)
            assert result.code in (0, 1, 2), result.err
            if result.code:
                assert world.everything() == before, line
            owners = world.state().owners
            assert owners == foundation(owners), f"{line}: something stands upon nothing"
            assert {o for o in owners if o.startswith("self:")} == calls_to_itself(world.state()), line
        world.netwrap(f"network remove --force {' '.join(world.state().networks) or 'none'}{option}")
        assert world.state().owners == frozenset()
        assert world.kernel.snapshot() == start


@pytest.mark.parametrize("option", ["", " --batch"], ids=["one by one", "batch"])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(commands.filter(lambda line: not line.startswith("undo")), min_size=3, max_size=14))
def test_undo_walks_back_through_every_state_and_its_undos_forward_again(
    option: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name) / "state", monkeypatch)
        for line in ("ip netns add lab", "sysctl net.ipv4.conf.eth0.forwarding=1", "install conntrack"):
            world.prepare(line)
        world.prepare("iptables -w -A FORWARD -j ACCEPT")

        def now(log: int) -> object:
            """All that is, and how the first operations of the log are."""
            return world.everything(), [o.state for o in world.operations()[:log]]

        states, titles = [now(0)], list[str]()
        for line in [*FIRST, *lines]:
            if world.netwrap(line + option).code == 0:
                states.append(now(len(states)))
                titles.append(f"undoing {len(titles) + 1}: {world.operations()[-1].title}")
        for state, title in zip(reversed(states[:-1]), reversed(titles), strict=True):
            result = world.netwrap(f"undo{option}")
            assert (result.code, result.err.splitlines()[0]) == (0, title), result.err
            assert now(int(title.split()[1][:-1]) - 1) == state, title
        for number, state in enumerate(states[1:]):
            result = world.netwrap(f"undo {2 * len(titles) - number} --yes{option}")
            assert result.code == 0, result.err
            assert now(number + 1) == state, titles[number]
