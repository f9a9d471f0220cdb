"""For the drivers beside it: frames that only who may send raw packets (CAP_NET_RAW) can make."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from wires import inside

LLDP, LACP = "01:80:c2:00:00:0e", "01:80:c2:00:00:02"
"""Reserved MACs (IEEE 802.1D): a Linux bridge hands such frames to the stack of the port that they come in by."""
ALL_NODES, ALL_NODES_MAC = IPv6Address("ff02::1"), "33:33:00:00:00:01"


def send(where: str, mac: str, packet: bytes, vlan: int | None = None) -> None:
    """Sends an IP packet in a frame to a MAC from the eth0 of a namespace, perhaps with a VLAN tag (IEEE 802.1Q)."""
    kind = struct.pack("!H", 0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    with inside(where), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(_mac(mac) + raw.getsockname()[4] + tag + kind + packet)


def udp4(source: str, target: str, port: int) -> bytes:
    """A UDP datagram over IPv4 (RFC 768, RFC 791)."""
    one, other = IPv4Address(source).packed, IPv4Address(target).packed
    datagram = struct.pack("!4H", 1024, port, 8 + len(_WORDS), 0) + _WORDS
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0) + one + other
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + datagram


def udp6(source: str, target: IPv6Address, port: int) -> bytes:
    """The same over IPv6 (RFC 8200)."""
    datagram = struct.pack("!4H", 1024, port, 8 + len(_WORDS), 0) + _WORDS
    return _over_ipv6(source, target, socket.IPPROTO_UDP, datagram, 6)


def router_advertisement(source: str, prefix: str) -> bytes:
    """ "I am your router", with a prefix to take an address from (RFC 4861, 4.2 and 4.6.2)."""
    offer = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + IPv6Address(prefix).packed
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + offer
    return _over_ipv6(source, ALL_NODES, socket.IPPROTO_ICMPV6, message, 2)


def link_local(where: str) -> str:
    """The address that IPv6 gives the eth0 of a namespace by itself."""
    with inside(where):
        rows = [line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines()]
    return next(str(IPv6Address(bytes.fromhex(row[0]))) for row in rows if row[5] == "eth0" and row[3] == "20")


_WORDS = b"who is there?"


def _over_ipv6(source: str, target: IPv6Address, protocol: int, message: bytes, at: int) -> bytes:
    """An IPv6 packet; the checksum of the message stands at that byte of it."""
    addresses = IPv6Address(source).packed + target.packed
    checksum = _checksum(addresses + struct.pack("!II", len(message), protocol) + message)
    message = message[:at] + struct.pack("!H", checksum) + message[at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(message), protocol, 255) + addresses + message


def _checksum(data: bytes) -> int:
    """The checksum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
