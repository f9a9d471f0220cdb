"""Steps and objects as JSON, and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from netwrap.model import Container, Endpoint, Netns, Network, NetworkLink, Publication, PublishedPort
from netwrap.steps import Cmd, Object, Probe, Step


def dump_object(made: Object) -> str:
    """An object as JSON."""
    d = asdict(made)
    if isinstance(made, Publication):
        del d["port"]["typed"]
    return json.dumps(d, default=str)


def load_object(kind: str, text: str) -> Object:
    """An object from its JSON. Raises ValueError, KeyError, TypeError if it is not valid."""
    d: dict[str, Any] = json.loads(text)
    match kind:
        case "Network":
            span = d["ip_range"] and IPv4Network(d["ip_range"])
            return Network(
                **d | {"subnet": IPv4Network(d["subnet"]), "gateway": IPv4Address(d["gateway"]), "ip_range": span}
            )
        case "NetworkLink":
            return NetworkLink(**d)
        case "Container":
            watch = d.get("supervisor")
            return Container(**d | {"supervisor": tuple(watch) if watch else None})
        case "Endpoint":
            return Endpoint(**d | {"ip": IPv4Address(d["ip"])})
        case "Publication":
            port = d["port"]
            host_ip = port["host_ip"] and IPv4Address(port["host_ip"])
            allowed = tuple(map(IPv4Network, port.get("allow_from", ())))
            port |= {"host_ip": host_ip, "allow_from": allowed}
            return Publication(d["container"], d["network"], PublishedPort(**port))
    raise ValueError(f"unknown kind of object {kind!r}")


def dump_step(step: Step) -> str:
    """A step as JSON; its owner has a column of its own."""
    d = asdict(step)
    del d["owner"], d["inverts"], d["mends"]
    return json.dumps(d)


def load_step(text: str, owner: str) -> Step:
    """A step from its JSON. Raises ValueError, KeyError, TypeError if it is not valid."""
    d: dict[str, Any] = json.loads(text)
    undo = d["undo"] and _cmd(d["undo"])
    probe = Probe(d["probe"]["kind"], tuple(d["probe"]["key"]), _ns(d["probe"]["ns"]))
    return Step(d["kind"], _cmd(d["do"]), undo, probe, d["why"], owner)


def _cmd(d: dict[str, Any]) -> Cmd:
    return Cmd(tuple(d["argv"]), _ns(d["ns"]), d.get("may_find_nothing", False))


def _ns(d: dict[str, Any] | None) -> Netns | None:
    return Netns(**d) if d else None
