"""A Plan as a bash script that gives the same kernel state as the run, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

from netwrap.steps import Plan, Step, is_undone_last, shell_line

_WIDTH = 80


def script(plan: Plan) -> str:
    """The plan as a script: the why above each command."""
    lines = ["#!/usr/bin/env bash", f"# netwrap {plan.title}", "set -e"]
    lines += [f"# {sentence}" for sentence in plan.already]
    for step in plan.steps:
        lines += ["", *commented(step), step.do.text()]
    return "\n".join(lines) + "\n"


def run_script(plan: Plan, command: Sequence[str]) -> str:
    """The plan, then a command in the foreground, then the plan's way back, whatever the command's end."""
    order = sorted(enumerate(plan.steps), key=lambda place: (is_undone_last(place[1]), -place[0]))
    back = [step.undo.text() for _, step in order if step.undo is not None]
    lines = [
        script(plan),
        "# The command; then every step is taken back.",
        "code=0",
        f"{shell_line(command)} || code=$?",
        "set +e",
    ]
    return "\n".join([*lines, *back, "exit $code"]) + "\n"


def commented(step: Step) -> list[str]:
    """The why as comment lines."""
    return textwrap.wrap(step.why, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def as_json(plan: Plan) -> str:
    """The plan as a list of {n, do, undo, ns, why}."""
    rows = [
        {
            "n": n,
            "do": step.do.text(),
            "undo": step.undo.text() if step.undo else "",
            "ns": step.do.ns.name if step.do.ns else None,
            "why": step.why,
        }
        for n, step in enumerate(plan.steps, 1)
    ]
    return json.dumps(rows, indent=2)
