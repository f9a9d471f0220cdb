"""Which address next: against a model that counts on its fingers."""

from __future__ import annotations

import time
import tracemalloc
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwrap.errors import BadInput, NetwrapError
from netwrap.ipam import free_subnet, next_address

NET = IPv4Network("10.0.0.0/24")


def ip(text: str) -> IPv4Address:
    return IPv4Address(text)


@st.composite
def questions(
    draw: st.DrawFn,
) -> tuple[IPv4Network, set[IPv4Address], IPv4Address | None, IPv4Network | None]:
    """A small subnet, what is taken in it, where the round robin is, and perhaps a part of the subnet."""
    subnet = IPv4Network((draw(st.sampled_from([0x0A000000, 0xC0A80100])), draw(st.integers(26, 30))))
    ip_range = None
    if draw(st.booleans()):
        ip_range = draw(st.sampled_from(list(subnet.subnets(new_prefix=draw(st.integers(subnet.prefixlen, 32))))))
    addresses = list(subnet)
    taken = draw(st.sets(st.sampled_from(addresses)))
    last = draw(st.none() | st.sampled_from(addresses))
    return subnet, taken, last, ip_range


def naive(
    subnet: IPv4Network, taken: set[IPv4Address], last: IPv4Address | None, ip_range: IPv4Network | None
) -> IPv4Address | None:
    """The same by trying: each host's address of the pool, those behind `last` first."""
    hosts = [a for a in list(subnet)[1:-1] if a in (ip_range or subnet)]
    first = [a for a in hosts if last is not None and last in hosts and a > last]
    return next((a for a in first + hosts if a not in taken), None)


@given(questions())
def test_the_next_address_is_the_one_that_trying_finds(
    question: tuple[IPv4Network, set[IPv4Address], IPv4Address | None, IPv4Network | None],
) -> None:
    wanted = naive(*question)
    if wanted is None:
        with pytest.raises(NetwrapError, match="no address is free"):
            next_address(*question)
    else:
        assert next_address(*question) == wanted


@given(questions())
def test_network_broadcast_and_taken_addresses_are_never_given(
    question: tuple[IPv4Network, set[IPv4Address], IPv4Address | None, IPv4Network | None],
) -> None:
    subnet, taken, _, ip_range = question
    try:
        found = next_address(*question)
    except NetwrapError:
        return
    assert found in (ip_range or subnet)
    assert found not in {subnet.network_address, subnet.broadcast_address, *taken}


def test_a_released_address_is_not_the_next_one_given_out() -> None:
    assert next_address(NET, {ip("10.0.0.1")}, last=ip("10.0.0.2")) == ip("10.0.0.3")


def test_a_released_address_is_given_again_when_the_round_comes_by() -> None:
    taken = set(NET) - {ip("10.0.0.2")}
    assert next_address(NET, taken, last=ip("10.0.0.2")) == ip("10.0.0.2")


def test_round_the_end_the_gateway_is_passed_over() -> None:
    assert next_address(NET, {ip("10.0.0.1")}, last=ip("10.0.0.254")) == ip("10.0.0.2")


def test_all_hosts_of_a_subnet_are_given_once_before_it_is_exhausted() -> None:
    taken, last = {ip("10.0.0.1")}, None
    for _ in range(253):
        last = next_address(NET, taken, last)
        assert last not in taken
        taken.add(last)
    assert len(taken) == 254
    with pytest.raises(NetwrapError) as caught:
        next_address(NET, taken, last)
    assert caught.value.message == "no address is free in 10.0.0.0/24: all 254 are in use"
    assert not isinstance(caught.value, BadInput)


def test_the_host_part_carries_over_from_one_byte_to_the_next() -> None:
    wide = IPv4Network("10.0.0.0/22")
    assert next_address(wide, (), last=ip("10.0.0.254")) == ip("10.0.0.255")
    assert next_address(wide, (), last=ip("10.0.0.255")) == ip("10.0.1.0")


def test_in_a_range_at_the_edge_of_its_subnet_network_and_broadcast_are_not_given() -> None:
    assert next_address(NET, (), ip_range=IPv4Network("10.0.0.0/30")) == ip("10.0.0.1")
    top = IPv4Network("10.0.0.252/30")
    with pytest.raises(NetwrapError, match="all 3 are in use"):
        next_address(NET, {ip(f"10.0.0.{n}") for n in (252, 253, 254)}, ip_range=top)


def test_a_range_of_the_broadcast_address_alone_has_nothing_to_give() -> None:
    with pytest.raises(NetwrapError, match="all 0 are in use"):
        next_address(NET, (), ip_range=IPv4Network("10.0.0.255/32"))


def test_the_middle_of_a_slash_8_is_reached_without_memory_or_time_for_each_address() -> None:
    huge = IPv4Network("10.0.0.0/8")
    taken = {ip("10.0.0.1") + n for n in range(1000)}
    tracemalloc.start()
    begin = time.perf_counter()
    assert next_address(huge, taken, last=ip("10.255.255.254")) == ip("10.0.3.233")
    assert next_address(huge, taken, last=ip("10.100.0.0")) == ip("10.100.0.1")
    seconds, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 1_000_000


def test_the_first_free_subnet_overlaps_nothing_occupied() -> None:
    assert free_subnet([]) == IPv4Network("10.77.0.0/24")
    assert free_subnet([IPv4Network("10.77.0.128/25")]) == IPv4Network("10.77.1.0/24")
    assert free_subnet([IPv4Network("10.0.0.0/8")]) == IPv4Network("192.168.128.0/24")


@given(st.sets(st.integers(0, 40)))
def test_a_free_subnet_is_the_first_of_those_that_are_left(used: set[int]) -> None:
    found = free_subnet([IPv4Network(f"10.77.{n}.7/32") for n in used])
    assert found == IPv4Network(f"10.77.{min(set(range(42)) - used)}.0/24")


def test_no_free_subnet_is_an_error_with_the_way_on() -> None:
    with pytest.raises(NetwrapError) as caught:
        free_subnet([IPv4Network("0.0.0.0/0")])
    assert "--subnet" in caught.value.hint
