"""What goes together when something is taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toykernel import ToyKernel

from netwrap.steps import NO_ROW, Step, iptables, link
from netwrap.undo import SHARED, Entry, closure, foundation, inverse, needs, take_back

STANDING = frozenset(
    {
        "host",
        *("network:a", "network:b"),
        *("container:c", "container:d"),
        *("endpoint:c/a", "endpoint:c/b", "endpoint:d/a"),
        *("published:a", "hairpin:c/a", "hairpin:d/a"),
        *("port:c/a/8080:80/tcp", "port:d/a/8081:80/tcp"),
    }
)


@pytest.mark.parametrize(
    ("owner", "built_upon"),
    [
        ("host", ()),
        ("network:a", ("host",)),
        ("container:c", ()),
        ("endpoint:c/a", ("network:a", "container:c")),
        ("published:a", ("network:a",)),
        ("hairpin:c/a", ("endpoint:c/a",)),
        ("self:c/a/b", ("hairpin:c/a", "endpoint:c/b")),
        ("port:c/a/8080:80/tcp", ("endpoint:c/a", "hairpin:c/a", "published:a")),
        ("port:c/a/127.0.0.1:8000-8010:80-90/udp", ("endpoint:c/a", "hairpin:c/a", "published:a")),
        ("endpoint:web.1_x-y/net.2", ("network:net.2", "container:web.1_x-y")),
    ],
)
def test_an_object_is_built_upon(owner: str, built_upon: tuple[str, ...]) -> None:
    assert needs(owner) == built_upon


@pytest.mark.parametrize(
    ("targets", "going"),
    [
        (["port:c/a/8080:80/tcp"], {"port:c/a/8080:80/tcp", "hairpin:c/a"}),
        (
            ["port:c/a/8080:80/tcp", "port:d/a/8081:80/tcp"],
            {"port:c/a/8080:80/tcp", "port:d/a/8081:80/tcp", "hairpin:c/a", "hairpin:d/a", "published:a"},
        ),
        (["endpoint:c/b"], {"endpoint:c/b"}),
        (["endpoint:c/a"], {"endpoint:c/a", "hairpin:c/a", "port:c/a/8080:80/tcp"}),
        (
            ["endpoint:c/a", "endpoint:c/b"],
            {"endpoint:c/a", "endpoint:c/b", "hairpin:c/a", "port:c/a/8080:80/tcp", "container:c"},
        ),
        (["network:b"], {"network:b", "endpoint:c/b"}),
        (["network:a"], STANDING - {"host", "network:b", "container:c", "endpoint:c/b"}),
        (["network:a", "network:b"], STANDING),
        (["host"], STANDING),
        (["network:nowhere"], set()),
        ([], set()),
    ],
)
def test_what_is_taken_back_takes_along(targets: list[str], going: set[str]) -> None:
    assert closure(targets, STANDING) == going


_PORTS = {"port:c/a/1:1/tcp", "port:c/a/2:2/tcp", "hairpin:c/a", "published:a"}


@pytest.mark.parametrize(
    ("targets", "going"),
    [
        (["port:c/a/1:1/tcp"], set()),
        (["port:c/a/1:1/tcp", "port:c/a/2:2/tcp"], {"hairpin:c/a", "published:a", "self:c/a/b", "self:c/a/d"}),
        (["endpoint:c/b"], {"self:c/a/b"}),
        (["endpoint:c/a"], {*_PORTS, "self:c/a/b", "self:c/a/d"}),
    ],
    ids=["one port of two", "all ports", "another network", "the network itself"],
)
def test_the_rules_for_calls_to_itself_go_with_the_last_port_or_the_other_network(
    targets: list[str], going: set[str]
) -> None:
    endpoints = {"host", "container:c", *(f"{what}{n}" for n in "abd" for what in ("network:", "endpoint:c/"))}
    standing = frozenset(endpoints | _PORTS | {"self:c/a/b", "self:c/a/d"})
    assert closure(targets, standing) == going | set(targets)


@st.composite
def standing(draw: st.DrawFn) -> frozenset[str]:
    """Objects that stand, each upon what it needs."""
    found: set[str] = set()
    for c, n in draw(st.sets(st.tuples(st.sampled_from("cde"), st.sampled_from("mn")))):
        found |= {f"endpoint:{c}/{n}"}
        if draw(st.booleans()):
            found |= {f"port:{c}/{n}/{p}:80/tcp" for p in draw(st.sets(st.integers(1, 3), min_size=1))}
    found |= {f"network:{n}" for n in draw(st.sets(st.sampled_from("mno")))}
    return foundation(found)


@given(standing(), st.data())
def test_a_closure_is_closed_and_takes_no_more_than_it_must(objects: frozenset[str], data: st.DataObject) -> None:
    wanted = frozenset(o for o in objects if o.partition(":")[0] not in SHARED)
    targets = data.draw(st.sets(st.sampled_from(sorted(wanted)))) if wanted else set()
    going = closure(targets, objects)
    staying = objects - going
    assert targets <= going <= objects
    for owner in staying:
        assert not going & set(needs(owner)), f"{owner} would stand upon nothing"
    assert {o for o in staying if o.partition(":")[0] in SHARED} == foundation(staying & wanted) - wanted
    for owner in going & wanted - targets:
        assert going & set(needs(owner)) - {o for o in going if o.partition(":")[0] in SHARED}, f"{owner} need not go"
    assert closure(going, objects) == going


@given(standing())
def test_taking_all_that_was_asked_for_back_leaves_nothing(objects: frozenset[str]) -> None:
    assert closure([o for o in objects if o.partition(":")[0] not in SHARED], objects) == objects


def test_a_foundation_is_everything_below() -> None:
    assert foundation(["port:c/a/8080:80/tcp"]) == {
        *("port:c/a/8080:80/tcp", "endpoint:c/a", "hairpin:c/a", "published:a"),
        *("network:a", "container:c", "host"),
    }


def _entries() -> list[Entry]:
    steps = [
        link.add_bridge("br", "02:6e:0a:00:00:01", "why"),
        link.set_up("br", "02:6e:0a:00:00:01", "why"),
        iptables.new_chain("filter", "NETWRAP", "why"),
    ]
    return [Entry(n, 1, "done", step) for n, step in enumerate(steps, 7)]


def test_the_last_step_is_taken_back_first_and_says_what_it_takes_back() -> None:
    kernel = ToyKernel()
    for entry in _entries():
        kernel.do(entry.step.do)
    plan = take_back("undo", reversed(_entries()), kernel.facts(), ["b", "a"])
    assert [step.inverts for step in plan.steps] == [9, 8, 7]
    assert [step.do for step in plan.steps] == [e.step.undo for e in reversed(_entries())]
    assert plan.steps[0].why == "Undoes: iptables -w -N NETWRAP"
    assert plan.removes == ("a", "b")
    assert plan.already == ()


def test_a_step_that_no_longer_holds_is_struck_and_said() -> None:
    kernel = ToyKernel()
    kernel.do(_entries()[0].step.do)
    plan = take_back("undo", _entries(), kernel.facts())
    assert [step.inverts for step in plan.steps] == [7]
    assert plan.already == ("already gone: iptables -w -N NETWRAP", "already gone: ip link set dev br up")


def test_what_is_undone_already_or_cannot_be_undone_is_not_taken_back() -> None:
    kernel = ToyKernel()
    for entry in _entries():
        kernel.do(entry.step.do)
    first, second, _ = _entries()
    plan = take_back(
        "undo",
        [
            Entry(1, 1, "undone", first.step),
            Entry(2, 1, "done", Step("x", second.step.do, None, second.step.probe, "why")),
        ],
        kernel.facts(),
    )
    assert (plan.steps, plan.already) == ((), ())


def _with_a_chain(*rules: str) -> tuple[ToyKernel, list[Entry]]:
    """A chain with a rule of ours in it, and rules of others."""
    steps = [
        iptables.new_chain("filter", "NETWRAP", "why"),
        iptables.append("filter", "NETWRAP", "n", ("-i", "eth0"), ("ACCEPT",), "why"),
    ]
    kernel = ToyKernel()
    for step in steps:
        kernel.do(step.do)
    for rule in rules:
        kernel.run(["iptables", "-w", *rule.split()])
    return kernel, [Entry(n, 1, "done", replace(step, owner="host")) for n, step in enumerate(steps, 7)]


def test_a_strangers_rule_is_removed_right_before_its_chain_and_is_of_no_row() -> None:
    kernel, entries = _with_a_chain("-A NETWRAP -o eth0 -j DROP", "-I NETWRAP -s 10.9.9.0/24 -j RETURN")
    plan = take_back("undo", entries, kernel.facts())
    assert [step.do.text() for step in plan.steps] == [
        "iptables -w -D NETWRAP -i eth0 -m comment --comment netwrap:n -j ACCEPT",
        "iptables -w -D NETWRAP -s 10.9.9.0/24 -j RETURN",
        "iptables -w -D NETWRAP -o eth0 -j DROP",
        "iptables -w -X NETWRAP",
    ]
    assert [step.inverts for step in plan.steps] == [8, NO_ROW, NO_ROW, 7]
    assert {step.owner for step in plan.steps[1:3]} == {"host"}
    for step in plan.steps:
        kernel.do(step.do)
    assert ("filter", "NETWRAP") not in kernel.tables.chains


def test_a_rule_of_ours_is_no_strangers_however_it_is_printed() -> None:
    kernel, entries = _with_a_chain()
    (rule,) = kernel.tables.chains["filter", "NETWRAP"]
    kernel.tables.chains["filter", "NETWRAP"] = [(*rule[2:6], *rule[:2], *rule[6:])]
    plan = take_back("undo", entries, kernel.facts())
    assert [step.inverts for step in plan.steps] == [8, 7]


def test_strangers_rules_of_a_chain_that_stays_or_was_no_chain_of_ours_are_left_alone() -> None:
    kernel, entries = _with_a_chain("-A NETWRAP -o eth0 -j DROP", "-A FORWARD -i eth0 -j ACCEPT")
    assert [step.inverts for step in take_back("undo", entries[1:], kernel.facts()).steps] == [8]


def test_where_rules_cannot_be_seen_no_strangers_rule_is_known() -> None:
    kernel, entries = _with_a_chain("-A NETWRAP -o eth0 -j DROP")
    unseen = replace(kernel.facts(), rules={}, rules_seen=False)
    assert [step.inverts for step in take_back("undo", entries, unseen).steps] == [8, 7]


def test_a_rule_of_ours_that_somebody_has_added_again_does_not_keep_its_chain() -> None:
    kernel, entries = _with_a_chain("-A NETWRAP -i eth0 -m comment --comment netwrap:n -j ACCEPT")
    for step in take_back("undo", entries, kernel.facts()).steps:
        kernel.do(step.do)
    assert ("filter", "NETWRAP") not in kernel.tables.chains


def test_the_inverse_of_an_inverse_is_the_step_again() -> None:
    entry = _entries()[0]
    back = inverse(entry)
    again = inverse(Entry(entry.id, 2, "done", back))
    assert (again.do, again.undo, again.probe) == (entry.step.do, entry.step.undo, entry.step.probe)
