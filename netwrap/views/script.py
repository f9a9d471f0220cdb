"""A Plan as a bash script that gives the same kernel state as the run, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from netwrap.steps import Plan, Step, is_undone_last, shell_line

_WIDTH = 80


@dataclass(frozen=True)
class Meanwhile:
    """A command that runs while steps stand: they are taken back when it has ended."""

    command: Sequence[str]
    steps: tuple[Step, ...]


def script(plan: Plan, meanwhile: Meanwhile | None = None) -> str:
    """The plan as a script: the why above each command. With a command that runs meanwhile, its exit code is the
    script's, and the steps are taken back whatever its end."""
    lines = ["#!/usr/bin/env bash", f"# netwrap {plan.title}", "set -e"]
    lines += [f"# {sentence}" for sentence in plan.already]
    for sentence in plan.warnings:
        lines += _comment(sentence)
    for step in plan.steps:
        lines += ["", *commented(step), step.do.text()]
    if meanwhile is not None:
        order = sorted(enumerate(meanwhile.steps), key=lambda place: (is_undone_last(place[1]), -place[0]))
        back = [step.undo.text() for _, step in order if step.undo is not None]
        lines += ["", "# The command; then every step is taken back.", "code=0"]
        lines += [f"{shell_line(meanwhile.command)} || code=$?", "set +e", *back, "exit $code"]
    return "\n".join(lines) + "\n"


def commented(step: Step) -> list[str]:
    """The why as comment lines."""
    return _comment(step.why)


def _comment(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


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
