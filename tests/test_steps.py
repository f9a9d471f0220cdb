"""Each step by itself, on the toy kernel: do then undo is the identity, and its probe tells the one from the other."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toykernel import ToyKernel
from toytables import split

from netwrap.errors import CommandFailed
from netwrap.facts import holds
from netwrap.model import Netns
from netwrap.steps import (
    Cmd,
    Plan,
    Probe,
    Step,
    addr,
    iptables,
    link,
    namespaces,
    netns,
    owned,
    route,
    shell_line,
    sysctl,
)

MAC, VETH_MAC, PEER_MAC = "02:6e:0a:00:00:01", "06:6e:0a:00:00:02", "0a:6e:0a:00:00:02"
BRIDGE = link.add_bridge("br", MAC, "why")
VETH = link.add_veth("veth1", VETH_MAC, "peer1", PEER_MAC, 1500, "why")
BIRD2 = Netns("bird2", ToyKernel().processes[64560].inode)
ATTACH = netns.attach(BIRD2, 64560, "why")
MASTER = link.set_master("veth1", VETH_MAC, "br", "why")
MOVE = link.move("peer1", PEER_MAC, BIRD2, "eth0", "why")
UP = link.set_up("eth0", PEER_MAC, "why", BIRD2)
ADDR = addr.add("eth0", PEER_MAC, "10.0.0.2/24", "why", BIRD2)
CHAIN = iptables.new_chain("filter", "NETWRAP", "why")
FORWARDING = "net.ipv4.conf.all.forwarding"
DNAT = ("DNAT", "--to-destination", "10.0.0.2:80")
FROM_OUTSIDE = ("-d", "127.0.0.0/8", "!", "-i", "lo")
PORT = ("-p", "tcp", "-m", "tcp", "--dport", "8080", "-m", "addrtype", "--dst-type", "LOCAL")

OTHER_MAC = link.set_address("br", "02:00:00:00:00:09", MAC, "somebody")
OTHER_GROUP = replace(BRIDGE, do=Cmd(("ip", "link", "set", "dev", "br", "group", "7")))
NO_ROUTE = replace(ADDR, do=Cmd(("ip", "route", "del", "10.0.0.0/24", "dev", "eth0"), BIRD2))

# A step, and the steps before it.
STEPS: dict[str, tuple[list[Step], Step]] = {
    "add_bridge": ([], BRIDGE),
    "set_mtu": ([BRIDGE], link.set_mtu("br", MAC, 1400, 1500, "why")),
    "add_veth": ([], VETH),
    "add_veth with an MTU": ([], link.add_veth("veth1", VETH_MAC, "peer1", PEER_MAC, 9000, "why")),
    "set_up": ([BRIDGE], link.set_up("br", MAC, "why")),
    "set_up in a namespace": ([ATTACH, VETH, MOVE], UP),
    "set_up of lo": (
        [ATTACH, addr.add("lo", link.LOOPBACK_MAC, "127.0.0.1/8", "why", BIRD2)],
        link.set_up("lo", link.LOOPBACK_MAC, "why", BIRD2),
    ),
    "set_down": ([ATTACH, VETH, MOVE, UP], link.set_down("eth0", PEER_MAC, "why", BIRD2)),
    "rename": ([ATTACH, VETH, MOVE], link.rename("eth0", "net0", PEER_MAC, "why", BIRD2)),
    "set_master": ([BRIDGE, VETH], MASTER),
    "set_hairpin": ([BRIDGE, VETH, MASTER], link.set_hairpin("veth1", VETH_MAC, "why")),
    "move": ([ATTACH, VETH], MOVE),
    "iptables.rename": ([CHAIN], iptables.rename("filter", "NETWRAP", "FOO", "why")),
    "addr.add": ([BRIDGE], addr.add("br", MAC, "10.0.0.1/24", "why")),
    "addr.add in a namespace": ([ATTACH, VETH, MOVE, UP], ADDR),
    "route.add_default": (
        [ATTACH, VETH, MOVE, UP, ADDR],
        route.add_default("10.0.0.1", "eth0", PEER_MAC, "why", BIRD2),
    ),
    "route.add": (
        [ATTACH, VETH, MOVE, UP, ADDR],
        route.add("default", "10.0.0.1", "eth0", PEER_MAC, 101, "why", BIRD2),
    ),
    "route.add_connected": (
        [ATTACH, VETH, MOVE, UP, ADDR, NO_ROUTE],
        route.add_connected("10.0.0.0/24", "10.0.0.2", "eth0", PEER_MAC, "why", BIRD2),
    ),
    "set_address": ([BRIDGE, OTHER_MAC], link.set_address("br", MAC, "02:00:00:00:00:09", "why")),
    "set_group": ([BRIDGE, OTHER_GROUP], link.set_group("br", MAC, "7", "why")),
    "resize": ([ATTACH, VETH, MOVE], link.resize("eth0", PEER_MAC, 1400, 1500, "why", BIRD2)),
    "route.add of a link": (
        [ATTACH, VETH, MOVE, UP, ADDR],
        route.add("10.0.0.0/24", None, "eth0", PEER_MAC, 101, "why", BIRD2),
    ),
    "route.add_rule": ([ATTACH], route.add_rule("10.0.0.2", 101, "why", BIRD2)),
    "netns.attach": ([], ATTACH),
    "netns.add": ([], netns.add(Netns("new", 0), "why")),
    "new_chain": ([], CHAIN),
    "append": ([CHAIN], iptables.append("filter", "NETWRAP", "net", ("-i", "br"), ("ACCEPT",), "why")),
    "append in nat": ([], iptables.append("nat", "OUTPUT", "c/net", PORT, DNAT, "why")),
    "insert": ([CHAIN], iptables.insert("filter", "FORWARD", "host", (), ("NETWRAP",), "why")),
    "insert in raw": (
        [],
        iptables.insert("raw", "PREROUTING", "n", FROM_OUTSIDE, ("DROP",), "w"),
    ),
    "sysctl.write": ([], sysctl.write("net.ipv4.conf.eth0.route_localnet", "1", "0", "why")),
    "turn_on": ([], sysctl.turn_on("eth0", "disable_ipv6", "0", "why", "ipv6")),
    "turn_on of IPv4": ([], sysctl.turn_on("eth0", "rp_filter", "0", "why")),
    "sysctl.write of forwarding": ([], sysctl.write(FORWARDING, "1", "0", "why")),
}


def after(before: list[Step]) -> ToyKernel:
    kernel = ToyKernel()
    for step in before:
        kernel.do(step.do)
    return kernel


def test_every_constructor_has_its_case() -> None:
    constructors = {
        name
        for module in (addr, iptables, link, netns, route, sysctl)
        for name, found in vars(module).items()
        if callable(found) and getattr(found, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    cases = {name.split()[0].rpartition(".")[2] for name in STEPS}
    helpers = {"keep", "of_link", "prefixes", "of_a_stranger", "called", "delete", "clear", "remove", "take_out"}
    assert constructors - helpers == cases


@pytest.mark.parametrize("name", STEPS)
def test_do_then_undo_is_the_identity(name: str) -> None:
    before, step = STEPS[name]
    kernel = after(before)
    start = kernel.snapshot()
    kernel.do(step.do)
    assert kernel.snapshot() != start
    assert step.undo is not None
    kernel.do(step.undo)
    assert kernel.snapshot() == start


@pytest.mark.parametrize("name", STEPS)
def test_the_probe_is_false_before_true_after_and_false_after_undo(name: str) -> None:
    before, step = STEPS[name]
    kernel = after(before)
    at_any_time = step.kind == "link down"
    assert holds(step.probe, kernel.everything()) is at_any_time
    kernel.do(step.do)
    assert holds(step.probe, kernel.everything()) is True
    assert step.undo is not None
    kernel.do(step.undo)
    assert holds(step.probe, kernel.everything()) is at_any_time


@pytest.mark.parametrize("name", STEPS)
def test_do_twice_is_an_error_or_changes_nothing_more(name: str) -> None:
    """A rule alone can be there twice: it is begun once in the journal, and asked for before it is repaired."""
    before, step = STEPS[name]
    kernel = after([*before, step])
    start = kernel.snapshot()
    with contextlib.suppress(CommandFailed):
        kernel.do(step.do)
    assert (kernel.snapshot() == start) is (step.kind != "rule")


def test_what_is_kept_is_given_back_after_forwarding_goes_off_again() -> None:
    kernel = ToyKernel()
    kernel.run(split("sysctl net.ipv4.conf.eth0.forwarding=1"))
    kernel.run(split("sysctl net.ipv4.conf.all.accept_redirects=0"))
    start = kernel.snapshot()
    plan = [
        sysctl.keep("net.ipv4.conf.all.accept_redirects", "0", "why"),
        sysctl.keep("net.ipv4.conf.eth0.forwarding", "1", "why"),
        sysctl.write(FORWARDING, "1", "0", "why"),
    ]
    for step in plan:
        kernel.do(step.do)
    assert kernel.sysctls["net.ipv4.conf.lo.forwarding"] == "1"
    for step in reversed(plan):
        assert step.undo is not None
        kernel.do(step.undo)
    assert kernel.snapshot() == start


def test_forwarding_without_keeping_would_lose_what_a_link_had() -> None:
    kernel = ToyKernel()
    kernel.run(split("sysctl net.ipv4.conf.eth0.forwarding=1"))
    step = sysctl.write(FORWARDING, "1", "0", "why")
    assert step.undo is not None
    kernel.do(step.do)
    kernel.do(step.undo)
    assert kernel.sysctls["net.ipv4.conf.eth0.forwarding"] == "0"


def test_a_strangers_rule_is_removed_and_said_with_the_command_that_adds_it_again() -> None:
    rule = ("-s", "10.9.9.0/24", "!", "-i", "eth0", "-m", "comment", "--comment", "not mine", "-j", "ACCEPT")
    kernel = after([CHAIN])
    start = kernel.snapshot()
    step = iptables.of_a_stranger("filter", "NETWRAP", rule, "NETWRAP")
    assert step.undo is not None
    kernel.do(step.undo)
    assert holds(step.probe, kernel.everything()) is True
    again = kernel.snapshot()
    kernel.do(step.do)
    assert kernel.snapshot() == start
    kernel.run(split(step.why.partition("To add it again: ")[2]))
    assert kernel.snapshot() == again
    assert "-t nat" in iptables.of_a_stranger("nat", "X", rule, "NETWRAP").do.text()


def test_a_link_bears_its_mark_from_its_first_moment() -> None:
    for step in (BRIDGE, VETH):
        words = step.do.argv
        assert words[words.index("group") + 1] == "28279"
        assert "address" in words


def test_iproute2_is_never_left_to_guess_whether_a_word_is_a_name() -> None:
    for _, step in STEPS.values():
        for cmd in (step.do, step.undo):
            assert cmd is not None
            if cmd.argv[0] == "ip" and cmd.argv[1] != "netns":
                assert {"dev", "name"} & set(cmd.argv[3:5]) or cmd.argv[1] in ("route", "rule"), cmd.text()


def test_every_iptables_call_waits_for_the_lock() -> None:
    for _, step in STEPS.values():
        for cmd in (step.do, step.undo):
            assert cmd is not None
            assert cmd.argv[0] != "iptables" or cmd.argv[1] == "-w"


def test_a_command_in_a_namespace_says_so_in_its_line() -> None:
    ns = Netns("bird2", 7)
    assert Cmd(("ip", "link"), ns).line() == ("ip", "-n", "bird2", "link")
    assert Cmd(("sysctl", "k=1"), ns).line() == ("ip", "netns", "exec", "bird2", "sysctl", "k=1")
    assert Cmd(("ip", "link")).line() == ("ip", "link")


def test_a_bang_and_the_shells_pid_are_bare_and_other_words_are_quoted() -> None:
    assert shell_line(["!", "netns", "$$", "$$", "a b", "$x", "it's"]) == "! netns $$ '$$' 'a b' '$x' 'it'\"'\"'s'"


@given(st.lists(st.text(min_size=0, max_size=8).filter(lambda w: "\0" not in w and w != "$$"), min_size=1))
def test_a_shown_line_comes_apart_into_the_same_words(words: list[str]) -> None:
    assert shlex.split(shell_line(words)) == words


def test_steps_that_have_an_owner_keep_it() -> None:
    first, second = BRIDGE, Step("x", BRIDGE.do, None, BRIDGE.probe, "why", "container:c")
    assert [s.owner for s in owned("network:n", [first, second])] == ["network:n", "container:c"]


def test_the_namespaces_of_steps_are_each_told_once() -> None:
    assert namespaces([BRIDGE, UP, ADDR, MOVE]) == (BIRD2,)


def test_the_mtu_that_the_kernel_gives_anyway_is_not_said() -> None:
    assert "mtu" not in VETH.do.argv
    assert STEPS["add_veth with an MTU"][1].do.argv.count("mtu") == 2


def test_a_bridge_keeps_an_mtu_that_was_set_and_follows_its_ports_otherwise() -> None:
    small = link.add_veth("veth1", VETH_MAC, "peer1", PEER_MAC, 1300, "why")
    assert after([BRIDGE, small, MASTER]).host.links["br"].mtu == 1300
    assert after([BRIDGE, STEPS["set_mtu"][1], small, MASTER]).host.links["br"].mtu == 1400


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("ip link del dev nothing", "Cannot find device"),
        ("ip link set dev eth0 nomaster", "no master"),
        ("ip addr del 10.9.9.9/24 dev eth0", "Cannot assign"),
        ("ip addr add 192.168.1.10/24 dev eth0", "File exists"),
        ("ip route add default via 192.168.1.1 dev eth0", "File exists"),
        ("ip route del default via 192.168.1.2 dev eth0", "No such process"),
        ("ip netns del nothing", "No such file"),
        ("ip netns attach x 4242", "Invalid PID"),
        ("ip -n nothing link set dev lo up", "Cannot open network namespace"),
        ("iptables -w -X NETWRAP", "No chain"),
        ("iptables -w -D FORWARD -j ACCEPT", "Bad rule"),
        ("iptables -w -A FORWARD -j NETWRAP", "does not exist"),
        ("sysctl net.ipv4.conf.nothing.forwarding=1", "No such file"),
    ],
)
def test_the_toy_kernel_refuses_what_linux_refuses(words: str, refused: str) -> None:
    with pytest.raises(Exception, match=refused):
        ToyKernel().spawn(split(words))


@pytest.mark.parametrize(
    "words",
    [
        "ip link add name x type bridge",
        "ip link add name x address 02:00:00:00:00:01 color blue type bridge",
        "ip link set dev eth0 alias x",
        "iptables -A FORWARD -j ACCEPT",
        "iptables -w -A FORWARD -m connlimit -j ACCEPT",
        "iptables -w -A FORWARD --dport 80 -j ACCEPT",
        "iptables -w -A FORWARD -s 10.0.0.1/24 -j ACCEPT",
        "modprobe br_netfilter",
    ],
)
def test_the_toy_kernel_knows_no_word_that_it_was_not_taught(words: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        ToyKernel().spawn(split(words))


def _chain_with_a_rule(kernel: ToyKernel) -> None:
    for line in ("iptables -w -N A", "iptables -w -N B", "iptables -w -A A -j B"):
        kernel.spawn(split(line))


@pytest.mark.parametrize(("chain", "refused"), [("A", "not empty"), ("B", "Too many links")])
def test_the_toy_kernel_keeps_a_chain_with_rules_and_one_that_is_jumped_to(chain: str, refused: str) -> None:
    kernel = ToyKernel()
    _chain_with_a_rule(kernel)
    with pytest.raises(Exception, match=refused):
        kernel.spawn(["iptables", "-w", "-X", chain])


@pytest.mark.parametrize(
    "act",
    [
        lambda kernel: kernel.do(Cmd(("ip", "link", "del", "dev", "veth1"))),
        lambda kernel: kernel.do(Cmd(("ip", "link", "del", "dev", "eth0"), BIRD2)),
        lambda kernel: (kernel.end_process(64560), kernel.do(Cmd(("ip", "netns", "del", "bird2")))),
    ],
    ids=["outer end", "inner end", "namespace"],
)
def test_both_ends_of_a_cable_go_at_once(act: Callable[[ToyKernel], object]) -> None:
    kernel = after([ATTACH, VETH, MOVE])
    act(kernel)
    assert "veth1" not in kernel.host.links
    assert all("eth0" not in ns.links for inode, ns in kernel.namespaces.items() if ns is not kernel.host and inode)


def test_lo_gets_its_address_from_the_kernel_where_it_has_none_and_keeps_it_when_down() -> None:
    kernel = after([ATTACH])
    kernel.do(Cmd(("ip", "link", "set", "dev", "lo", "up"), BIRD2))
    kernel.do(Cmd(("ip", "link", "set", "dev", "lo", "down"), BIRD2))
    assert kernel.namespaces[BIRD2.inode].addrs == [("lo", "127.0.0.1/8")]


def test_a_plan_without_steps_needs_no_tools() -> None:
    assert Plan("nothing").tools == frozenset()
    assert Probe("x", ()).ns is None
