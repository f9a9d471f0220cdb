"""How the host reaches the outside: the question to the kernel, and a parser for its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WAY_OUT = ("ip", "-N", "-j", "route", "get", "fibmatch", "198.41.0.4")
"""The route that the kernel would use to the outside, by policy rules and metrics; no packet is sent. The address
represents the outside: a.root-servers.net, which hardly anybody has a separate route for."""


@dataclass(frozen=True)
class WayOut:
    """The link and the gateway through which packets leave; mtu in bytes, the smallest one of several next hops."""

    link: str
    gateway: str | None
    """None if the link itself goes there (a tunnel), or the gateway has an IPv6 address."""
    mtu: int


def parse_way_out(text: str, mtus: Mapping[str, int]) -> WayOut | None:
    """Parses the answer to WAY_OUT; `mtus` are those of the host's links.

    Raises ValueError, KeyError, TypeError, AttributeError.
    """
    (route,) = json.loads(text, strict=False)
    hops = [hop for hop in route.get("nexthops", (route,)) if "dead" not in hop.get("flags", ())]
    hops = [hop for hop in hops if hop.get("dev") in mtus.keys() - {"lo"}]
    if "type" in route or not hops:  # a type is printed for all but unicast, such as local
        return None
    mtu = mtu_of(route) or min(mtus[hop["dev"]] for hop in hops)
    return WayOut(hops[0]["dev"], hops[0].get("gateway"), mtu)


def mtu_of(route: dict[str, Any]) -> int | None:
    """The MTU that a route itself has, as `ip -j route` prints it."""
    return next((m["mtu"] for m in route.get("metrics", ()) if "mtu" in m), None)
