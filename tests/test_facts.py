"""From the tools' text to facts, and from facts to an answer. The texts in facts/ are real ones.

They were taken on Debian 12 (iproute2 6.1, iptables 1.8.9) in a network namespace with the tutorial's network, one
container bird2, a LAN link lan0 (192.168.1.10/24, altname enp0s1), and the rules that netwrap makes, once by
iptables-nft and once by iptables-legacy.
"""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from toykernel import ToyKernel

from netwrap.facts import (
    Facts,
    Link,
    Listener,
    Route,
    Space,
    holds,
    parse_listeners,
    parse_process,
    parse_rules,
    parse_space,
)
from netwrap.model import Netns
from netwrap.nft import Hook, parse_hooks
from netwrap.policy import PolicyRule
from netwrap.steps import Probe, addr, iptables, link, netns, route, sysctl

FACTS = Path(__file__).parent / "facts"
BR_MAC, VETH_MAC, ETH0_MAC = "02:6e:0a:00:00:01", "06:6e:0a:00:00:02", "0a:6e:0a:00:00:02"
VETH = "veth1234567"
BACKENDS = ("nft", "legacy")


def text(name: str) -> str:
    return (FACTS / name).read_text()


HOST = parse_space(text("host.jsonl"))
BIRD2 = parse_space(text("bird2.jsonl"))
NS = Netns("bird2", 4026532561)
SEEN = Facts(
    host=HOST,
    inode=4026531840,
    handles={"bird2": NS.inode},
    spaces={NS.inode: BIRD2},
    rules=parse_rules(text("iptables-nft-save.txt")),
    sysctls={"net.ipv4.conf.all.forwarding": "1"},
)


def test_links_are_read_with_kind_master_group_and_names() -> None:
    assert replace(HOST.links["testbridge"], index=0, peer=0) == Link(
        "testbridge", BR_MAC, "bridge", True, None, "28279", 1500
    )
    assert replace(HOST.links[VETH], index=0, peer=0) == Link(
        VETH, VETH_MAC, "veth", True, "testbridge", "28279", 1500, True
    )
    assert HOST.links["lan0"].altnames == ("enp0s1",)
    assert replace(HOST.links["lo"], index=0, peer=0) == Link("lo", "00:00:00:00:00:00", "", True, None, "0", 65536)
    assert replace(BIRD2.links["eth0"], index=0, peer=0) == Link("eth0", ETH0_MAC, "veth", True, None, "0", 1500)
    assert HOST.links[VETH].index > 0


def test_a_link_is_there_by_its_altname_too() -> None:
    assert HOST.has_name("lan0")
    assert HOST.has_name("enp0s1")
    assert not HOST.has_name("enp0s2")


def test_addresses_are_read_with_their_link_and_prefix() -> None:
    assert ("testbridge", "10.0.0.1/24") in HOST.addrs
    assert {pair for pair in BIRD2.addrs if ":" not in pair[1]} == {("lo", "127.0.0.1/8"), ("eth0", "10.0.0.2/24")}


def test_routes_of_every_table_and_without_a_link_are_read() -> None:
    assert Route("default", "lan0", "192.168.1.1") in HOST.routes
    assert Route("203.0.113.0/24", "lan0", "192.168.1.1", "100") in HOST.routes
    assert Route("198.51.100.0/24", kind="blackhole") in HOST.routes
    assert Route("10.0.0.1", "testbridge", None, "local") in HOST.routes


def test_each_nexthop_is_a_route() -> None:
    """As `ip -j route` of iproute2 6.1 prints it."""
    hops = '{"gateway":"10.1.0.2","dev":"w1","weight":1,"flags":[]},{"gateway":"10.2.0.2","dev":"w2","flags":[]}'
    found = parse_space(f'[]\n[{{"dst":"default","table":"7","flags":[],"nexthops":[{hops}]}}]\n[]').routes
    assert found == (Route("default", "w1", "10.1.0.2", "7"), Route("default", "w2", "10.2.0.2", "7"))


def test_rules_for_tables_of_routes_are_read_with_what_they_are_for() -> None:
    """As `ip -N -j -d rule` of iproute2 6.1 prints them."""
    rows = (
        '{"priority":0,"src":"all","table":"255","protocol":"2"},'
        '{"priority":4,"src":"10.1.0.0","srclen":24,"fwmark":"0x3","table":"99","protocol":"0"},'
        '{"priority":5,"src":"all","dst":"10.2.0.0","dstlen":16,"action":"7","protocol":"0"},'
        '{"priority":6,"src":"10.0.0.2","table":"102","protocol":"0"}'
    )
    found = parse_space(f"[]\n[]\n[{rows}]")
    assert found.ways == (
        PolicyRule(0, table="local"),
        PolicyRule(4, IPv4Network("10.1.0.0/24"), table="99", is_narrower=True),
        PolicyRule(5, destination=IPv4Network("10.2.0.0/16"), action="unreachable"),
        PolicyRule(6, IPv4Network("10.0.0.2/32"), table="102"),
    )
    assert ("10.0.0.2", "102") in found.policy


@pytest.mark.parametrize("answer", ["[]", "[{}]", "[{},{}]"])
def test_empty_rows_are_an_empty_namespace(answer: str) -> None:
    assert parse_space(f"{answer}\n[]\n[]\n") == Space()


@pytest.mark.parametrize("answer", ["", "[]", "[]\n[]", "what?\n[]\n[]", '[{"flags":[]}]\n[]\n[]', "[]\n[1]\n[]"])
def test_an_answer_that_is_none_is_not_taken_for_an_empty_namespace(answer: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        parse_space(answer)


def test_which_source_looks_into_which_table_is_read() -> None:
    assert ("192.168.1.10", "100") in HOST.policy
    assert ("all", "main") in BIRD2.policy


def test_what_routes_and_addresses_use_is_occupied_and_default_routes_are_not() -> None:
    occupied = dict(Facts(host=HOST).occupied())
    for cidr in ("10.0.0.0/24", "192.168.1.0/24", "203.0.113.0/24", "198.51.100.0/24", "127.0.0.0/8"):
        assert IPv4Network(cidr) in occupied
    vpn = Space(routes=(Route("0.0.0.0/1", "tun0"), Route("128.0.0.0/1", "tun0"), Route("10.8.0.0/24", "tun0")))
    assert [net for net, _ in Facts(host=vpn).occupied()] == [IPv4Network("10.8.0.0/24")]
    assert Facts(host=HOST).addresses() >= {IPv4Address("10.0.0.1"), IPv4Address("192.168.1.10")}


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_are_read_by_table_and_chain_in_their_order(backend: str) -> None:
    rules = parse_rules(text(f"iptables-{backend}-save.txt"))
    assert rules["nat", "INPUT"] == ()
    assert [rule[rule.index("-j") + 1] for rule in rules["filter", "NETWRAP-testbridge"]] == [
        "ACCEPT",
        "ACCEPT",
        "DROP",
    ]
    assert ("filter", "NETWRAP") in rules
    assert ("nat", "NETWRAP") not in rules
    (strange,) = rules["filter", "INPUT"]
    assert strange[:2] == ("-p", "tcp")
    assert 'allow "ssh"' in strange[strange.index("--comment") + 1]


def test_both_backends_tell_the_same_rules() -> None:
    assert parse_rules(text("iptables-nft-save.txt")) == parse_rules(text("iptables-legacy-save.txt"))


def test_counters_and_an_empty_answer_are_no_rules() -> None:
    assert parse_rules("") == {}
    assert parse_rules("*filter\n:INPUT ACCEPT [7:420]\nCOMMIT\n") == {("filter", "INPUT"): ()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["create-tutorial", "connect-tutorial"])
def test_every_rule_of_the_tutorials_plans_is_found_again_in_what_the_kernel_prints(name: str, backend: str) -> None:
    seen = Facts(rules=parse_rules(text(f"iptables-{backend}-save.txt")))
    case = json.loads((FACTS.parent / "plans" / f"{name}.json").read_text())
    found = 0
    for line in case["commands"]:
        words = line.split()
        if words[0] != "iptables":
            continue
        table, words = (words[3], words[4:]) if words[2] == "-t" else ("filter", words[2:])
        probe = Probe("chain" if words[0] == "-N" else "rule", (table, *words[1:]))
        assert holds(probe, seen) is True, line
        found += 1
    assert found == (11 if name == "create-tutorial" else 6)


def test_base_chains_of_nftables_are_read_with_what_they_turn_away() -> None:
    assert parse_hooks(text("nft-ruleset.json")) == (
        Hook("inet", "firewalld", "filter_FORWARD", "forward", "reject"),
        Hook("inet", "firewalld", "filter_INPUT", "input", "drop"),
        Hook("inet", "filter", "input", "input", "policy drop", "drop"),
        Hook("inet", "filter", "forward", "forward"),
    )
    assert parse_hooks("") == ()


def test_sockets_that_listen_are_read_and_connected_ones_are_not() -> None:
    found = parse_listeners(text("proc-net-tcp.txt"), "tcp") | parse_listeners(text("proc-net-tcp6.txt"), "tcp")
    assert found == {
        Listener("tcp", None, 8080),
        Listener("tcp", IPv4Address("127.0.0.1"), 5432),
        Listener("tcp", None, 9090),  # [::] takes IPv4 too
        Listener("tcp", IPv4Address("127.0.0.1"), 9092),  # ::ffff:127.0.0.1; and ::1 takes no IPv4
    }
    found = parse_listeners(text("proc-net-udp.txt"), "udp") | parse_listeners(text("proc-net-udp6.txt"), "udp")
    assert found == {Listener("udp", IPv4Address("192.168.1.10"), 53), Listener("udp", None, 5353)}


def test_a_process_is_read_from_its_stat_and_status() -> None:
    found = parse_process(25527, text("proc-stat.txt"), text("proc-status.txt"), 7)
    assert (found.pid, found.starttime, found.inode, found.tgid) == (25527, 210445, 7, 25527)


def test_a_process_may_call_itself_what_it_likes() -> None:
    stat = text("proc-stat.txt").replace("(sleep)", "(a) S 1 (b) )")
    assert parse_process(25527, stat, text("proc-status.txt"), 7).starttime == 210445


# ---- holds

PROBES = {
    "bridge": link.add_bridge("testbridge", BR_MAC, "").probe,
    "veth": link.add_veth(VETH, VETH_MAC, "p", "", 1500, "").probe,
    "moved": link.move("p", ETH0_MAC, NS, "eth0", "").probe,
    "up": link.set_up("testbridge", BR_MAC, "").probe,
    "up inside": link.set_up("eth0", ETH0_MAC, "", NS).probe,
    "lo up": link.set_up("lo", link.LOOPBACK_MAC, "", NS).probe,
    "master": link.set_master(VETH, VETH_MAC, "testbridge", "").probe,
    "hairpin": link.set_hairpin(VETH, VETH_MAC, "").probe,
    "addr": addr.add("testbridge", BR_MAC, "10.0.0.1/24", "").probe,
    "addr inside": addr.add("eth0", ETH0_MAC, "10.0.0.2/24", "", NS).probe,
    "route": route.add_default("10.0.0.1", "eth0", ETH0_MAC, "", NS).probe,
    "netns": netns.attach(NS, 64560, "").probe,
    "netns of any inode": netns.add(Netns("bird2", 0), "").probe,
    "chain": iptables.new_chain("filter", "NETWRAP", "").probe,
    "rule": iptables.append("filter", "NETWRAP", "testbridge", ("-i", "testbridge"), ("ACCEPT",), "").probe,
    "sysctl": sysctl.write("net.ipv4.conf.all.forwarding", "1", "0", "").probe,
    "keep": sysctl.keep("net.ipv4.conf.all.forwarding", "0", "").probe,
}


@pytest.mark.parametrize("name", PROBES)
def test_what_is_there_as_we_made_it_holds(name: str) -> None:
    assert holds(PROBES[name], SEEN) is True


@pytest.mark.parametrize("name", PROBES)
def test_on_an_empty_machine_nothing_holds(name: str) -> None:
    assert holds(PROBES[name], Facts()) is False


def _with_link(seen: Facts, name: str, **changed: object) -> Facts:
    links = {**seen.host.links, name: replace(seen.host.links[name], **changed)}  # type: ignore[arg-type]
    return replace(seen, host=replace(seen.host, links=links))


@pytest.mark.parametrize("name", ["bridge", "up", "addr"])
@pytest.mark.parametrize("changed", [{"mac": "02:00:00:00:00:99"}, {"group": "default"}], ids=["mac", "group"])
def test_a_link_of_our_name_that_does_not_bear_our_mark_is_not_ours(name: str, changed: dict[str, str]) -> None:
    assert holds(PROBES[name], _with_link(SEEN, "testbridge", **changed)) is False


@pytest.mark.parametrize(
    ("name", "link_name", "changed"),
    [
        ("up", "testbridge", {"up": False}),
        ("master", VETH, {"master": None}),
        ("master", VETH, {"master": "docker0"}),
        ("hairpin", VETH, {"hairpin": False}),
    ],
)
def test_a_link_that_was_changed_does_not_hold(name: str, link_name: str, changed: dict[str, object]) -> None:
    assert holds(PROBES[name], _with_link(SEEN, link_name, **changed)) is False


def test_another_containers_link_of_the_same_name_is_not_ours() -> None:
    eth0 = replace(BIRD2.links["eth0"], mac="0a:6e:0a:00:00:99")
    seen = replace(SEEN, spaces={NS.inode: replace(BIRD2, links={**BIRD2.links, "eth0": eth0})})
    for name in ("moved", "up inside", "addr inside", "route"):
        assert holds(PROBES[name], seen) is False


@pytest.mark.parametrize(
    "found",
    [
        Route("default", "eth0", "10.0.0.254"),
        Route("default", "eth1", "10.0.0.1"),
        Route("default", "eth0", "10.0.0.1", "100"),
        Route("0.0.0.0/1", "eth0", "10.0.0.1"),
    ],
)
def test_another_route_is_not_ours(found: Route) -> None:
    seen = replace(SEEN, spaces={NS.inode: replace(BIRD2, routes=(found,))})
    assert holds(PROBES["route"], seen) is False


def test_an_address_with_another_prefix_or_on_another_link_is_not_ours() -> None:
    for pair in (("testbridge", "10.0.0.1/16"), ("lan0", "10.0.0.1/24")):
        assert holds(PROBES["addr"], replace(SEEN, host=replace(HOST, addrs=frozenset({pair})))) is False


def test_a_handle_that_leads_to_another_namespace_is_not_ours() -> None:
    seen = replace(SEEN, handles={"bird2": 99}, spaces={**SEEN.spaces, 99: BIRD2})
    for name in ("netns", "moved", "up inside", "lo up", "addr inside", "route"):
        assert holds(PROBES[name], seen) is False
    assert holds(PROBES["netns of any inode"], seen) is True


def test_what_is_behind_a_handle_that_was_deleted_is_seen_by_its_inode() -> None:
    seen = replace(SEEN, handles={})
    assert holds(PROBES["netns"], seen) is False
    assert holds(PROBES["addr inside"], seen) is True


def test_what_could_not_be_seen_is_neither_there_nor_absent() -> None:
    assert holds(PROBES["addr inside"], replace(SEEN, spaces={})) is None
    assert holds(PROBES["rule"], replace(SEEN, rules={}, rules_seen=False)) is None
    assert holds(PROBES["chain"], replace(SEEN, rules={}, rules_seen=False)) is None


@pytest.mark.parametrize(
    "rule",
    [
        ("-i", "testbridge", "-m", "comment", "--comment", "somebody:else", "-j", "ACCEPT"),
        ("-i", "testbridge", "-j", "ACCEPT"),
        ("-i", "other", "-m", "comment", "--comment", "netwrap:testbridge", "-j", "ACCEPT"),
        ("-i", "testbridge", "-m", "comment", "--comment", "netwrap:testbridge", "-j", "DROP"),
        ("!", "-i", "testbridge", "-m", "comment", "--comment", "netwrap:testbridge", "-j", "ACCEPT"),
    ],
)
def test_a_rule_without_our_mark_or_with_other_words_is_not_ours(rule: tuple[str, ...]) -> None:
    seen = replace(SEEN, rules={("filter", "NETWRAP"): (rule,)})
    assert holds(PROBES["rule"], seen) is False


def test_a_rule_is_found_in_whatever_order_its_matches_are_printed() -> None:
    rule = ("-m", "comment", "--comment", "netwrap:testbridge", "-i", "testbridge", "-j", "ACCEPT")
    assert holds(PROBES["rule"], replace(SEEN, rules={("filter", "NETWRAP"): (rule,)})) is True


def test_a_rule_that_is_negated_elsewhere_is_another_rule() -> None:
    """`-i BR ! -o BR` (the way out) and `! -i BR -o BR` (the way in) have the same words."""
    out = iptables.insert("filter", "FORWARD", "vault", ("-i", "vault", "!", "-o", "vault"), ("DROP",), "")
    in_ = iptables.insert("filter", "FORWARD", "vault", ("!", "-i", "vault", "-o", "vault"), ("DROP",), "")
    kernel = ToyKernel()
    kernel.do(out.do)
    assert holds(out.probe, kernel.facts()) is True
    assert holds(in_.probe, kernel.facts()) is False


def test_a_rule_in_another_chain_or_table_is_not_ours() -> None:
    rules = SEEN.rules["filter", "NETWRAP"]
    assert (
        holds(PROBES["rule"], replace(SEEN, rules={("filter", "FORWARD"): rules, ("nat", "NETWRAP"): rules})) is False
    )


def test_a_setting_with_another_value_does_not_hold() -> None:
    assert holds(PROBES["sysctl"], replace(SEEN, sysctls={"net.ipv4.conf.all.forwarding": "0"})) is False
    assert holds(PROBES["keep"], replace(SEEN, sysctls={"net.ipv4.conf.all.forwarding": "1"})) is True


def test_a_probe_of_an_unknown_kind_is_an_error_and_not_an_answer() -> None:
    with pytest.raises(ValueError, match="no probe of kind"):
        holds(Probe("colour", ("testbridge", BR_MAC)), SEEN)


SAVED = "*filter\n:FORWARD ACCEPT [0:0]\n:NETWRAP - [0:0]\n%s\nCOMMIT\n"


@pytest.mark.parametrize(
    ("saved", "comment"),
    [
        ('"plain"', "plain"),
        ('"it\\\'s \\"quoted\\" \\\\"', 'it\'s "quoted" \\'),
        ('"of two\nlines"', "of two\nlines"),
        ('"-A NETWRAP -j\n-A FORWARD\n"', "-A NETWRAP -j\n-A FORWARD\n"),
        ('"a\u2028b\x0cc\x85d"', "a\u2028b\x0cc\x85d"),
        ('"\udcff"', "\udcff"),
        ("$$", "$$"),
    ],
)
def test_a_comment_of_iptables_save_is_read_as_it_was_given(saved: str, comment: str) -> None:
    """As xtables_save_string of iptables 1.8 writes it: quotes and backslashes escaped, line ends as they are."""
    rules = parse_rules(SAVED % f"-A NETWRAP -s 10.0.0.0/8 -m comment --comment {saved} -j ACCEPT")
    assert rules == {
        ("filter", "FORWARD"): (),
        ("filter", "NETWRAP"): (("-s", "10.0.0.0/8", "-m", "comment", "--comment", comment, "-j", "ACCEPT"),),
    }


@pytest.mark.parametrize("line", ["# Table `nat' is incompatible, use 'nft' tool.", "what?", '-A NETWRAP -m comment "'])
def test_what_iptables_save_cannot_tell_or_nobody_can_read_is_no_empty_table(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rules(SAVED % line)
