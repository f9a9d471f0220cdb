"""Counters read twice, and what has grown between."""

from __future__ import annotations

import json

import pytest

from netwrap.evidence import Reading, contradicts, grown, parse_conntrack, parse_nft, parse_saved, parse_sums, risen

SAVED = """*filter
:INPUT ACCEPT [5:300]
:FORWARD DROP [{policy}:84]
:NETWRAP - [0:0]
[{jump}:84] -A FORWARD -m comment --comment "netwrap:host" -j NETWRAP
[{drop}:0] -A FORWARD -s 10.0.0.0/24 -m comment --comment "a \\"quoted\\" one
of two lines" -j DROP
COMMIT
"""


def reading(**counts: int) -> Reading:
    return Reading(dict(parse_saved(SAVED.format(**{"policy": 0, "jump": 0, "drop": 0} | counts), "iptables")))


def test_what_has_counted_is_found_with_the_command_that_takes_it_out() -> None:
    before, after = reading(), reading(jump=3, drop=3, policy=2)
    drop = grown(before, after, at_least=3)[1]
    assert (drop.chain, drop.number, drop.verdict, drop.grown, drop.takes) == ("FORWARD", 2, "DROP", 3, True)
    assert drop.removal.startswith('iptables -w -t filter -D FORWARD -s 10.0.0.0/24 -m comment --comment \'a "quoted"')
    assert [c.is_ours for c in grown(before, after)] == [False, True, False]
    policy = next(c for c in grown(before, after) if not c.rule)
    assert (policy.text, policy.takes) == ("-P FORWARD DROP", True)
    assert policy not in grown(before, after, at_least=3)


def test_in_a_container_it_is_taken_out_there() -> None:
    (*_, drop) = grown(reading(), reading(drop=1), "c1")
    assert drop.removal.startswith("ip netns exec c1 iptables -w -t filter -D FORWARD")


def test_a_rule_that_has_come_since_counts_nothing() -> None:
    before = Reading({("iptables", "filter", "FORWARD", 1): (0, ("-j", "ACCEPT"), "")})
    assert grown(before, reading(jump=7)) == []


@pytest.mark.parametrize(
    ("rule", "is_out"),
    [
        ("-i a -j DROP", False),
        ("-i b -j DROP", True),
        ("-i a+ -j DROP", False),
        ("! -i a -j DROP", False),  # the packet comes by eth0 too
        ("-p tcp -j DROP", True),
        ("! -p icmp -j DROP", True),
        ("! -p tcp -j DROP", False),
        ("-s 10.0.0.0/24 -j DROP", False),
        ("-d 10.9.0.0/24 -j DROP", True),
        ("-m something --new x -j DROP", False),
    ],
)
def test_a_rule_for_other_packets_is_not_blamed(rule: str, is_out: bool) -> None:
    assert contradicts(tuple(rule.split()), {"a", "eth0"}, "icmp", {"10.0.0.2", "192.168.1.1"}) is is_out


def test_a_rule_for_other_ports_is_not_blamed() -> None:
    for ports, is_out in (("8080", False), ("8000:8090", False), ("8081", True), ("1:79", True), ("http", False)):
        rule = ("-p", "tcp", "--dport", ports, "-j", "DNAT")
        assert contradicts(rule, set(), "tcp", set(), frozenset({8080, 80})) is is_out


def test_rules_of_nftables_that_count_and_those_that_do_not() -> None:
    base = {"family": "inet", "table": "g", "name": "f", "hook": "forward", "policy": "accept"}
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "a"}}

    def rule(handle: int, *expr: object, table: str = "g", family: str = "inet") -> dict[str, object]:
        return {"rule": {"family": family, "table": table, "chain": "f", "handle": handle, "expr": [*expr]}}

    rows = [
        {"chain": base},
        {"chain": base | {"name": "p", "policy": "drop"}},
        rule(4, match, {"counter": {"packets": 7, "bytes": 1}}, {"drop": None}),
        rule(5, match, {"drop": None}),
        rule(6, {"accept": None}),
        rule(7, {"drop": None}, table="filter", family="ip"),
    ]
    counting, suspects = parse_nft(json.dumps({"nftables": rows}))
    assert counting == {("nft", "inet g", "f", 4): (7, ("iifname", "a", "drop"), "4")}
    assert [(s.chain, s.what, s.removal) for s in suspects] == [
        ("p", "policy drop", "nft add chain inet g p '{ policy accept; }'"),
        ("f", "iifname a drop", "nft delete rule inet g f handle 5"),
    ]
    more = Reading({place: (n + 3, words, handle) for place, (n, words, handle) in counting.items()})
    (c,) = grown(Reading(counting), more)
    assert (c.takes, c.removal) == (True, "nft delete rule inet g f handle 4")


def test_sums_of_the_kernel() -> None:
    text = "TcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 1 2\nIp: Forwarding InReceives\nIp: 1 -1\n"
    before = Reading(sums=parse_sums(text))
    after = Reading(sums=parse_sums(text.replace("1 2", "1 5")))
    assert risen(before, after) == {"TcpExtIPReversePathFilter": 3}
    assert parse_conntrack("entries drop early_drop\n00000001 0000000a 0\n00000001 00000001 0\n") == 11
    assert parse_conntrack("") == 0
