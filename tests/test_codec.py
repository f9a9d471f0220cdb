"""Objects and steps as JSON, and back."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwrap import codec
from netwrap.model import Container, Endpoint, Netns, Network, Publication, PublishedPort
from netwrap.steps import Cmd, Object, Probe, Step

NET = Network("n", "bridge", IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"), "n", 1500)
CONTAINER = Container("c", 4026532561, True, 64560, 645600, "boot")
ENDPOINT = Endpoint("c", "n", IPv4Address("10.0.0.2"), "0a:6e:0a:00:00:02", "eth0", "veth1", "06:6e:0a:00:00:02", "p1")
PORT = PublishedPort(8080, 80)
OBJECTS: list[Object] = [NET, CONTAINER, ENDPOINT, Publication("c", "n", PORT)]
MORE: list[Object] = [
    Network("m", "macvlan", NET.subnet, NET.gateway, "br-0", 9000, True, IPv4Network("10.0.0.128/25")),
    Container("d", 1, False),
    Container("e", 0, True, 7, 8, "boot", True),
    Endpoint("c", "m", IPv4Address("10.0.0.3"), "m", "eth1", "v", "w", "p", default_route=False),
    Publication("c", "n", PublishedPort(8000, 80, "udp", 11, IPv4Address("127.0.0.1"))),
]
NS = Netns("c", 7)
STEPS = [
    Step("link up", Cmd(("ip", "link")), Cmd(("ip", "x"), NS), Probe("up", ("a", "b"), NS), "Why?"),
    Step("rule", Cmd(("iptables", "-w", "!", "a b")), None, Probe("rule", ("filter", "é", "$x")), "Because\nof that."),
]


@pytest.mark.parametrize("made", OBJECTS + MORE, ids=lambda made: made.owner)
def test_an_object_comes_back_as_it_was(made: Object) -> None:
    assert codec.load_object(type(made).__name__, codec.dump_object(made)) == made


@pytest.mark.parametrize("step", STEPS, ids=["with namespaces", "without undo"])
def test_a_step_comes_back_as_it_was(step: Step) -> None:
    assert codec.load_step(codec.dump_step(step), "") == step


words = st.lists(st.text(max_size=6), min_size=1, max_size=4).map(tuple)
spaces = st.none() | st.builds(Netns, st.text(min_size=1, max_size=5), st.integers(0, 2**32))
commands = st.builds(Cmd, words, spaces)
probes = st.builds(Probe, st.text(), words, spaces)


@given(st.builds(Step, st.text(), commands, st.none() | commands, probes, st.text()))
def test_every_step_comes_back_as_it_was(step: Step) -> None:
    assert codec.load_step(codec.dump_step(step), "") == step


def test_an_object_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        codec.load_object("Router", "{}")
