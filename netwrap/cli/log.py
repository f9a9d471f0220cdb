"""`netwrap log` and `netwrap undo`."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from netwrap import app as verbs
from netwrap.cli.common import Batch, DryRun, Json, Quiet, Step, mode
from netwrap.desk import talk
from netwrap.store import Operation
from netwrap.undo import Entry
from netwrap.views.documents import dumps
from netwrap.views.table import table

Number = Annotated[int | None, typer.Argument(metavar="[ID]", help="An operation's number; else the last one.")]


def log(
    ctx: typer.Context,
    number: Annotated[int | None, typer.Argument(metavar="[ID]", help="Show this operation's steps.")] = None,
    json: Json = False,
) -> None:
    """Show the operations, or one with its steps: what was run, and what takes it back."""
    m = mode(ctx, json=json, shows=True)
    if number is not None:
        _show(*verbs.operation(m, number), json=json)
        return
    found = verbs.operations(m)
    if json:
        print(dumps([_document(o) for o in found]))
    else:
        print(table(("ID", "WHEN", "WHAT", "STATE"), [[o.id, _when(o), o.title, o.state] for o in found]))


def _show(found: Operation, entries: list[Entry], *, json: bool) -> None:
    steps = [
        {
            "n": n,
            "do": (e.step.do.text() if e.op == found.id else e.step.undo.text() if e.step.undo else None),
            "undo": (e.step.do.text() if e.op != found.id else e.step.undo.text() if e.step.undo else None),
            "ns": e.step.do.ns.name if e.step.do.ns else None,
            "state": e.state,
            "why": e.step.why,
        }
        for n, e in enumerate(entries if found.kind == "build" else reversed(entries), 1)
    ]
    if json:
        print(dumps(_document(found) | {"steps": steps}))
        return
    print(f"{found.id}  {_when(found)}  {found.title}  {found.state}")
    rows = [[s["n"], s["state"], f"{s['do']}\n  undo: {s['undo'] or '-'}"] for s in steps]
    print(table(("N", "STATE", "COMMAND"), rows))


def _document(found: Operation) -> dict[str, object]:
    return {"id": found.id, "when": _when(found), "what": found.title, "kind": found.kind, "state": found.state}


def _when(found: Operation) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.at))


def undo(
    ctx: typer.Context,
    number: Number = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about what was built upon it.")] = False,
    dry_run: DryRun = False,
    step: Step = False,
    batch: Batch = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Undo the last operation that built something, or that one and what was built upon it."""
    m = mode(ctx, dry_run=dry_run, step=step, batch=batch, quiet=quiet, json=json)
    verbs.undo(m, number, lambda question: yes or _confirm(question), talk)


def _confirm(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(question, err=True)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(log)
    app.command()(undo)
