"""For the drivers beside it: services in any namespace of the host, and many questions to them at once.

A socket belongs to the namespace in which it was made (network_namespaces(7)), so one process has them all.
A service answers "NAME PORT SOURCE-ADDRESS"; a question is (where it is asked, protocol, address, port).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

CLONE_NEWNET = 0x40000000
KIND = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_libc = ctypes.CDLL(None, use_errno=True)
_own = os.open("/proc/self/ns/net", os.O_RDONLY)


@contextmanager
def inside(namespace: str | None) -> Iterator[None]:
    """This thread is in a namespace of /run/netns; None is the host."""
    if namespace is not None:
        handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        _enter(handle)
        os.close(handle)
    try:
        yield
    finally:
        _enter(_own)


def _enter(handle: int) -> None:
    if _libc.setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True)
class Question:
    """Who asks whom; protocol icmp is a ping, ack a TCP segment out of the middle of a connection."""

    where: str | None
    protocol: str
    ip: str
    port: int = 0
    source: str = ""
    source_port: int = 0


class Services:
    """Answers until it is closed; `heard` has every address that a datagram or a connection came from."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, str]] = []
        self._waiting = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def add(self, where: str | None, name: str, port: int, ip: str = "0.0.0.0") -> None:
        """A service for TCP and UDP."""
        for protocol in KIND:
            with inside(where):
                made = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, KIND[protocol])
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((ip, port))
            if protocol == "tcp":
                made.listen(64)
            self._waiting.register(made, selectors.EVENT_READ, (protocol, name, port))

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def _answer(self) -> None:
        while True:
            for key, _ in self._waiting.select():
                with suppress(OSError):  # no way back to who asks
                    self._answer_one(key.fileobj, *key.data)

    def _answer_one(self, found: Any, protocol: str, name: str, port: int) -> None:
        if protocol == "udp":
            _, where = found.recvfrom(100)
            self.heard.append((name, port, where[0]))
            found.sendto(f"{name} {port} {where[0]}".encode(), where)
            return
        connection, (source, *_) = found.accept()
        self.heard.append((name, port, source))
        with connection:
            connection.sendall(f"{name} {port} {source}".encode())


@dataclass
class _Asking:
    question: Question
    answer: str | None = None
    socket: socket.socket | None = None
    next_try: float = 0
    tried: int = 0
    number: int = field(default_factory=itertools.count(os.getpid() % 1000).__next__)
    """The identifier of its pings: no later one passes for a part of them."""


def ask(questions: Iterable[Question], seconds: float, wait_for: set[Question]) -> dict[Question, str | None]:
    """Asks all at once; ends after so many seconds, but goes on (60 s) for those of `wait_for` without an answer."""
    asking = [_Asking(q) for q in dict.fromkeys(questions)]
    begin = time.monotonic()
    with selectors.DefaultSelector() as waiting:
        while True:
            now = time.monotonic()
            late = [a for a in asking if a.answer is None and a.question in wait_for]
            if now > begin + (60 if late else seconds):
                break
            for one in asking:
                if one.answer is None and now >= one.next_try:
                    _try(one, waiting, now)
            for key, _ in waiting.select(0.05):
                _read(key.data, waiting)
    for one in asking:
        if one.socket is not None:
            one.socket.close()
    return {one.question: one.answer for one in asking}


def _try(one: _Asking, waiting: selectors.BaseSelector, now: float) -> None:
    """Sends it, or sends it again: a lost packet is no answer yet."""
    q = one.question
    one.tried += 1
    one.next_try = now + (0.3 if q.protocol != "tcp" else 3)
    try:
        if one.socket is None or q.protocol == "tcp":
            _close(one, waiting)
            one.socket = _made(q)
            waiting.register(one.socket, selectors.EVENT_READ, one)
        if q.protocol == "tcp":
            one.socket.connect_ex((q.ip, q.port))
        elif q.protocol == "udp":
            one.socket.send(b"who is there?")
        elif q.protocol == "ack":
            one.socket.send(_ack(one.socket.getsockname()[0], q))
        else:
            one.socket.send(_echo(one.number, one.tried))
    except OSError:
        _close(one, waiting)
        one.next_try = now + 0.2


def _made(q: Question) -> socket.socket:
    with inside(q.where):
        if q.protocol == "icmp":
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        elif q.protocol == "ack":
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        else:
            made = socket.socket(socket.AF_INET, KIND[q.protocol])
    made.setblocking(False)
    if q.protocol != "ack" and (q.source or q.source_port):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((q.source or "0.0.0.0", q.source_port))
    if q.protocol != "tcp":
        made.connect((q.ip, q.port))
    return made


def _read(one: _Asking, waiting: selectors.BaseSelector) -> None:
    assert one.socket is not None
    try:
        found = one.socket.recv(200)
    except OSError:  # refused, no route: that is no answer
        _close(one, waiting)
        one.next_try = time.monotonic() + 0.2
        return
    if one.question.protocol == "ack":
        one.answer = "reset" if found[33] & 4 else None  # the flags of TCP, behind 20 bytes of IP
    elif one.question.protocol != "icmp":
        one.answer = found.decode() or "nothing"
    elif found[20] == 0:  # behind the IP header: an echo reply
        one.answer = "pong"
    if one.answer is not None:
        _close(one, waiting)


def _close(one: _Asking, waiting: selectors.BaseSelector) -> None:
    if one.socket is not None:
        waiting.unregister(one.socket)
        one.socket.close()
        one.socket = None


def _echo(identifier: int, number: int) -> bytes:
    """An ICMP echo request (RFC 792)."""
    words = (0x0800, identifier, number)
    return struct.pack("!4H", words[0], _checksum(*words), *words[1:])


def _ack(source: str, q: Question) -> bytes:
    """A TCP segment with nothing but ACK (RFC 9293)."""
    words = (q.source_port, q.port, 0, 1, 0, 1, 0x5010, 1024)
    pseudo = struct.unpack("!4H", socket.inet_aton(source) + socket.inet_aton(q.ip))
    return struct.pack("!10H", *words, _checksum(*words, *pseudo, socket.IPPROTO_TCP, 20), 0)


def _checksum(*words: int) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
