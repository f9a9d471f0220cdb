"""The planner on facts that no small machine shows, without a command line around it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toykernel import ToyKernel

from netwrap import plan
from netwrap.errors import BadInput
from netwrap.facts import QUESTIONS, RULES, Facts
from netwrap.model import Container, Endpoint, Network, State, mac_of
from netwrap.parse import subnet
from netwrap.plan import ConnectWish, NetworkWish
from netwrap.steps import Plan

WEB = NetworkWish("web", subnet=subnet("10.0.0.0/24")[0])
DB = NetworkWish("db", subnet=subnet("10.0.1.0/24")[0])


def run(kernel: ToyKernel, state: State, made: Plan) -> State:
    """The kernel and what stands, after a plan."""
    for step in made.steps:
        kernel.do(step.do)
    networks, containers = dict(state.networks), dict(state.containers)
    for one in made.makes:
        if isinstance(one, Network):
            networks[one.name] = one
        if isinstance(one, Container):
            containers[one.name] = one
    return replace(
        state,
        networks=networks,
        containers=containers,
        endpoints=state.endpoints + tuple(e for e in made.makes if isinstance(e, Endpoint)),
        owners=state.owners | {s.owner for s in made.steps} | {m.owner for m in made.makes},
    )


@pytest.fixture
def kernel() -> ToyKernel:
    return ToyKernel()


@pytest.fixture
def connected(kernel: ToyKernel) -> State:
    """Two networks, and a container on the first."""
    state = State()
    for wish in (WEB, DB):
        state = run(kernel, state, plan.network_create(wish, kernel.facts(), state))
    return run(kernel, state, plan.connect(ConnectWish("web", 64560, name="c1"), kernel.facts([64560]), state))


def without_root(kernel: ToyKernel, pid: int) -> Facts:
    """A look at a process whose namespace may not be seen."""
    seen = kernel.facts([pid])
    return replace(seen, processes={pid: replace(seen.processes[pid], inode=0)}, spaces={}, rules={}, rules_seen=False)


# ---- who a process is, where its namespace cannot be seen


def test_a_known_container_is_found_by_its_process(kernel: ToyKernel, connected: State) -> None:
    made = plan.connect(ConnectWish("db", 64560), without_root(kernel, 64560), connected)
    assert [type(m) for m in made.makes] == [Endpoint]
    assert made.title == "connect c1 to db"
    assert not any(s.kind.startswith("netns") for s in made.steps)
    assert made == replace(plan.connect(ConnectWish("db", 64560), kernel.facts([64560]), connected), steps=made.steps)


def test_a_known_container_is_refused_a_second_time(kernel: ToyKernel, connected: State) -> None:
    with pytest.raises(BadInput, match="c1 is already connected to web"):
        plan.connect(ConnectWish("web", 64560), without_root(kernel, 64560), connected)
    with pytest.raises(BadInput, match="already connected as 'c1'"):
        plan.connect(ConnectWish("db", 64560, name="other"), without_root(kernel, 64560), connected)


@pytest.mark.parametrize("what", ["starttime", "boot"])
def test_a_number_that_is_used_again_is_another_container(what: str, kernel: ToyKernel, connected: State) -> None:
    seen = without_root(kernel, 64560)
    if what == "boot":
        seen = replace(seen, boot_id="another")
    else:
        seen = replace(seen, processes={64560: replace(seen.processes[64560], starttime=7)})
    made = plan.connect(ConnectWish("db", 64560), seen, connected)
    assert [type(m) for m in made.makes] == [Container, Endpoint]


def test_a_process_whose_namespace_can_be_seen_is_known_by_that_alone(kernel: ToyKernel, connected: State) -> None:
    """Another process in the same namespace is the same container."""
    kernel.processes[7] = replace(kernel.processes[64560], pid=7, tgid=7, starttime=99)
    made = plan.connect(ConnectWish("db", 7), kernel.facts([7]), connected)
    assert made.title == "connect c1 to db"


# ---- MACs


def macs(state: State) -> list[str]:
    """Every MAC on the bridge of web: its own, and both ends of each cable."""
    found = [mac_of("bridge", state.networks["web"].gateway)]
    for endpoint in state.endpoints_of(network="web"):
        found += [endpoint.mac, endpoint.veth_mac]
    return found


KINDS = st.sampled_from(["bridge", "veth", "container"])
WISHES = st.none() | st.builds(
    lambda kind, host, n: mac_of(kind, IPv4Address("10.0.0.0") + host, n), KINDS, st.integers(1, 5), st.integers(0, 2)
)


@given(st.lists(WISHES, min_size=1, max_size=3))
def test_no_mac_is_on_a_bridge_twice_whatever_is_wished_for(wished: list[str | None]) -> None:
    kernel, state = ToyKernel(), State()
    state = run(kernel, state, plan.network_create(WEB, kernel.facts(), state))
    for pid, mac in zip((64560, 64561, 64562), wished, strict=False):
        try:
            made = plan.connect(ConnectWish("web", pid, mac=mac), kernel.facts([pid]), state)
        except BadInput:
            continue
        state = run(kernel, state, made)
        assert len(set(macs(state))) == len(macs(state)), macs(state)


def test_a_derived_mac_that_is_in_use_gives_way(kernel: ToyKernel, connected: State) -> None:
    state = replace(connected, endpoints=(replace(connected.endpoints[0], mac="0a:6e:0a:00:00:03"),))
    made = plan.connect(ConnectWish("web", 64561), kernel.facts([64561]), state)
    (endpoint,) = (m for m in made.makes if isinstance(m, Endpoint))
    assert (str(endpoint.ip), endpoint.mac) == ("10.0.0.3", "0e:6e:0a:00:00:03")


# ---- what is asked of the machine


def test_what_is_asked_changes_nothing() -> None:
    assert [line.split()[1] for line in QUESTIONS.splitlines()] == ["show"] * 3
    assert RULES == ("iptables-save",)
