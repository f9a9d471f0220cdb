"""A Plan as a bash script that leads to the same kernel state as the plan itself, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from netwrap.steps import Plan, Step, is_undone_last, shell_line

_WIDTH = 80


@dataclass(frozen=True)
class Meanwhile:
    """A command that runs while the steps are in place: they are undone when it has ended."""

    command: Sequence[str]
    steps: tuple[Step, ...]


BACK = "# undo: "
"""The start of each comment line with an inverse command."""

_UNKNOWN = (
    "netwrap does not know when this script is run, so `netwrap undo` cannot undo it. The lines at its end can: "
    f"sed -n 's/^{BACK}//p' SCRIPT | bash"
)
_UNKNOWN_TEARDOWN = (
    "netwrap does not know when this script is run: `netwrap status` will then report what it removes as missing, and "
    "`netwrap repair` will make it again."
)


def script(plan: Plan, meanwhile: Meanwhile | None = None) -> str:
    """The plan as a script: the reason above each command, and the inverse commands as comments at its end.

    With a command that runs meanwhile, the script exits with its exit code; the steps are undone however it ends.
    """
    made = [step for step in plan.steps if (plan.makes or plan.restores) and step.inverts is None]
    back = way_back(made) if meanwhile is None else []
    lines = ["#!/usr/bin/env bash", f"# netwrap {plan.title}"]
    if back:
        lines += _comment(_UNKNOWN)
    elif plan.removes and meanwhile is None:
        lines += _comment(_UNKNOWN_TEARDOWN)
    lines.append("set -e")
    lines += [f"# {sentence}" for sentence in plan.already]
    for sentence in plan.warnings:
        lines += _comment(sentence)
    for step in plan.steps:
        lines += ["", *commented(step), step.do.text()]
    if back:
        lines += ["", "# To undo it, the last step first:", *(BACK + line for line in back)]
    if meanwhile is not None:
        lines += ["", "# The command; afterwards every step is undone.", "code=0"]
        lines += [f"{shell_line(meanwhile.command)} || code=$?", "set +e", *way_back(meanwhile.steps), "exit $code"]
    return "\n".join(lines) + "\n"


def way_back(steps: Iterable[Step]) -> list[str]:
    """The inverses of the steps, in the order in which they are run."""
    order = sorted(enumerate(steps), key=lambda place: (is_undone_last(place[1]), -place[0]))
    return [step.undo.text() for _, step in order if step.undo is not None]


def commented(step: Step) -> list[str]:
    """The reason for a step as comment lines."""
    return _comment(step.why)


def _comment(sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False, break_long_words=False
    )


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
