"""What makes a step hold again that somebody has undone."""

from __future__ import annotations

import pytest
from toytables import split
from world import World

from netwrap.facts import holds
from netwrap.mend import again
from netwrap.steps import netns

NETWORK = "network create --subnet 10.0.0.1/24 testbridge --quiet"


def mended(world: World) -> list[str]:
    """Runs what mends each step that does not hold, one after the other; gives the commands."""
    commands = []
    with world.store() as store:
        entries = store.entries(owners=store.state().owners)
    for entry in entries:
        seen = world.kernel.everything()
        if holds(entry.step.probe, seen) is False:
            found = again(entry.step, entries, seen, world.state()).do
            commands.append(found.text())
            world.kernel.run(list(found.line()))
    return commands


def rules(world: World, chain: str, table: str = "filter") -> list[str]:
    return [" ".join(rule) for rule in world.kernel.tables.chains[table, chain]]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_rule_of_our_own_chain_comes_back_in_its_place(number: int, world: World) -> None:
    world.must(NETWORK)
    before = rules(world, "NETWRAP-testbridge")
    world.prepare(f"iptables -w -D NETWRAP-testbridge {before[number - 1]}")
    mended(world)
    assert rules(world, "NETWRAP-testbridge") == before


@pytest.mark.parametrize("gone", [(1, 1), (2, 2), (1, 2), (1, 1, 1)])
def test_several_rules_come_back_in_their_order(gone: tuple[int, ...], world: World) -> None:
    world.must(NETWORK)
    world.must("network create --subnet 10.0.1.1/24 second --quiet")
    world.must("network link testbridge second --quiet")
    for chain in ("NETWRAP-testbridge", "NETWRAP"):
        before = rules(world, chain)
        for number in gone[: len(before)]:
            if number <= len(rules(world, chain)):
                world.prepare(f"iptables -w -D {chain} {rules(world, chain)[number - 1]}")
        assert rules(world, chain) != before
        mended(world)
        assert rules(world, chain) == before


def test_a_chain_that_was_flushed_is_filled_as_it_was_made(world: World) -> None:
    world.must(NETWORK)
    before = rules(world, "NETWRAP-testbridge")
    for rule in before:
        world.prepare(f"iptables -w -D NETWRAP-testbridge {rule}")
    assert all(line.startswith("iptables -w -A NETWRAP-testbridge ") for line in mended(world))
    assert rules(world, "NETWRAP-testbridge") == before


def test_rules_of_others_between_ours_keep_their_place(world: World) -> None:
    world.must(NETWORK)
    one, two, three = rules(world, "NETWRAP-testbridge")
    theirs = "-s 10.9.0.0/16 -j DROP"
    world.prepare(f"iptables -w -I NETWRAP-testbridge {theirs}")
    world.prepare(f"iptables -w -D NETWRAP-testbridge {two}")
    assert mended(world) == [f"iptables -w -I NETWRAP-testbridge 3 {two}"]
    assert rules(world, "NETWRAP-testbridge") == [theirs, one, two, three]


def test_what_is_no_rule_is_made_by_its_own_command(world: World) -> None:
    world.must(NETWORK)
    world.prepare("ip addr del 10.0.0.1/24 dev testbridge")
    assert mended(world) == ["ip addr add 10.0.0.1/24 dev testbridge"]


def test_the_words_of_a_rule_survive(world: World) -> None:
    world.must(NETWORK)
    (way_out,) = rules(world, "POSTROUTING", "nat")
    world.prepare(f"iptables -w -t nat -D POSTROUTING {way_out}")
    (command,) = mended(world)
    assert split(command)[:6] == ["iptables", "-w", "-t", "nat", "-A", "POSTROUTING"]
    assert command.endswith(way_out)


def test_a_handle_of_a_container_that_lives_is_made_for_its_namespace_again(world: World) -> None:
    world.must(NETWORK)
    world.must("connect --pid 64560 --name bird2 --net testbridge --quiet")
    state = world.state()
    made = netns.add(state.containers["bird2"].netns, "why")  # as `netwrap run` makes it
    assert again(made, [], world.kernel.everything(), state).do.text() == "ip netns attach bird2 64560"
