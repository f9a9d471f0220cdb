"""Which address next: pure arithmetic, no memory per address."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from netwrap.errors import NetwrapError

_POOLS = [IPv4Network("10.77.0.0/16"), IPv4Network("192.168.128.0/17"), IPv4Network("172.28.0.0/14")]


def next_address(
    subnet: IPv4Network,
    taken: Iterable[IPv4Address],
    last: IPv4Address | None = None,
    ip_range: IPv4Network | None = None,
) -> IPv4Address:
    """Return the first free address after `last`; the search goes on at the start of the range.

    It is never the network or broadcast address; what else must not be allocated (the gateway) is in `taken`.
    Raises NetwrapError if no address is free.
    """
    pool = ip_range or subnet
    low = max(int(pool.network_address), int(subnet.network_address) + 1)
    high = min(int(pool.broadcast_address), int(subnet.broadcast_address) - 1)
    used = sorted({int(ip) for ip in taken if low <= int(ip) <= high})
    start = int(last) + 1 if last is not None and low <= int(last) < high else low
    for begin, end in ((start, high), (low, start - 1)):
        candidate = begin
        for address in used:
            if address == candidate:
                candidate += 1
        if candidate <= end:
            return IPv4Address(candidate)
    raise NetwrapError(
        f"no address is free in {pool}: all {max(0, high - low + 1)} are in use",
        "netwrap ps  # shows who uses them; netwrap disconnect NAME frees one",
    )


def free_subnet(occupied: Iterable[IPv4Network]) -> IPv4Network:
    """Return the first private /24 that overlaps nothing in `occupied`. Raises NetwrapError if none is left."""
    blocked = list(occupied)
    for pool in _POOLS:
        for candidate in pool.subnets(new_prefix=24):
            if not any(candidate.overlaps(net) for net in blocked):
                return candidate
    raise NetwrapError("no free private /24 is left on this machine", "netwrap network create --subnet CIDR NAME")
