"""The verbs `doctor` and `check`: look, try, report."""

from __future__ import annotations

import socket
from dataclasses import asdict
from typing import Any

from netwrap import check as trials
from netwrap import doctor as diagnosis
from netwrap import examine
from netwrap.desk import Desk, Mode
from netwrap.errors import CommandFailed, NetwrapError
from netwrap.facts import Facts, Listener, parse_listeners
from netwrap.model import State
from netwrap.session import need_root, reading
from netwrap.spawn import require, spawn
from netwrap.undo import Entry

SECONDS = 2
"""How long a trial may take."""

AT_ONCE = 8
"""How many trials run at a time: those that fail do nothing but wait."""

HOW = {"tcp": "tcp", "udp": "udp socket", "sctp": "sctp rules"}
"""How a published port is tried. A datagram that nobody asked for might do harm: so only TCP is called. For UDP it
counts whether a socket takes what comes; for SCTP, which has no such list of sockets, whether the rules stand."""


def doctor(mode: Mode) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The findings as documents, and sentences about what could not be seen."""
    with reading(mode) as desk:
        state = desk.state()
        entries, links = desk.store.entries(owners=state.owners), _links(state)
        try:
            seen = desk.look_at_all(ports=True, way_out=True)
        except NetwrapError as error:  # a tool that is missing is a finding
            said = " ".join(str(error).split())
            seen = Facts(unseen=(f"links, routes and firewall rules: {said}",), rules_seen=False)
            state, entries = State(), []  # what stands cannot be compared with nothing
        found = diagnosis.findings(examine.machine(links), seen, state, entries)
    return [asdict(finding) for finding in found], seen.unseen


def _links(state: State) -> list[tuple[str, str]]:
    """Our links by name and kind; where there is none yet, what they would be called."""
    found = [(n.bridge, "bridge") for n in state.networks.values()] + [(e.veth, "veth") for e in state.endpoints]
    return found or [("testbridge", "bridge"), ("veth0000000", "veth")]


def check(mode: Mode) -> list[dict[str, Any]]:
    """Runs every trial; each as a document. Errors: NetwrapError without root."""
    from concurrent.futures import ThreadPoolExecutor  # here, for it is slow to import

    need_root(mode, "trying from inside containers")
    require(["ping"])
    with reading(mode) as desk:
        state = desk.state()
        seen, entries = desk.look_at_all(ports=True, way_out=True), _by_owner(desk, state)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda trial: _tried(trial, entries, seen, state), trials.trials(state, seen)))


def _by_owner(desk: Desk, state: State) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in desk.store.entries(owners=state.owners):
        found.setdefault(entry.step.owner, []).append(entry)
    return found


def _tried(trial: trials.Trial, entries: dict[str, list[Entry]], seen: Facts, state: State) -> dict[str, Any]:
    found = trials.missing(trial, entries, seen, state)
    heard = trials.heard(trial, _listeners(trial)) if found is None else []
    # Packets of other machines meet rules that the host's own do not; a namespace outlives its process, and answers.
    is_vain = found is not None and (trial.port is not None or found.hop == "process")
    works = not is_vain and _works(trial, heard)
    if not works and found is None:
        found = trials.of_others(trial, entries, seen, listens=heard != [])
    how = HOW[trial.port.protocol] if trial.port else "ping"
    document = {"from": trial.source, "to": trial.target, "ip": trial.ip, "how": how, "works": works}
    return document | (asdict(found) if found and not works else dict.fromkeys(("hop", "broken", "mend")))


def _works(trial: trials.Trial, heard: list[int]) -> bool:
    """Tries it; `heard` are the host ports that lead to a socket."""
    if trial.port is None:
        where = ("ip", "netns", "exec", trial.asks) if trial.asks else ()
        ping = (*where, "ping", "-n", "-c", "1", "-W", str(SECONDS), trial.ip)
        return _succeeds(ping) or _succeeds(ping)  # a neighbour that was away is looked for anew (arp(7))
    if trial.port.protocol == "tcp":
        return _connects(trial.ip, heard[0] if heard else trial.port.host_port)
    return heard != [] or trial.port.protocol == "sctp"


def _succeeds(words: tuple[str, ...]) -> bool:
    try:
        spawn(words)
    except CommandFailed:
        return False
    return True


def _connects(ip: str, port: int) -> bool:
    try:
        socket.create_connection((ip, port), SECONDS).close()
    except OSError:
        return False
    return True


def _listeners(trial: trials.Trial) -> set[Listener]:
    """The sockets of a container that publishes a port, of that port's protocol."""
    found: set[Listener] = set()
    if trial.port is None or trial.port.protocol == "sctp":
        return found
    for table in (trial.port.protocol, f"{trial.port.protocol}6"):
        try:
            text = spawn(("ip", "netns", "exec", trial.containers[0], "cat", f"/proc/net/{table}"))
        except CommandFailed:  # a namespace that is gone, a protocol that the kernel does not know
            continue
        found |= parse_listeners(text, trial.port.protocol)
    return found
