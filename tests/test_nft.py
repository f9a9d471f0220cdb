"""What becomes of our packets in tables of nftables that somebody else has made, read from their text."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest
from test_doctor import built as built
from test_doctor import found, only
from world import World

from netwrap.nft import Frame, Hook, fate, parse_hooks

SUBNET = IPv4Network("10.0.0.0/24")
OUT = Frame("br", "eth0", source=SUBNET)
BACK = Frame("eth0", "br", destination=SUBNET, state="established")
ASKED = Frame("eth0", "br", destination=SUBNET, is_published=True)


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def iif(right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": "iifname"}}, right, op)


def oif(right: Any) -> dict[str, Any]:
    return match({"meta": {"key": "oifname"}}, right)


def state(*states: str) -> dict[str, Any]:
    return match({"ct": {"key": "state"}}, list(states), "in")


ACCEPT, DROP, REJECT = {"accept": None}, {"drop": None}, {"reject": {"type": "icmpx"}}
TO_MORE = {"jump": {"target": "more"}}


def hook(*rules: list[Any], policy: str = "drop", more: tuple[list[Any], ...] = (), family: str = "inet") -> Hook:
    """A base chain `f` with these rules, and a chain `more`, as `nft -j list ruleset` prints them."""
    where = {"family": family, "table": "fw"}
    rows: list[dict[str, Any]] = [
        {"metainfo": {}},
        {"chain": {**where, "name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": policy}},
        {"chain": {**where, "name": "more"}},
        {"set": {**where, "name": "inner", "elem": ["br", "x"]}},
        *({"rule": {**where, "chain": "f", "expr": rule}} for rule in rules),
        *({"rule": {**where, "chain": "more", "expr": rule}} for rule in more),
    ]
    (one,) = parse_hooks(json.dumps({"nftables": rows}))
    return one


VMAP = {
    "vmap": {
        "key": {"ct": {"key": "state"}},
        "data": {"set": [["established", ACCEPT], ["related", ACCEPT], ["invalid", DROP]]},
    }
}
CASES: list[tuple[Hook, str, str, str]] = [
    (hook(), "drop", "drop", "drop"),
    (hook(policy="accept"), "accept", "accept", "accept"),
    (hook([DROP], policy="accept"), "drop", "drop", "drop"),
    (hook([{"counter": None}, REJECT], policy="accept"), "drop", "drop", "drop"),
    (hook([iif("br"), ACCEPT]), "accept", "drop", "drop"),
    (hook([iif("b*"), ACCEPT], [oif("br"), {"counter": None}, ACCEPT]), "accept", "accept", "accept"),
    (hook([iif({"set": ["x", "br"]}), ACCEPT], [state("established", "related"), ACCEPT]), "accept", "accept", "drop"),
    (hook([iif("@inner"), ACCEPT]), "accept", "drop", "drop"),
    (hook([iif("br", "!="), ACCEPT]), "drop", "accept", "accept"),
    (hook([VMAP]), "drop", "accept", "drop"),
    (hook([match({"ct": {"key": "status"}}, "dnat", "in"), ACCEPT]), "drop", "drop", "accept"),
    (hook([TO_MORE], more=([iif("br"), ACCEPT],)), "accept", "drop", "drop"),
    (hook([TO_MORE], more=([{"return": None}], [ACCEPT])), "drop", "drop", "drop"),
    (hook([{"goto": {"target": "more"}}], [ACCEPT], more=([iif("x"), ACCEPT],)), "drop", "drop", "drop"),
    (
        hook(
            [
                match({"payload": {"protocol": "ip", "field": "saddr"}}, {"prefix": {"addr": "10.0.0.0", "len": 8}}),
                ACCEPT,
            ]
        ),
        *("accept", "", ""),
    ),
    (hook([match({"meta": {"key": "mark"}}, 7), ACCEPT]), "", "", ""),
    (hook([match({"meta": {"key": "mark"}}, 7), DROP], policy="accept"), "accept", "accept", "accept"),
    (hook([{"limit": {"rate": 5}}, ACCEPT]), "", "", ""),
]


@pytest.mark.parametrize(("chain", "out", "back", "asked"), CASES)
def test_what_becomes_of_packets_in_a_chain(chain: Hook, out: str, back: str, asked: str) -> None:
    assert [fate(chain, frame) for frame in (OUT, BACK, ASKED)] == [out, back, asked]


def test_a_chain_that_lets_our_bridges_through_is_no_alarm(built: World) -> None:
    rules = ([iif(name), ACCEPT] for name in ("testbridge", "second"))
    outs = ([oif(name), ACCEPT] for name in ("testbridge", "second"))
    built.kernel.hooks = (hook(*rules, *outs),)
    assert found(built) == []


@pytest.mark.parametrize("accepts", [True, False])
def test_a_guarded_host_hears_answers_of_containers(accepts: bool, built: World) -> None:
    rules = [[VMAP], [iif("lo"), ACCEPT]] if accepts else [[iif("lo"), ACCEPT]]
    built.kernel.hooks = (replace(hook(*rules), hook="input"),)
    assert [f.wrong for f in found(built)] == ([] if accepts else [True])


def test_where_the_way_out_is_not_known_other_links_are_in_doubt() -> None:
    back = Frame(leaves="br", state="established")
    assert fate(hook([iif("br"), ACCEPT]), back) == "drop"
    assert fate(hook([iif("eth0"), ACCEPT]), back) == ""


def test_only_what_is_missing_is_let_in(built: World) -> None:
    built.kernel.hooks = (hook([iif("testbridge"), ACCEPT], [iif("second"), ACCEPT], [oif("second"), ACCEPT]),)
    one = only(found(built))
    rule = 'oifname "testbridge" accept'
    assert one.fix == f"nft list chain inet fw f | grep -qF '{rule}' || nft insert rule inet fw f '{rule}'"


def test_what_cannot_be_told_is_a_note(built: World) -> None:
    built.kernel.hooks = (hook([match({"meta": {"key": "mark"}}, 7), ACCEPT]),)
    one = only(found(built))
    assert (one.wrong, one.fix) == (False, None)
    assert "may drop or reject" in one.what


def test_a_table_of_the_bridge_family_is_named_too(built: World) -> None:
    built.kernel.hooks = (hook(family="bridge"),)
    one = only(found(built))
    assert one.wrong
    assert "bridge fw f" in one.what
    assert one.fix is None
