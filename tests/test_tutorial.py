"""docs/tutorial.md is true: its commands are those of the real plans, in their order, and all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from world import World

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
NETWORK, CONTAINER = "The network", "The container and its port"
ADDED_TO_NETWORK = "What netwrap adds to the network"
OTHER_LAN = "Containers on different LANs"
ADDED_TO_CONTAINER = "What netwrap adds to the container and its port"


def sections() -> dict[str, str]:
    """The page by its headings."""
    parts = re.split(r"^#+ (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> list[list[str]]:
    """The rows of a section's table, without its head; commands without their backticks."""
    lines = [line for line in sections()[section].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def command_of(section: str) -> str:
    """The netwrap command that a section begins with."""
    found = re.match(r"\s*`netwrap (.+)`\n", sections()[section])
    assert found, section
    return found[1]


@pytest.fixture
def planned(world: World) -> dict[str, list[str]]:
    """What the two commands print, by section."""
    network = world.must(f"{command_of(NETWORK)} --dry-run")
    world.must(command_of(NETWORK))
    container = world.must(f"{command_of(CONTAINER)} --dry-run")
    return {NETWORK: commands(network), CONTAINER: commands(container)}


def commands(script: str) -> list[str]:
    return [line for line in script.splitlines() if line and not line.startswith("#") and line != "set -e"]


SECTIONS = [(NETWORK, ADDED_TO_NETWORK), (CONTAINER, ADDED_TO_CONTAINER)]


@pytest.mark.parametrize(("section", "added"), SECTIONS, ids=["network", "container"])
def test_the_tutorials_steps_are_run_in_the_order_of_the_table(
    section: str, added: str, planned: dict[str, list[str]]
) -> None:
    extras = {row[0] for row in rows(added)}
    assert [row[1] for row in rows(section)] == [line for line in planned[section] if line not in extras]


@pytest.mark.parametrize(("section", "added"), SECTIONS, ids=["network", "container"])
def test_what_netwrap_adds_is_run_in_the_order_of_its_table(
    section: str, added: str, planned: dict[str, list[str]]
) -> None:
    steps = {row[1] for row in rows(section)}
    assert [row[0] for row in rows(added)] == [line for line in planned[section] if line not in steps]


def test_what_the_tutorial_left_unsolved_is_every_command_of_network_link(world: World) -> None:
    for line in re.findall(r"`netwrap (network create .+?)`", "".join(sections()[s] for s in (NETWORK, OTHER_LAN))):
        world.must(line)
    assert [row[0] for row in rows(OTHER_LAN)] == commands(world.must(f"{command_of(OTHER_LAN)} --dry-run"))


def test_the_page_begins_with_the_commands_that_it_compares() -> None:
    head = next(iter(sections().values()))
    for section in (NETWORK, CONTAINER):
        assert f"netwrap {command_of(section)} --dry-run" in head


@pytest.mark.parametrize("section", [NETWORK, CONTAINER, OTHER_LAN, ADDED_TO_NETWORK, ADDED_TO_CONTAINER])
def test_every_row_gives_a_reason(section: str) -> None:
    for row in rows(section):
        assert row[-1].endswith((".", ")")), row


# The tutorial's commands in its order; from there, not from netwrap.
TUTORIAL = [
    "ip link add testbridge type bridge",
    "ip addr add 10.0.0.1/24 dev testbridge",
    "ip link set testbridge up",
    "sysctl net.ipv4.conf.all.forwarding=1",
    "iptables -t filter -P FORWARD ACCEPT",
    "iptables -t nat -A POSTROUTING -s 10.0.0.1/24 -o testbridge -j MASQUERADE",
    "ln -s /proc/64560/ns/net /var/run/netns/bird2",
    "ip link add birdveth2 type veth peer name birdveth3",
    "ip link set dev birdveth2 master testbridge",
    "ip link set dev birdveth2 up",
    "ip link set birdveth3 netns bird2",
    "ip netns exec bird2 ip link set lo up",
    "ip netns exec bird2 ip link set birdveth3 up",
    "ip netns exec bird2 ip addr add 10.0.0.2/24 dev birdveth3",
    "ip netns exec bird2 ip route add default via 10.0.0.1",
    "iptables -t nat -A PREROUTING ! -i testbridge -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80",
    "iptables -t nat -A OUTPUT -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80",
]


def test_the_page_has_every_command_of_the_tutorial_in_its_order() -> None:
    assert [row[0] for section in (NETWORK, CONTAINER) for row in rows(section)] == TUTORIAL


# The words of the tutorial's command that a step must have, whatever more it says.
RENAMED = {"birdveth2": "veth5b5fc03", "birdveth3": "eth0"}
SAID_OTHERWISE = ("ln -s", "iptables -t filter -P", "ip link set birdveth3 netns", "ip link add birdveth2")
CORRECTED = {"10.0.0.1/24": "10.0.0.0/24", "!": "", "-i": "", "testbridge": ""}


@pytest.mark.parametrize("row", [row for section in (NETWORK, CONTAINER) for row in rows(section)], ids=lambda r: r[0])
def test_a_step_says_what_the_tutorial_says_and_perhaps_more(row: list[str]) -> None:
    if row[0].startswith(SAID_OTHERWISE):
        assert row[0] != row[1]
        return
    line = row[0].replace("ip netns exec bird2 ip", "ip -n bird2")
    words = [RENAMED.get(word, word) for word in line.split()]
    if words[0] == "iptables":
        words = [CORRECTED.get(word, word) for word in words]
    ours = row[1].split()
    assert [word for word in words if word and word not in ours] == []


def test_a_container_without_a_port_is_the_tutorials_nine_steps_the_guards_of_its_link_and_the_address_of_lo(
    world: World,
) -> None:
    world.must(command_of(NETWORK))
    plain = commands(world.must(command_of(CONTAINER).replace(" -p 8080:80", "") + " --dry-run"))
    steps = [row[1] for row in rows(CONTAINER)][:9]
    assert [line for line in plain if line in steps] == steps
    assert [line for line in plain if line not in steps] == [row[0] for row in rows(ADDED_TO_CONTAINER)[:3]]
