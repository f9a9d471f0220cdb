"""What a dry run's script leaves: its way back, and the commands that make room for a network that netwrap knows."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from toytables import split
from world import World

from netwrap.views.script import BACK

CREATE = "network create --subnet 10.0.0.1/24 testbridge"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80 -p 53:53/udp"


def by_hand(world: World, hint: str) -> int:
    """Runs the commands of a hint as a shell would; gives how many they are."""
    commands = hint.partition("  #")[0].split(" && ")
    for command in commands:
        world.kernel.run(split(command))
    return len(commands)


BUILT = [
    ([], CREATE),
    ([], f"{CREATE} --internal"),
    ([], "network create a-network-with-a-long-name --mtu 1400"),
    ([CREATE], "network create --subnet 10.0.1.0/24 second"),
    ([CREATE], CONNECT),
    ([CREATE, CONNECT], "publish bird2 9000-9009:90-99 --allow-from 10.7.0.0/16"),
    ([CREATE, "network create --subnet 10.0.1.0/24 second"], "network link testbridge second"),
    ([CREATE, "network create --subnet 10.0.1.0/24 second", CONNECT], "connect --pid 64560 --net second"),
]


@pytest.mark.parametrize(("before", "line"), BUILT)
def test_the_script_of_a_build_up_ends_with_its_way_back_and_says_so_first(
    before: list[str], line: str, world: World
) -> None:
    world.kernel.tools.add("conntrack")
    for command in before:
        world.must(command)
    start, script = world.kernel.snapshot(), world.must(f"{line} --dry-run")
    head = script.split("set -e")[0]
    (sed,) = re.findall(r"(sed -n .*) SCRIPT \| bash", head)
    assert "netwrap does not know when this script is run, so" in head.replace("\n# ", " ")
    back = subprocess.run(split(sed), input=script, text=True, capture_output=True, check=True).stdout
    assert all(line.startswith(BACK) for line in script.split("# To undo it, the last step first:")[1].splitlines()[1:])
    world.run_script(script)
    assert world.kernel.snapshot() != start
    world.run_script(back)
    assert world.kernel.snapshot() == start


def test_the_script_of_a_teardown_says_that_netwrap_will_miss_what_it_removes(world: World) -> None:
    world.must(CREATE)
    script = world.must("network remove testbridge --dry-run")
    assert "netwrap does not know when this script is run: `netwrap status` will then report" in script.replace(
        "\n# ", " "
    )
    assert BACK not in script


def test_a_script_that_takes_itself_back_says_nothing_of_that(world: World) -> None:
    world.must(CREATE)
    script = world.must("run --net testbridge --dry-run -- true")
    assert "does not know" not in script
    assert BACK not in script


def test_what_is_released_first_is_no_part_of_the_way_back(world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    world.prepare("end 64560")
    script = world.must("connect --pid 64561 --net testbridge --name web --dry-run")
    assert "\nip netns del bird2" in script
    assert "bird2" not in script.split("# To undo it, the last step first:")[1]


LOST: list[tuple[str, list[str], str]] = [
    ("a dry run's script", [], CREATE),
    ("the script of an internal network", [], f"{CREATE} --internal"),
    ("one beside a network that stands", ["network create --subnet 10.0.1.0/24 second"], CREATE),
    ("an internal one beside a network", ["network create --subnet 10.0.1.0/24 second"], f"{CREATE} --internal"),
    ("one of a long name", [], "network create --subnet 10.0.0.1/24 a-network-with-a-long-name"),
]


@pytest.mark.parametrize(("_about", "before", "line"), LOST)
@pytest.mark.parametrize("gone", ["nothing", "link", "filter", "nat", "mangle"])
def test_a_network_over_such_leftovers_is_refused_with_the_commands_that_remove_all_of_them(
    _about: str, before: list[str], line: str, gone: str, world: World
) -> None:
    for command in before:
        world.must(command)
    start, made = world.kernel.snapshot(), world.must(f"{line} --dry-run")
    world.run_script(made)
    if gone == "link":
        world.kernel.run(["ip", "link", "del", "dev", made.split("ip link add name ")[1].split()[0]])
    elif gone != "nothing":
        for chain in [c for (t, c) in world.kernel.facts().rules if t == gone and not before]:
            world.kernel.run(split(f"iptables -w -t {gone} -F {chain}"))
    result = world.netwrap(line)
    assert result.code == 2
    assert "not in this state" in result.complaint[0]
    by_hand(world, result.complaint[1])
    left = world.kernel.snapshot()
    if before:  # else the host goes on forwarding: nobody knows what was before
        assert left == start
    world.must(line)
    world.must("network remove --force " + line.split()[-1 if "internal" not in line else -2])
    assert world.kernel.snapshot() == left


def test_everything_that_a_lost_state_has_left_is_removed(world: World) -> None:
    for line in (CREATE, "network create --subnet 10.0.1.0/24 second", "network link testbridge second", CONNECT):
        world.must(line)
    world.kernel.run(split("iptables -w -A OUTPUT -j NETWRAP"))  # somebody else's, that leads to our chain
    world.kernel.run(split("iptables -w -A NETWRAP -s 10.9.9.9/32 -j DROP"))
    shutil.rmtree(world.directory)
    said, hint = world.netwrap("network create third").complaint
    for name in ("interface testbridge", "interface second", "interface veth", "chain NETWRAP", "rules"):
        assert name in said
    assert by_hand(world, hint) > 20
    facts = world.kernel.facts()
    assert not [rule for rules in facts.rules.values() for rule in rules]
    assert [name for name in facts.host.links if name.startswith(("veth", "testbridge", "second"))] == []
    world.must("network create third")


def test_what_stands_beside_it_is_not_touched(world: World) -> None:
    world.must(CREATE)
    world.must(CONNECT)
    start = world.everything()
    world.run_script(world.must("network create --subnet 10.0.1.0/24 second --dry-run"))
    by_hand(world, world.netwrap("network create --subnet 10.0.1.0/24 second").complaint[1])
    assert world.everything() == start


@pytest.mark.parametrize("line", ["connect --pid 64560 --net lan", "run --net lan -- true"])
def test_a_dry_run_on_a_network_that_is_only_printed_says_to_make_it_first(
    line: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    result = world.netwrap(line.replace(" --net", " --dry-run --net"))
    assert result.code == 2
    assert "no network 'lan'" in result.complaint[0]
    assert result.complaint[1].startswith("netwrap network create lan  #")
    assert "a dry run makes none" in result.complaint[1]
    assert world.netwrap(line.replace("lan", "'b c'")).complaint == ("no network 'b c'", "netwrap network list")
