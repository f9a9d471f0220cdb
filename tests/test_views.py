"""Data to text, against the texts in golden/.

NETWRAP_WRITE_EXPECTED=1 pytest tests/test_views.py  writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toykernel import ToyKernel
from toytables import split
from world import World

from netwrap import facts, look, sandbox, terminal
from netwrap.model import Netns
from netwrap.steps import Plan, addr, iptables, link
from netwrap.views import script
from netwrap.views.diff import diff
from netwrap.views.documents import dumps
from netwrap.views.table import fitted, table

GOLDEN = Path(__file__).parent / "golden"
CREATE = "network create --subnet 10.0.0.1/24 testbridge"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80"


def same_as_golden(name: str, found: str) -> None:
    if os.environ.get("NETWRAP_WRITE_EXPECTED"):
        (GOLDEN / name).write_text(found)
    assert found == (GOLDEN / name).read_text()


@pytest.fixture
def connected(world: World) -> World:
    """The tutorial's network with its container."""
    world.must(CREATE)
    world.must(CONNECT)
    return world


def test_a_dry_run_is_a_script_with_the_why_above_each_command(world: World) -> None:
    world.must(CREATE)
    same_as_golden("connect.sh", world.must(f"{CONNECT} --dry-run"))


def test_a_dry_run_as_json_has_do_undo_namespace_and_why(world: World) -> None:
    world.must(CREATE)
    found = world.must(f"{CONNECT} --dry-run --json")
    same_as_golden("connect.json", found)
    rows = json.loads(found)
    assert [row["n"] for row in rows] == list(range(1, 21))
    assert {tuple(row) for row in rows} == {("n", "do", "undo", "ns", "why")}
    assert {row["ns"] for row in rows if row["do"].startswith("ip -n")} == {"bird2"}


def test_a_dry_run_of_run_is_a_script_that_takes_its_network_down_at_its_end(world: World) -> None:
    world.must(CREATE)
    found = world.must("run --net testbridge --name web --dry-run -- sh -c 'exit 3'")
    same_as_golden("run.sh", found.replace(sys.executable, "/usr/bin/python3"))


@pytest.mark.parametrize("name", ["connect.sh", "run.sh"])
def test_a_script_is_one_that_bash_reads(name: str) -> None:
    subprocess.run(["bash", "-n", str(GOLDEN / name)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["connect.sh", "run.sh"])
def test_a_script_is_one_that_shellcheck_likes(name: str) -> None:
    subprocess.run(["shellcheck", str(GOLDEN / name)], check=True)


def test_no_line_of_a_why_is_a_command() -> None:
    step = link.set_up("x", "", "One line that is long enough to be broken, $(rm -rf /), " * 4 + "\nanother; reboot")
    lines = script.script(Plan("t\tu", (step,))).splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["set -e", "ip link set dev x up"]


def test_what_needs_no_step_is_a_comment_at_the_head() -> None:
    found = script.script(Plan("t", (), ("it is so already",)))
    assert found == "#!/usr/bin/env bash\n# netwrap t\nset -e\n# it is so already\n"


def test_networks_and_containers_are_tables_with_their_heads(connected: World) -> None:
    same_as_golden("tables.txt", connected.must("network list") + "\n" + connected.must("ps"))


def test_networks_and_containers_are_documents_with_the_keys_of_the_contract(connected: World) -> None:
    (network,) = json.loads(connected.must("network list --json"))
    (endpoint,) = json.loads(connected.must("ps --json"))
    assert json.loads(connected.must("network inspect testbridge")) == network
    keys = {"name", "driver", "subnet", "gateway", "bridge", "mtu", "internal", "state", "links", "endpoints"}
    assert set(network) >= keys
    assert set(endpoint) == {"name", "pid", "net", "ip", "mac", "ifname", "veth", "ports", "allow_from", "state"}
    assert endpoint["ports"] == ["8080:80/tcp"]
    same_as_golden("network.json", dumps(network) + "\n")


def test_tables_without_rows_keep_their_heads(world: World) -> None:
    assert world.must("network list").split() == [
        *("NAME", "SUBNET", "GATEWAY", "DRIVER", "BRIDGE", "CONTAINERS", "STATE"),
    ]
    assert world.must("ps").split() == ["NAME", "PID", "NETWORK", "IP", "IFNAME", "VETH", "PORTS", "STATE"]
    assert json.loads(world.must("ps --json")) == json.loads(world.must("network list --json")) == []


def test_a_cell_is_its_text_and_an_empty_one_a_dash() -> None:
    assert table(("A", "B"), [["007", None], ["1e5", ""], [0, "x"]]).split() == [
        *("A", "B", "007", "-", "1e5", "-", "0", "x"),
    ]


def test_the_log_has_its_keys_and_each_step_its_state(connected: World) -> None:
    first, second = json.loads(connected.must("log --json"))
    assert [first["id"], second["id"]] == [1, 2]
    assert second["state"] == "done"
    steps = json.loads(connected.must("log 2 --json"))["steps"]
    assert [row["do"] for row in steps] == [row["do"] for row in json.loads((GOLDEN / "connect.json").read_text())]
    assert [row["undo"] for row in steps] == [row["undo"] for row in json.loads((GOLDEN / "connect.json").read_text())]
    assert {row["state"] for row in steps} == {"done"}


def test_the_log_of_a_teardown_shows_what_it_ran(connected: World) -> None:
    ran = [line[2:] for line in connected.netwrap("disconnect bird2").err.splitlines() if line.startswith("+ ")]
    steps = json.loads(connected.must("log 3 --json"))["steps"]
    assert [row["do"].replace("$$", str(os.getpid())) for row in steps] == ran
    assert {row["state"] for row in steps} == {"undone"}
    assert [o["state"] for o in json.loads(connected.must("log --json"))] == ["done", "undone", "done"]


def test_the_tables_of_the_log_name_operations_and_steps(connected: World) -> None:
    lines = connected.must("log").splitlines()
    assert lines[0].split() == ["ID", "WHEN", "WHAT", "STATE"]
    assert "network create testbridge" in lines[1]
    shown = connected.must("log 1")
    assert "ip link add name testbridge" in shown
    assert "undo: ip link del dev testbridge" in shown


CHANGES = [
    (
        "ip link set dev lo down",
        ["- link lo 00:00:00:00:00:00 up mtu 65536", "+ link lo 00:00:00:00:00:00 down mtu 65536"],
    ),
    ("ip addr del 192.168.1.10/24 dev eth0", ["- addr 192.168.1.10/24 dev eth0", "- route 192.168.1.0/24 dev eth0"]),
    ("ip addr add 10.9.0.1/24 dev lo", ["+ addr 10.9.0.1/24 dev lo"]),
    ("ip route del default via 192.168.1.1 dev eth0", ["- route default via 192.168.1.1 dev eth0"]),
    ("ip netns add lab", ["+ netns lab"]),
    ("iptables -w -N NETWRAP", ["+ filter: chain NETWRAP"]),
    ("iptables -w -t nat -A OUTPUT -p tcp -j RETURN", ["+ nat: -A OUTPUT -p tcp -j RETURN"]),
    ("ip route add default via 192.168.1.9 dev eth0 table 102", ["+ route default via 192.168.1.9 dev eth0 table 102"]),
    ("ip rule add from 10.0.0.2 table 102", ["+ rule from 10.0.0.2 table 102"]),
    (
        "sysctl net.ipv4.conf.eth0.route_localnet=1",
        ["- sysctl net.ipv4.conf.eth0.route_localnet = 0", "+ sysctl net.ipv4.conf.eth0.route_localnet = 1"],
    ),
]


@pytest.mark.parametrize(("change", "shown"), CHANGES)
def test_a_change_is_shown_as_the_line_that_went_and_the_one_that_came(change: str, shown: list[str]) -> None:
    kernel = ToyKernel()
    before = kernel.facts()
    kernel.run(split(change))
    assert [line.strip() for line in diff(before, kernel.facts()).splitlines()] == shown


def test_a_change_inside_a_namespace_is_shown_with_its_name() -> None:
    kernel = ToyKernel()
    kernel.run(split("ip netns attach bird2 64560"))
    ns = Netns("bird2", kernel.handles["bird2"])
    before = kernel.facts(namespaces=[ns])
    kernel.do(addr.add("lo", "", "127.0.0.1/8", "", ns).do)
    assert diff(before, kernel.facts(namespaces=[ns])) == "  + [bird2] addr 127.0.0.1/8 dev lo"


def test_no_change_is_said_in_a_sentence() -> None:
    kernel = ToyKernel()
    assert diff(kernel.facts(), kernel.facts()) == "  (no change in anything that netwrap looks at)"


def test_other_names_groups_and_bridge_ports_are_shown() -> None:
    kernel = ToyKernel()
    kernel.run(split("ip link add name br address 02:00:00:00:00:07 group 28279 type bridge"))
    kernel.run(split("ip link set dev eth0 master br"))
    before = kernel.facts()
    kernel.host.links["br"].altnames = ("office",)
    kernel.run(split("ip link set dev eth0 type bridge_slave hairpin on"))
    assert sorted(diff(before, kernel.facts()).splitlines(), reverse=True) == [
        "  - link eth0 52:54:00:00:00:10 up mtu 1500 master br",
        "  - link br bridge down mtu 1500 group 28279",
        "  + link eth0 52:54:00:00:00:10 up mtu 1500 master br hairpin on",
        "  + link br bridge down mtu 1500 group 28279 altname office",
    ]


def test_the_toy_kernel_is_looked_at_as_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {facts.SPACE: "[]\n[]\n[]\n", facts.RULES: ""}
    monkeypatch.setattr(look, "spawn", lambda words, *_: answers[tuple(words)])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    seen, toy = look.look(), ToyKernel().facts()
    assert seen.spaces == {seen.inode: seen.host}
    assert toy.spaces == {toy.inode: toy.host}  # what is in there twice is not shown twice


def test_a_second_rule_with_the_same_words_is_a_change() -> None:
    kernel = ToyKernel()
    step = iptables.append("filter", "FORWARD", "n", (), ("ACCEPT",), "")
    kernel.do(step.do)
    before = kernel.facts()
    kernel.do(step.do)
    assert "-A FORWARD" in diff(before, kernel.facts())


# ---- a terminal's width

WIDE = [["web", "10.0.0.2", "a rule with many words, " * 5], ["database", "10.0.0.3", ""]]


def test_a_table_that_fits_is_whole() -> None:
    assert fitted(("NAME", "IP", "WHY"), WIDE, 200) == (table(("NAME", "IP", "WHY"), WIDE), True)


@pytest.mark.parametrize("width", [20, 40, 80, 100])
def test_a_table_is_no_wider_than_the_terminal_and_no_line_of_it_is_broken(width: int) -> None:
    text, whole = fitted(("NAME", "IP", "WHY"), WIDE, width)
    lines = text.splitlines()
    assert not whole
    assert len(lines) == 1 + len(WIDE)
    assert max(map(len, lines)) <= width
    assert lines[1].endswith("…")


def test_columns_that_matter_least_go_first_and_only_as_many_as_have_to() -> None:
    head, row = ("NAME", "VETH", "MAC", "STATE"), ["web", "veth5b5fc03", "06:6e:0a:00:00:02", "up"]
    assert fitted(head, [row], 30, drop=("VETH", "MAC")) == (
        "NAME  MAC                STATE\nweb   06:6e:0a:00:00:02  up",
        False,
    )
    assert fitted(head, [row], 20, drop=("VETH", "MAC")) == ("NAME  STATE\nweb   up", False)


@given(st.lists(st.lists(st.text("abc…", max_size=60), min_size=3, max_size=3), max_size=5), st.integers(12, 120))
def test_no_cells_make_a_table_too_wide(rows: list[list[str]], width: int) -> None:
    text, whole = fitted(("A", "B", "C"), rows, width, drop=("B",))
    assert max(map(len, text.splitlines())) <= width
    assert whole or len(text) < len(table(("A", "B", "C"), rows))
    assert len(text.splitlines()) == 1 + len(rows)


def test_sentences_are_wrapped_between_words_and_commands_are_not() -> None:
    command = "+ iptables -w -t nat -A POSTROUTING " + "-m comment --comment netwrap:testbridge " * 3
    sentence = "# A bridge is a switch in the kernel. " * 5
    lines = terminal.wrapped(f"{command}\n{sentence}\n  left: {'x ' * 60}\n{'word ' * 30}").split("\n")
    assert lines[0] == command
    assert all(line.startswith("# ") and len(line) <= 80 for line in lines[1:4])
    assert " ".join(line.removeprefix("# ") for line in lines[1:4]) == sentence.removeprefix("# ").strip()
    assert lines[4].startswith("  left: ")
    assert max(map(len, lines[5:])) <= 80
    assert " ".join(" ".join(lines[5:]).split()) == ("word " * 30).strip()


def test_what_is_said_is_wrapped_where_a_width_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "word " * 30
    terminal.talk(long)
    assert capsys.readouterr().err == long + "\n"  # a pipe: who greps wants the whole line
    monkeypatch.setenv("COLUMNS", "50")
    terminal.talk(long)
    assert max(map(len, capsys.readouterr().err.splitlines())) <= 50
    monkeypatch.setenv("COLUMNS", "400")
    terminal.talk(long)
    assert 70 < max(map(len, capsys.readouterr().err.splitlines())) <= 80
    terminal.talk(long, as_it_is=True)
    assert capsys.readouterr().err == long + "\n"


def test_the_map_of_the_sandbox_fits_a_terminal() -> None:
    lines = sandbox.PICTURE.splitlines()
    assert max(len("  " + line) for line in lines) <= 80
    for address in (sandbox.INTERNET, sandbox.UPLINK, sandbox.GATEWAY, sandbox.HOST, sandbox.NEIGHBOUR):
        assert address in sandbox.PICTURE


def test_ps_shows_who_may_use_a_port(connected: World) -> None:
    connected.must("publish bird2 9000:90 --allow-from 10.1.0.0/24 --allow-from 10.2.0.0/24")
    assert "8080:80/tcp 9000:90/tcp from 10.1.0.0/24,10.2.0.0/24  " in connected.must("ps")


def test_network_list_shows_what_is_internal_and_what_is_linked(connected: World) -> None:
    assert connected.must("network list").splitlines()[0].split()[-1] == "STATE"
    for line in ("create --subnet 10.0.1.0/24 b", "create --subnet 10.0.2.0/24 inner --internal", "link b testbridge"):
        connected.must(f"network {line}")
    head, *rows = connected.must("network list").splitlines()
    assert head.split()[-2:] == ["STATE", "NOTES"]
    assert [row.split("up ", 1)[1].strip() for row in rows] == ["linked to b", "linked to testbridge", "internal"]
