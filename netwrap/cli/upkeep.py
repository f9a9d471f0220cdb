"""`netwrap status`, `netwrap repair` and `netwrap gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from netwrap import upkeep
from netwrap.cli.common import Json, changes, complete_network_or_container, mode, show_table
from netwrap.cli.help import Command
from netwrap.desk import Mode
from netwrap.terminal import talk
from netwrap.views.documents import dumps

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="A network or a container. Default: everything.",
        autocompletion=complete_network_or_container,
    ),
]


def status(ctx: typer.Context, json: Json = False) -> None:
    """Show every object, and which of its steps no longer hold.

    A step no longer holds if another program or user has undone it. Exit code 1 if there is such a step.
    """
    found, unseen = upkeep.status(mode(ctx, json=json, shows=True))
    for sentence in unseen:
        talk(f"not looked at: {sentence.partition(';')[0]}")
    if json:
        print(dumps(found))
    else:
        rows = []
        for f in found:
            rows.append([f["object"], f["state"], f["drift"][0] if f["drift"] else "-"])
            rows += [["", "", line] for line in f["drift"][1:]]
        show_table(("OBJECT", "STATE", "NO LONGER HOLDS"), rows)
    raise typer.Exit(0 if all(f["state"] == "up" for f in found) else 1)


@changes()
def repair(m: Mode, name: Name = None) -> None:
    """Run the steps that no longer hold again.

    Use it after a reboot, or if a firewall was flushed or a link was deleted.
    """
    if not upkeep.repair(m, name) and not m.dry_run:
        talk("nothing to repair: every step holds")


@changes()
def gc(m: Mode) -> None:
    """Clean up after processes that have exited.

    Removes their links, rules and handles, frees their addresses, and prints the names of the containers.
    """
    names = upkeep.gc(m)
    if not m.dry_run:
        for name in names:
            print(name)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(cls=Command)(status)
    app.command(cls=Command)(repair)
    app.command(cls=Command)(gc)
