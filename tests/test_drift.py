"""Findings about what netwrap made and somebody has changed, and about what is left over."""

from __future__ import annotations

from itertools import combinations

import pytest
from test_doctor import VETH, found, mend, only
from test_doctor import built as built
from test_doctor import forwards as forwards
from toytables import BUILT_IN
from world import World

from netwrap.facts import Link
from netwrap.model import LINK_GROUP


def rules_of(world: World) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    return {place: list(rules) for place, rules in world.kernel.tables.chains.items()}


def all_kinds(world: World) -> None:
    """Networks of each kind with containers, linked, one with a port, on a machine that drops what it forwards."""
    world.prepare("iptables -w -P FORWARD DROP")
    world.prepare("iptables -w -A FORWARD -s 10.9.0.0/16 -j ACCEPT")
    world.must("network create --subnet 10.0.2.1/24 --internal inner --quiet")
    world.must("network link testbridge second --quiet")
    world.must("connect --pid 64561 --name other --net second --net inner --quiet")


def test_a_step_that_no_longer_holds_is_drifted_and_made_again(built: World) -> None:
    before = rules_of(built)
    (drop,) = (rule for rule in before["filter", "NETWRAP-testbridge"] if rule[-1] == "DROP")
    built.prepare(f"iptables -w -D NETWRAP-testbridge {' '.join(drop)}")
    one = only(found(built))
    assert (one.name, one.wrong) == ("drifted", True)
    assert one.what == f"missing: iptables -w -A NETWRAP-testbridge {' '.join(drop)}"
    assert one.why.startswith("Drops everything else to testbridge")
    mend(one, built)
    assert rules_of(built) == before

    built.prepare("ip addr del 10.0.0.1/24 dev testbridge")
    one = only(found(built))
    assert one.fix == "netwrap repair"


def test_any_two_rules_that_are_away_are_one_finding(built: World) -> None:
    all_kinds(built)
    before = rules_of(built)
    ours = [(place, rule) for place, rules in before.items() for rule in rules if "--comment" in rule]
    assert len(ours) > 20
    for pair in combinations(ours, 2):
        for place, rule in pair:
            built.kernel.tables.chains[place].remove(rule)
        one = only([f for f in found(built) if f.wrong])
        assert one.fix == "netwrap repair"
        assert "2 steps of netwrap's no longer hold" in one.what or one.what.count("missing: ") == 1
        built.kernel.tables.chains = {place: list(rules) for place, rules in before.items()}


def test_a_firewall_that_was_flushed_is_filled_as_it_was(built: World) -> None:
    all_kinds(built)
    built.prepare("iptables -w -D FORWARD -s 10.9.0.0/16 -j ACCEPT")
    before = rules_of(built)
    built.kernel.tables.chains = {(table, chain): [] for table, chains in BUILT_IN.items() for chain in chains}
    one = only(found(built))
    assert "the rule that jumps from FORWARD to netwrap's chain is gone" in one.what
    assert one.what.endswith("more")
    mend(one, built)
    assert rules_of(built) == before


@pytest.mark.parametrize(
    "lines",
    [
        ["ip link set dev testbridge down", "ip link set dev testbridge name br9"],
        [f"ip link set dev {VETH} down", f"ip link set dev {VETH} name foo", "ip link set dev foo up"],
        [
            f"ip link set dev {VETH} down",
            f"ip link set dev {VETH} name foo",
            "ip link set dev foo address 02:00:00:00:00:09",
            "ip link set dev foo up",
        ],
        [
            "ip link set dev testbridge down",
            "ip link set dev testbridge name br9",
            "ip link set dev br9 address 02:00:00:00:00:09",
        ],
        ["iptables -w -E NETWRAP-testbridge THEIRS"],
        ["iptables -w -E NETWRAP NETWRAP-old"],
    ],
    ids=["bridge", "cable", "cable with another MAC", "bridge with another MAC", "chain", "the host's chain"],
)
def test_what_repair_gives_its_name_back_is_no_leftover(lines: list[str], built: World) -> None:
    before = built.kernel.snapshot()
    for line in lines:
        built.prepare(line)
    one = only([f for f in found(built) if f.wrong])
    assert one.fix == "netwrap repair"
    mend(one, built)
    assert built.kernel.snapshot() == before
    assert found(built) == []


def test_what_repair_cannot_mend_is_named_with_its_reason(built: World) -> None:
    built.prepare("ip link del dev testbridge")
    built.prepare("ip link add name testbridge address 02:00:00:00:00:99 type bridge")
    reasons = [f for f in found(built) if "the interface 'testbridge' exists, and it is not netwrap's" in f.what]
    assert only(reasons).fix is None
    assert "ip link show dev testbridge" in only(reasons).why


def test_a_link_that_forwarded_before_and_is_away_is_no_drift(world: World) -> None:
    world.prepare("ip link add name dock0 address 02:00:00:00:00:07 type bridge")
    world.prepare("sysctl net.ipv4.conf.all.forwarding=0")
    world.prepare("sysctl net.ipv4.conf.dock0.forwarding=1")
    world.must("network create --subnet 10.0.0.1/24 testbridge --quiet")
    world.prepare("ip link del dev dock0")
    assert found(world) == []


def test_a_container_whose_process_has_ended_is_left_over(built: World) -> None:
    built.kernel.end_process(64560)
    one = only(found(built))
    assert (one.name, one.fix) == ("leftover", "netwrap disconnect bird2")
    built.prepare("ip netns del bird2")  # and its link with it
    assert found(built) == [one]


def test_what_bears_our_mark_and_is_in_no_journal_is_left_over(built: World) -> None:
    built.prepare(f"ip link add name lost address 02:00:00:00:00:07 group {LINK_GROUP} type bridge")
    built.prepare("iptables -w -t nat -A OUTPUT -p tcp -m tcp --dport 9 -m comment --comment netwrap:x/y -j ACCEPT")
    built.prepare("iptables -w -A FORWARD -i lost -j ACCEPT")
    assert [f.fix for f in found(built)] == [
        "ip link del dev lost",
        "iptables -w -t nat -D OUTPUT -p tcp -m tcp --dport 9 -m comment --comment netwrap:x/y -j ACCEPT",
    ]


def test_networks_that_no_state_knows_can_be_made_again_once_all_is_mended(built: World) -> None:
    all_kinds(built)
    built.prepare("iptables -w -I NETWRAP-second -s 10.9.0.0/16 -j DROP")
    built.prepare("iptables -w -N THEIRS")
    built.prepare("iptables -w -A THEIRS -j NETWRAP-second")
    (built.directory / "netwrap.db").unlink()
    wrong = [f for f in found(built) if f.wrong]
    assert {f.name for f in wrong} == {"leftover"}
    for finding in wrong:
        mend(finding, built)
    assert [f for f in found(built) if f.wrong] == []
    assert [chain for _, chain in rules_of(built) if chain.startswith("NETWRAP")] == []
    built.must("network create --subnet 10.0.0.1/24 testbridge --quiet")


def test_a_chain_that_the_state_knows_is_not_left_over(built: World) -> None:
    built.prepare("iptables -w -t nat -N NETWRAP-testbridge")
    built.prepare("iptables -w -N NETWRAPPER")
    assert only(found(built)).fix == "iptables -w -t nat -X NETWRAP-testbridge"


def test_a_second_rule_like_one_of_ours_counts_once(built: World) -> None:
    assert not [f for f in found(built) if f.name == "leftover"]


def test_a_link_that_is_not_in_our_group_is_not_ours(built: World) -> None:
    built.prepare("ip link add name theirs address 02:00:00:00:00:07 type bridge")
    assert found(built) == []
    assert isinstance(built.kernel.everything().host.links["theirs"], Link)
