"""What may be said to netwrap, and what its values say of themselves."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwrap import model, parse
from netwrap.errors import BadInput
from netwrap.model import Container, Endpoint, Network, Publication, PublishedPort, State

GOOD_NAMES = ["a", "testbridge", "web.1", "a_b-c", "0a", "64560-0", "A" * 63]
BAD_NAMES = ["", "-a", ".a", "_a", "a/b", "..", "a b", "a\n", "\n", "%d", "é", "a" * 64, "all", "default", "lo", "a\0"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_taken_as_it_is(name: str) -> None:
    assert parse.network_name(name) == parse.container_name(name) == name


@pytest.mark.parametrize("name", ["0", "64560", "00", "1" * 63])
def test_digits_alone_are_a_networks_name_and_no_containers(name: str) -> None:
    assert parse.network_name(name) == name
    with pytest.raises(BadInput, match="looks like a pid") as caught:
        parse.container_name(name)
    assert repr(name) in caught.value.message


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_with_the_name_in_the_message(name: str) -> None:
    for check in (parse.network_name, parse.container_name):
        with pytest.raises(BadInput) as caught:
            check(name)
        assert repr(name) in caught.value.message
        assert caught.value.hint.startswith("netwrap ")


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name != "a" * 64] + ["a" * 16])
def test_a_bad_interface_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="interface name"):
        parse.link_name(name)


def test_an_interface_name_has_up_to_15_characters() -> None:
    assert parse.link_name("a" * 15) == "a" * 15


@given(st.text(max_size=20))
def test_no_name_that_is_taken_could_be_a_path_an_option_or_a_pattern(name: str) -> None:
    try:
        parse.network_name(name)
    except BadInput:
        return
    assert name.isascii()
    assert not set(name) & set("/ %:*?$`'\"\\\n\t\0")
    assert name[0] not in "-._"


def test_a_bridge_has_its_networks_name_or_one_of_15_characters() -> None:
    assert model.bridge_name("a" * 15) == "a" * 15
    long = model.bridge_name("a" * 16)
    assert len(long) == 11
    assert long.startswith("br-")
    assert long != model.bridge_name("a" * 17)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_macs_are_local_unicast_and_differ_by_address_and_by_end(one: int, other: int) -> None:
    kinds = ("bridge", "veth", "container")
    macs = {model.mac_of(kind, IPv4Address(n)) for kind in kinds for n in (one, other)}
    assert len(macs) == 3 * len({one, other})
    for mac in macs:
        assert parse.mac_address(mac) == mac
        assert int(mac[:2], 16) & 3 == 2  # locally administered, not a group (IEEE 802)


def test_names_that_follow_from_words_are_the_same_each_time_and_differ_by_word() -> None:
    assert model.digest("a", 1) == model.digest("a", "1")
    assert model.digest("a", "b") != model.digest("b", "a")
    assert len(model.digest("a", length=7)) == 7


@pytest.mark.parametrize("mac", ["0A:6e:00:00:00:01", "02:00:00:00:00:00"])
def test_a_mac_is_taken_in_lower_case(mac: str) -> None:
    assert parse.mac_address(mac) == mac.lower()


@pytest.mark.parametrize(
    "mac", ["", "01:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02-00-00-00-00-01", "2:0"]
)
def test_a_mac_that_no_link_can_have_is_refused(mac: str) -> None:
    with pytest.raises(BadInput, match="not a unicast MAC"):
        parse.mac_address(mac)


@pytest.mark.parametrize(
    ("text", "net", "gateway"),
    [
        ("10.0.0.1/24", "10.0.0.0/24", "10.0.0.1"),
        ("10.0.0.0/24", "10.0.0.0/24", None),
        ("10.0.0.77/24", "10.0.0.0/24", "10.0.0.77"),
        ("10.0.0.0/8", "10.0.0.0/8", None),
        ("192.168.7.4/30", "192.168.7.4/30", None),
        ("10.0.0.1/255.255.255.0", "10.0.0.0/24", "10.0.0.1"),
        ("203.0.113.0/24", "203.0.113.0/24", None),
    ],
)
def test_the_host_bits_of_a_subnet_name_the_gateway(text: str, net: str, gateway: str | None) -> None:
    assert parse.subnet(text) == (IPv4Network(net), gateway and IPv4Address(gateway))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a CIDR"),
        ("10.0.0.0/33", "not a CIDR"),
        ("10.0.0.0/-1", "not a CIDR"),
        ("10.0.0/24", "not a CIDR"),
        ("010.0.0.0/24", "not a CIDR"),
        ("10.0.0.0/24/24", "not a CIDR"),
        (" 10.0.0.0/24", "not a CIDR"),
        ("10.0.0.0", "no prefix length"),
        ("fd00::1/64", "IPv6"),
        ("10.0.0.0/31", "too small"),
        ("10.0.0.0/32", "too small"),
        ("10.0.0.0/7", "too large"),
        ("127.1.0.0/16", "not for ordinary hosts"),
        ("224.0.0.0/8", "not for ordinary hosts"),
        ("240.0.0.0/8", "not for ordinary hosts"),
        ("255.255.255.0/24", "not for ordinary hosts"),
        ("169.254.0.0/16", "not for ordinary hosts"),
        ("0.0.0.0/8", "not for ordinary hosts"),
        ("0.1.2.0/24", "not for ordinary hosts"),
    ],
)
def test_a_bad_subnet_is_refused_and_says_why(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        parse.subnet(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint.startswith("netwrap network create --subnet ")


@pytest.mark.parametrize("text", ["10.0.0.5/25", "ten", "fd00::/64", ""])
def test_a_bad_range_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is not an IPv4 CIDR"):
        parse.address_range(text)


def test_a_host_has_neither_the_networks_address_nor_the_broadcast() -> None:
    net = IPv4Network("10.0.0.0/30")
    assert [ip for ip in map(IPv4Address, range(int(net[0]) - 1, int(net[0]) + 5)) if model.usable(net, ip)] == [
        net[1],
        net[2],
    ]


SPECS = [
    ("8080:80", "8080:80/tcp", "8080", "10.0.0.2:80"),
    ("8080:80/udp", "8080:80/udp", "8080", "10.0.0.2:80"),
    ("8080:80/SCTP", "8080:80/sctp", "8080", "10.0.0.2:80"),
    ("0.0.0.0:8080:80", "8080:80/tcp", "8080", "10.0.0.2:80"),
    ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp", "8080", "10.0.0.2:80"),
    ("8000-8010:8000-8010", "8000-8010:8000-8010/tcp", "8000:8010", "10.0.0.2"),
    ("8000-8010:80-90", "8000-8010:80-90/tcp", "8000:8010", "10.0.0.2:80-90/8000"),
    ("8080-8080:80-80", "8080:80/tcp", "8080", "10.0.0.2:80"),
    ("1-65535:1-65535", "1-65535:1-65535/tcp", "1:65535", "10.0.0.2"),
]


@pytest.mark.parametrize(("text", "spec", "dport", "destination"), SPECS)
def test_a_port_is_told_in_the_words_of_the_command_line_and_of_iptables(
    text: str, spec: str, dport: str, destination: str
) -> None:
    port = parse.published_port(text)
    assert (port.spec, port.dport, port.destination(IPv4Address("10.0.0.2"))) == (spec, dport, destination)
    assert parse.published_port(port.spec) == port


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "80", "a:80", "80:a", "0:80", "80:0", "65536:80", "80:65536", "-1:80", "80-:80", "-80:80", "+80:80"),
        *("8000-8001:80", "80:80-81", "8001-8000:80-81", "80:80/", "80:80/icmp", "80:80/tcp/udp", "80:80/tcp udp"),
        *("1.2.3:80:80", ":80:80", "1.2.3.4.5:80:80", "a:b:c:d", "80 :80", "８０:80", "80-81-82:80-81-82", "000080:80"),
        *("224.0.0.1:80:80", "255.255.255.255:80:80", "[::1]:80:80"),
    ],
)
def test_a_bad_port_is_refused_with_what_was_given(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse.published_port(text)
    assert caught.value.exit_code == 2
    assert any(part in caught.value.message for part in (repr(text), repr(text.split(":")[0])))


ports = st.builds(
    lambda first, count, protocol, ip: PublishedPort(first, first, protocol, count, ip),
    st.integers(1, 30),
    st.integers(1, 5),
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([None, IPv4Address("127.0.0.1"), IPv4Address("192.168.1.10")]),
)


def _wants(port: PublishedPort) -> set[tuple[str, int, str]]:
    ips = [str(port.host_ip)] if port.host_ip else ["127.0.0.1", "192.168.1.10", "any other"]
    return {(ip, n, port.protocol) for ip in ips for n in range(port.host_port, port.host_port + port.count)}


@given(ports, ports)
def test_two_ports_clash_where_both_want_one_port_of_one_address(one: PublishedPort, other: PublishedPort) -> None:
    assert one.clashes(other) == other.clashes(one) == bool(_wants(one) & _wants(other))


@given(ports)
def test_every_port_is_read_back_from_its_spec(port: PublishedPort) -> None:
    assert parse.published_port(port.spec) == port


def test_only_a_loopback_address_is_for_the_host_alone() -> None:
    assert parse.published_port("127.0.0.2:80:80").host_only
    assert not parse.published_port("80:80").host_only
    assert not parse.published_port("192.168.1.10:80:80").host_only


NET = Network("n", "bridge", IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"), "n", 1500)
ENDPOINT = Endpoint("c", "n", IPv4Address("10.0.0.2"), "m", "eth0", "v", "vm", "p")
PORT = parse.published_port("8080:80")


def test_each_object_is_the_owner_of_its_steps() -> None:
    assert NET.owner == "network:n"
    assert Container("c", 7, True).owner == "container:c"
    assert ENDPOINT.owner == "endpoint:c/n"
    assert Publication("c", "n", PORT).owner == "port:c/n/8080:80/tcp"
    assert NET.gateway_cidr == "10.0.0.1/24"


def test_what_stands_is_asked_by_container_by_network_or_by_both() -> None:
    other = Endpoint("c", "m", IPv4Address("10.0.1.2"), "m", "eth1", "w", "wm", "q")
    state = State({"n": NET}, {}, (ENDPOINT, other), (Publication("c", "n", PORT),))
    assert state.endpoints_of(container="c") == (ENDPOINT, other)
    assert state.endpoints_of(network="m") == (other,)
    assert state.endpoints_of(container="d", network="m") == ()
    assert state.ports_of(ENDPOINT) == (PORT,)
    assert state.ports_of(other) == ()
    assert state.network("n") is NET
    with pytest.raises(BadInput, match="no network 'x'"):
        state.network("x")
    with pytest.raises(BadInput, match="no container 'x'"):
        state.container("x")
