"""`netwrap log` and `netwrap undo`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from netwrap import history
from netwrap.cli.common import Json, changes, mode, number_of, show_table
from netwrap.cli.help import Command
from netwrap.desk import Mode
from netwrap.terminal import talk
from netwrap.views import documents
from netwrap.views.table import table

Number = Annotated[
    int | None,
    typer.Argument(metavar="[ID]", parser=number_of, help="The operation's number. Default: the last one."),
]


def log(
    ctx: typer.Context,
    number: Annotated[
        int | None, typer.Argument(metavar="[ID]", parser=number_of, help="Show the steps of this operation.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what netwrap has done.

    Lists the operations, or one of them with its steps: the commands that were run, and those that undo them.
    """
    m = mode(ctx, json=json, shows=True)
    found = history.operations(m) if number is None else history.operation(m, number)
    if json:
        print(documents.dumps(found))
    elif isinstance(found, list):
        show_table(("ID", "WHEN", "WHAT", "STATE"), [[o["id"], o["when"], o["what"], o["state"]] for o in found])
    else:
        print(f"{found['id']}  {found['when']}  {found['what']}  {found['state']}")
        rows = [[s["n"], s["state"], f"{s['do']}\n  undo: {s['undo'] or '-'}"] for s in found["steps"]]
        print(table(("N", "STATE", "COMMAND"), rows))


@changes()
def undo(
    m: Mode,
    number: Number = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before removing what depends on it.")] = False,
) -> None:
    """Undo the last operation that is not undone yet, or operation ID.

    What it made is removed, with everything that depends on it. What it removed is made again as it was.
    """
    history.undo(m, number, lambda question: True if yes else _confirm(question), talk)


def _confirm(question: str) -> bool | None:
    return typer.confirm(question, err=True) if sys.stdin.isatty() else None


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(cls=Command)(log)
    app.command(cls=Command)(undo)
