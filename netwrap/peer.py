"""A small service for experiments: answers every client with its own name and the client's address as it sees it.

python -m netwrap.peer NAME PORT        TCP and UDP, until it is ended
"""

from __future__ import annotations

import socket
import sys
from threading import Thread


def answer(name: str, caller: str) -> bytes:
    """What a client gets."""
    return f"this is {name}; you come from {caller}\n".encode()


def serve_tcp(name: str, port: int) -> None:
    """Answers each connection, and closes it."""
    with socket.create_server(("0.0.0.0", port)) as server:
        while True:
            connection, (caller, _) = server.accept()
            with connection:
                connection.sendall(answer(name, caller))


def serve_udp(name: str, port: int) -> None:
    """Answers each datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", port))
        while True:
            _, where = server.recvfrom(1500)
            server.sendto(answer(name, where[0]), where)


if __name__ == "__main__":
    Thread(target=serve_udp, args=(sys.argv[1], int(sys.argv[2])), daemon=True).start()
    serve_tcp(sys.argv[1], int(sys.argv[2]))
