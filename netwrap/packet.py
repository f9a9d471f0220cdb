"""Packets as bytes: what `check` sends, and what it reads from the packets that it sees on links."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

ARP, IPV4 = 0x0806, 0x0800
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}
_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
UNREACHABLE, REDIRECT, EXCEEDED = 3, 5, 11
CODES = {
    0: "no route to that network",
    1: "no route to that host",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "too big for a link on the way",
    9: "forbidden (network)",
    10: "forbidden (host)",
    13: "forbidden",
}
"""What a router says when it drops a packet: the codes of ICMP type 3 (RFC 792, RFC 1812)."""


@dataclass(frozen=True)
class Packet:
    """The fields read from a packet; `what` is request, answer, refused, or error (an ICMP error that quotes it)."""

    kind: str
    what: str
    src: str
    dst: str
    key: int
    """Identifies the packet's sender: the identifier of a ping, or the port of the client; 0 for ARP."""
    port: int = 0
    """The port of the server; for an ICMP error, its code."""
    src_mac: str = ""
    dst_mac: str = ""
    size: int = 0
    ttl: int = 0


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071)."""
    words: tuple[int, ...] = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(key: int, size: int = 64) -> bytes:
    """Return an ICMP echo request of `size` bytes, including its header (RFC 792)."""
    payload = b"netwrap check " * (size // 14 + 1)
    body = struct.pack("!HH", key, 1) + payload[: size - 8]
    return struct.pack("!BBH", 8, 0, checksum(struct.pack("!BBH", 8, 0, 0) + body)) + body


def syn(src: str, dst: str, key: int, port: int) -> bytes:
    """Return the first segment of a TCP connection (RFC 9293)."""
    head = struct.pack("!HHIIBBHHH", key, port, key << 8, 0, 0x50, _SYN, 1024, 0, 0)
    return head[:16] + struct.pack("!H", checksum(_pseudo(src, dst, "tcp", head))) + head[18:]


def spoilt(protocol: str, src: str, dst: str, key: int, port: int) -> bytes:
    """Return a datagram, or the first packet of an SCTP association, with a wrong checksum: it takes the same way as a
    correct one, but no program ever gets it."""
    if protocol == "sctp":  # an INIT chunk (RFC 9260); its CRC is never 0
        return struct.pack("!HHII", key, port, 0, 0) + struct.pack("!BBHIIHHI", 1, 0, 20, key, 65536, 1, 1, key)
    head = struct.pack("!HHHH", key, port, 16, 0) + b"netwrap "
    right = checksum(_pseudo(src, dst, "udp", head))
    return head[:6] + struct.pack("!H", (right ^ 0x5A5A) or 1) + head[8:]


def datagram(src: str, dst: str, key: int, port: int) -> bytes:
    """Return a correct UDP datagram."""
    head = struct.pack("!HHHH", key, port, 16, 0) + b"netwrap "
    return head[:6] + struct.pack("!H", checksum(_pseudo(src, dst, "udp", head)) or 0xFFFF) + head[8:]


def _pseudo(src: str, dst: str, protocol: str, segment: bytes) -> bytes:
    head = IPv4Address(src).packed + IPv4Address(dst).packed
    return head + struct.pack("!BBH", 0, _NUMBERS[protocol], len(segment)) + segment


def ipv4(src: str, dst: str, protocol: str, body: bytes) -> bytes:
    """Return an IPv4 packet (RFC 791)."""
    ends = IPv4Address(src).packed + IPv4Address(dst).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, _NUMBERS[protocol], 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ethernet(src_mac: str, dst_mac: str, packet: bytes) -> bytes:
    """Return an Ethernet frame that carries an IPv4 packet."""
    return _bytes(dst_mac) + _bytes(src_mac) + struct.pack("!H", IPV4) + packet


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def parse(data: bytes, protocol: int, *, framed: bool) -> Packet | None:
    """Read a packet seen on a link; None if it is truncated or of a kind that `check` does not send."""
    macs = (_mac(data[6:12]), _mac(data[:6])) if framed else ("", "")
    body = data[14:] if framed else data
    try:
        if protocol == ARP:
            return _arp(body, macs)
        return _ip(body, macs) if protocol == IPV4 else None
    except (struct.error, ValueError, IndexError):
        return None


def _mac(raw: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in raw)


def _arp(body: bytes, macs: tuple[str, str]) -> Packet | None:
    (operation,) = struct.unpack("!H", body[6:8])
    ends = str(IPv4Address(body[14:18])), str(IPv4Address(body[24:28]))
    what = {1: "request", 2: "answer"}.get(operation)
    return Packet("arp", what, *ends, 0, 0, *macs) if what else None


def _ip(body: bytes, macs: tuple[str, str], *, quoted: bool = False) -> Packet | None:
    start = (body[0] & 0x0F) * 4
    kind = PROTOCOLS.get(body[9])
    ends = str(IPv4Address(body[12:16])), str(IPv4Address(body[16:20]))
    inner, size = body[start:], len(body)
    if kind == "icmp":
        what = {8: "request", 0: "answer"}.get(inner[0])
        if what:
            return Packet(kind, what, *ends, struct.unpack("!H", inner[4:6])[0], 0, *macs, size, body[8])
        if inner[0] in (UNREACHABLE, EXCEEDED) and not quoted:
            about = _ip(inner[8:], macs, quoted=True)
            code = inner[1] if inner[0] == UNREACHABLE else EXCEEDED
            return about and Packet(about.kind, "error", *ends, about.key, code, *macs, size)
        return None
    if kind in ("tcp", "udp", "sctp"):
        source, target = struct.unpack("!HH", inner[:4])
        what = "request"
        if kind == "tcp" and not quoted:
            flags = inner[13]
            what = "refused" if flags & _RST else "answer" if flags & _ACK else "request"
        if what == "request":
            return Packet(kind, what, *ends, source, target, *macs, size, body[8])
        return Packet(kind, what, *ends, target, source, *macs, size, body[8])
    return None
