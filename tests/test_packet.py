"""What is sent and read: packets as bytes."""

from __future__ import annotations

import pytest

from netwrap.packet import (
    ARP,
    IPV4,
    Packet,
    checksum,
    datagram,
    echo,
    ethernet,
    ipv4,
    parse,
    spoilt,
    syn,
)

ENDS = ("10.0.0.2", "10.0.0.3")
MACS = ("0a:6e:0a:00:00:02", "0a:6e:0a:00:00:03")


def read(protocol: str, body: bytes) -> Packet | None:
    return parse(ethernet(*MACS, ipv4(*ENDS, protocol, body)), IPV4, framed=True)


def test_a_checksum_of_what_holds_its_own_is_nothing() -> None:
    assert checksum(echo(4711)) == 0
    assert checksum(ipv4(*ENDS, "icmp", b"")) == 0
    assert checksum(b"\x01\x02\x03") == checksum(b"\x01\x02\x03\x00")


@pytest.mark.parametrize(("protocol", "make"), [("tcp", syn), ("udp", datagram), ("udp", spoilt)])
def test_what_is_sent_is_read_again_and_right_but_where_it_is_to_be_wrong(protocol: str, make: object) -> None:
    body = spoilt("udp", *ENDS, 40000, 53) if make is spoilt else make(*ENDS, 40000, 53)  # type: ignore[operator]
    assert read(protocol, body) == Packet(protocol, "request", *ENDS, 40000, 53, *MACS, 20 + len(body), 64)
    pseudo = ipv4(*ENDS, protocol, body)[12:20] + bytes([0, {"tcp": 6, "udp": 17}[protocol]]) + len(body).to_bytes(2)
    assert (checksum(pseudo + body) == 0) == (make is not spoilt)


def test_an_association_of_sctp_begins_with_a_wrong_sum() -> None:
    body = spoilt("sctp", *ENDS, 40000, 90)
    assert body[8:12] == bytes(4)
    assert read("sctp", body) == Packet("sctp", "request", *ENDS, 40000, 90, *MACS, 20 + len(body), 64)


@pytest.mark.parametrize(("flags", "what"), [(0x02, "request"), (0x12, "answer"), (0x14, "refused"), (0x04, "refused")])
def test_of_tcp_the_handshake_is_read(flags: int, what: str) -> None:
    body = bytearray(syn(*ENDS, 40000, 80))
    body[13] = flags
    found = read("tcp", bytes(body))
    assert found is not None
    key = (40000, 80) if what == "request" else (80, 40000)
    assert (found.what, (found.key, found.port)) == (what, key)


def test_of_an_icmp_error_it_is_read_whose_packet_it_is_about_and_who_says_it() -> None:
    quoted = ipv4(*ENDS, "udp", datagram(*ENDS, 40000, 53))[:28]
    found = parse(ipv4("10.0.0.1", "10.0.0.2", "icmp", bytes([3, 13, 0, 0, 0, 0, 0, 0]) + quoted), IPV4, framed=False)
    assert found is not None
    assert (found.kind, found.what, found.key, found.port, found.src) == ("udp", "error", 40000, 13, "10.0.0.1")


def test_arp_is_read() -> None:
    body = bytes.fromhex("0001080006040001") + bytes(6) + bytes([10, 0, 0, 2]) + bytes(6) + bytes([10, 0, 0, 1])
    found = parse(bytes(12) + b"\x08\x06" + body, ARP, framed=True)
    assert found is not None
    assert (found.kind, found.what, found.src, found.dst) == ("arp", "request", "10.0.0.2", "10.0.0.1")


def test_what_is_cut_off_or_of_another_kind_is_nothing() -> None:
    whole = ethernet(*MACS, ipv4(*ENDS, "tcp", syn(*ENDS, 40000, 80)))
    for length in range(46):
        assert parse(whole[:length], IPV4, framed=True) is None
    assert parse(whole, 0x86DD, framed=True) is None
    assert read("icmp", bytes([13, 0, 0, 0, 0, 0, 0, 0])) is None
