"""Which routing table is used for which packets (ip-rule(8)), and what a reject route does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

EVERYWHERE = IPv4Network("0.0.0.0/0")
_KINDS = {"6": "blackhole", "7": "unreachable", "8": "prohibit", "9": "throw"}
"""By the numbers that `ip -N` prints (linux/rtnetlink.h, linux/fib_rules.h)."""
_TABLES = {"253": "default", "254": "main", "255": "local"}


@dataclass(frozen=True)
class PolicyRule:
    """One rule: packets from `source` to `destination` use `table`, or `action` is done at once."""

    priority: int
    source: IPv4Network = EVERYWHERE
    destination: IPv4Network = EVERYWHERE
    table: str = ""
    action: str = ""
    """`blackhole`, `unreachable` or `prohibit`; empty if a table is used."""
    is_narrower: bool = False
    """It matches more than addresses: a mark, a link, a port."""


def kind_of(row: dict[str, Any]) -> str:
    """The action of a reject route, or of a rule without a table; empty for all others."""
    return _KINDS.get(str(row.get("type", row.get("action", ""))), "")


def table_of(row: dict[str, Any]) -> str:
    """A routing table, by its standard name if it has one (ip-route(8)), else by its number."""
    return _TABLES.get(str(row["table"]), str(row["table"]))


def parse_ways(rows: Iterable[dict[str, Any]]) -> tuple[PolicyRule, ...]:
    """Reads the rows of `ip -N -j rule show`. Raises KeyError, ValueError."""
    return tuple(
        PolicyRule(
            row.get("priority", 0),
            _network(row, "src"),
            _network(row, "dst"),
            table_of(row) if "table" in row else "",
            kind_of(row),
            bool(set(row) - _PLAIN),
        )
        for row in rows
    )


_PLAIN = {"priority", "src", "srclen", "dst", "dstlen", "table", "action", "protocol", "suppress_prefixlen"}


def _network(row: dict[str, Any], end: str) -> IPv4Network:
    address = row.get(end, "all")
    return EVERYWHERE if address == "all" else IPv4Network(f"{address}/{row.get(f'{end}len', 32)}")
