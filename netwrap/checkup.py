"""The verb `doctor`: look, report."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from netwrap import doctor as diagnosis
from netwrap import examine
from netwrap.desk import Mode
from netwrap.errors import NetwrapError
from netwrap.facts import Facts
from netwrap.model import State
from netwrap.session import looking


def doctor(mode: Mode) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The findings as documents, and sentences about what could not be seen."""
    with looking(mode) as desk:
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
