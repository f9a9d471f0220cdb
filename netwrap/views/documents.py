"""Networks, endpoints and the log as JSON, with the keys of the command line's contract."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from netwrap.model import Container, Endpoint, Network, State
from netwrap.undo import Entry, Operation


def dumps(data: object) -> str:
    """One JSON document."""
    return json.dumps(data, indent=2, default=str)


def network(found: Network, state: State, health: str, endpoints: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A network as a document; `links` are the networks that it is linked to."""
    return {
        "name": found.name,
        "driver": found.driver,
        "subnet": str(found.subnet),
        "gateway": str(found.gateway),
        "ip_range": str(found.ip_range) if found.ip_range else None,
        "bridge": found.bridge,
        "mtu": found.mtu,
        "internal": found.internal,
        "state": health,
        "links": list(state.linked_to(found.name)),
        "endpoints": list(endpoints),
    }


def endpoint(found: Endpoint, container: Container, state: State, health: str) -> dict[str, Any]:
    """An endpoint with its container's pid and its ports."""
    return {
        "name": found.container,
        "pid": container.pid,
        "net": found.network,
        "ip": str(found.ip),
        "mac": found.mac,
        "ifname": found.ifname,
        "veth": found.veth,
        "ports": [port.spec for port in state.ports_of(found)],
        "allow_from": {p.spec: [str(net) for net in p.allow_from] for p in state.ports_of(found) if p.allow_from},
        "state": health,
    }


def operation(found: Operation, when: str) -> dict[str, Any]:
    """A row of the log; `when` is its local time as text."""
    return {"id": found.id, "when": when, "what": found.title, "kind": found.kind, "state": found.state}


def step(number: int, found: Operation, entry: Entry) -> dict[str, Any]:
    """A step of an operation; for a teardown, `do` is the inverse command that it ran."""
    do, undo = entry.step.do, entry.step.undo
    ran, back = (do, undo) if entry.op == found.id else (undo, do)
    return {
        "n": number,
        "do": ran.text() if ran else "",
        "undo": back.text() if back else "",
        "ns": do.ns.name if do.ns else None,
        "state": entry.state,
        "why": entry.step.why,
    }


def status(owner: str, health: str, drift: list[str]) -> dict[str, Any]:
    """An object with its state and the commands of the steps that no longer hold."""
    kind, _, name = owner.partition(":")
    return {"object": owner, "kind": kind, "name": name, "state": health, "drift": drift}


def cut_off(found: Operation) -> dict[str, Any]:
    """An operation that a crash has left half done: the next changing command deals with it."""
    does = "finishes it" if found.is_teardown else "rolls it back"
    said = f"{found.title} was cut off; the next changing command {does}"
    return {
        "object": f"operation:{found.id}",
        "kind": "operation",
        "name": str(found.id),
        "state": "cut off",
        "drift": [said],
    }
