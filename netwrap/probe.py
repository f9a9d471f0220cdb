"""Sends packets from inside network namespaces and watches where they pass. Changes nothing, needs no threads."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from netwrap import packet
from netwrap.errors import NetwrapError
from netwrap.shot import Point, Result, Shot, Sighting

AGAIN = (0.4, 1.0)
"""When an unanswered ping is sent again, in seconds: the kernel looks again for a neighbour that was away (arp(7))."""

_CLONE_NEWNET = 0x40000000
_ALL = 0x0003  # if_ether.h, ETH_P_ALL
_FOR_US, _OUTGOING = 0, 4  # if_packet.h
_ETHERNET = (1, 772)  # if_arp.h: links with an Ethernet header, including lo
_ATTACH_FILTER, _MTU_DISCOVER, _DO = 26, 10, 2


@contextmanager
def inside(path: str) -> Iterator[None]:
    """Enter the network namespace at a path for the block; "" is our own. Raises OSError if the path leads to none."""
    if not path:
        yield
        return
    home, there = (os.open(p, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) for p in (_HOME, path))
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)
        os.close(there)


_HOME = "/proc/thread-self/ns/net"


def _enter(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def source_of(path: str, ip: str) -> str | None:
    """Return the source address that a namespace would use to reach an address; None if it has none."""
    with suppress(OSError), inside(path), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((ip, 9))
        return str(asking.getsockname()[0])
    return None


class Round:
    """Some shots at once. `paths`: every place that takes part or watches, and the path of its namespace."""

    def __init__(self, shots: Iterable[Shot], paths: Mapping[str, str]) -> None:
        self.shots = list(shots)
        self.results = [Result() for _ in self.shots]
        self._paths = paths
        self._watching: dict[int, tuple[str, socket.socket]] = {}
        self._asking: dict[str, socket.socket] = {}
        self._calling: dict[int, tuple[int, socket.socket]] = {}
        self._mine: dict[tuple[str, int], int] = {}
        base = random.SystemRandom().randrange(0x80, 0xFC)
        self._base = base << 8
        self._poll = select.poll()
        self._last = time.monotonic()

    def run(self, seconds: float, at_least: float = 0, idle: float = 60) -> list[Result]:
        """Send all shots and wait for answers; `at_least` gives packets that must not arrive the time to do so. Once
        packets were seen, and no more for `idle` seconds, no more are expected.

        Raises NetwrapError if a namespace cannot be entered, or packets cannot be watched.
        """
        try:
            self._open()
            for number in range(len(self.shots)):
                self._send(number)
            self._wait(seconds, at_least, idle)
            for handle, _ in self._poll.poll(0):  # a loaded machine may have kept us from reading in time
                self._heard(handle)
            return self.results
        finally:
            for _, one in (*self._watching.values(), *self._calling.values()):
                one.close()
            for one in self._asking.values():
                one.close()

    def _open(self) -> None:
        for place, path in self._paths.items():
            try:
                with inside(path):
                    watching = socket.socket(
                        socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ALL)
                    )
                    self._watching[watching.fileno()] = (place, watching)
                    _filter(watching, self._base)
            except OSError as error:
                where = f"the namespace of {place}" if place else "this host"
                raise NetwrapError(
                    f"packets cannot be watched in {where}: {error.strerror}", "netwrap doctor"
                ) from None
            self._poll.register(watching, select.POLLIN)
        for place in {s.start for s in self.shots if s.kind == "icmp" and s.frame is None}:
            with inside(self._paths[place]):
                asking = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
            self._asking[place] = asking
            self._poll.register(asking, select.POLLIN)

    def _send(self, number: int) -> None:
        shot, result = self.shots[number], self.results[number]
        try:
            if shot.kind == "tcp" and shot.frame is None:
                self._call(number)
                return
            key = self._base + number
            self._mine[shot.kind, key] = number
            if shot.frame is not None:
                self._send_frame(shot, key)
            elif shot.kind == "icmp":
                asking = self._asking[shot.start]
                asking.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _DO if shot.size > 64 else 0)
                asking.sendto(packet.echo(key, shot.size), (shot.ip, 0))
            else:
                self._send_raw(shot, key)
        except OSError as error:
            result.error = error.errno or 0

    def _call(self, number: int) -> None:
        shot = self.shots[number]
        with inside(self._paths[shot.start]):
            calling = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._calling[calling.fileno()] = (number, calling)
        calling.bind(("", 0))
        self._mine["tcp", calling.getsockname()[1]] = number
        error = calling.connect_ex((shot.ip, shot.port))
        if error not in (0, errno.EINPROGRESS):
            self._called(number, error)
        else:
            self._poll.register(calling, select.POLLOUT)

    def _send_raw(self, shot: Shot, key: int) -> None:
        src = source_of(self._paths[shot.start], shot.ip)
        if src is None:
            raise OSError(errno.ENETUNREACH, "no route")
        make = packet.spoilt(shot.kind, src, shot.ip, key, shot.port) if shot.spoilt else b""
        body = make or packet.datagram(src, shot.ip, key, shot.port)
        with (
            inside(self._paths[shot.start]),
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sending,
        ):
            sending.sendto(packet.ipv4(src, shot.ip, shot.kind, body), (shot.ip, 0))

    def _send_frame(self, shot: Shot, key: int) -> None:
        frame = shot.frame
        assert frame is not None
        body = {
            "icmp": lambda: packet.echo(key),
            "tcp": lambda: packet.syn(frame.src, shot.ip, key, shot.port),
            "udp": lambda: packet.datagram(frame.src, shot.ip, key, shot.port),
        }[shot.kind]()
        with inside(self._paths[shot.start]), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
            sending.bind((frame.link, 0))
            sending.send(
                packet.ethernet(frame.src_mac, frame.dst_mac, packet.ipv4(frame.src, shot.ip, shot.kind, body))
            )

    def _wait(self, seconds: float, at_least: float, idle: float) -> None:
        start, resends = time.monotonic(), [*AGAIN]
        while (gone := time.monotonic() - start) < seconds:
            if gone >= at_least and all(map(self._is_over, self.shots, self.results)):
                return
            if time.monotonic() - self._last > idle and all(r.error or self._is_on_its_way(r) for r in self.results):
                return
            if resends and gone >= resends[0]:
                resends.pop(0)
                for number, (shot, result) in enumerate(zip(self.shots, self.results, strict=True)):
                    if not result.answered and shot.kind != "tcp" and shot.frame is None and not shot.once:
                        self._send(number)
            limits = [seconds - gone, at_least - gone, idle, *(r - gone for r in resends)]
            for handle, _ in self._poll.poll(max(1, min(1000 * x for x in limits if x > 0))):
                self._heard(handle)

    def _is_over(self, shot: Shot, result: Result) -> bool:
        return result.answered or result.refused or shot.frame is not None or (result.error != 0 and shot.once)

    def _is_on_its_way(self, result: Result) -> bool:
        return any(s.packet.kind != "arp" for s in result.seen)

    def _heard(self, handle: int) -> None:
        if handle in self._calling:
            number, calling = self._calling[handle]
            self._poll.unregister(handle)
            self._called(number, calling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        elif handle in self._watching:
            self._watched(*self._watching[handle])
        else:
            place, asking = next((p, one) for p, one in self._asking.items() if one.fileno() == handle)
            with suppress(OSError):
                found = packet.parse(asking.recv(65535), packet.IPV4, framed=False)
                mine = self._mine.get((found.kind, found.key)) if found and found.what == "answer" else None
                if mine is not None and self.shots[mine].start == place:  # other places get it if NAT went wrong
                    self.results[mine].answered = True

    def _called(self, number: int, error: int) -> None:
        result = self.results[number]
        result.answered, result.refused, result.error = error == 0, error == errno.ECONNREFUSED, error

    def _watched(self, place: str, watching: socket.socket) -> None:
        for _ in range(256):  # traffic of others must not keep us here
            try:
                data, (link, protocol, kind, hardware, *_) = watching.recvfrom(65535)
            except OSError:
                return
            found = packet.parse(data, protocol, framed=hardware in _ETHERNET)
            if found is None:
                continue
            seen = Sighting(Point(place, link, kind == _OUTGOING), found, kind in (_FOR_US, _OUTGOING))
            if found.kind == "arp":
                for result in self.results:
                    result.seen.append(seen)
            elif (number := self._mine.get((found.kind, found.key))) is not None:
                result, shot = self.results[number], self.shots[number]
                result.seen.append(seen)
                self._last = time.monotonic()
                arrives = (place, kind, found.what) == (shot.goal, _FOR_US, "request") and link != "lo"
                if arrives and shot.kind in ("udp", "sctp"):
                    result.answered = True


def _filter(watching: socket.socket, base: int) -> None:
    """Let the kernel filter out what is not ours: everything except ARP, ICMP, TCP's SYN and RST segments, and what our
    ports send (kernel, Documentation/networking/filter.rst)."""
    protocol, net = 0xFFFFF000, 0xFFF00000  # SKF_AD_OFF + SKF_AD_PROTOCOL, SKF_NET_OFF
    program = (
        (0x28, 0, 0, protocol),  # 0: the frame's protocol
        (0x15, 9, 0, packet.ARP),  # 1
        (0x15, 0, 9, packet.IPV4),  # 2
        (0x30, 0, 0, net + 9),  # 3: the packet's protocol
        (0x15, 6, 0, 1),  # 4: ICMP
        (0x15, 0, 2, 6),  # 5: TCP
        (0x30, 0, 0, net + 33),  # 6: TCP flags, if the IP header has no options
        (0x45, 3, 4, 0x06),  # 7: SYN, RST
        (0x28, 0, 0, net + 20),  # 8: the source port
        (0x54, 0, 0, 0xFF00),  # 9
        (0x15, 0, 1, base),  # 10
        (0x06, 0, 0, 0x40000),  # 11: keep it
        (0x06, 0, 0, 0),  # 12
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    watching.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))
