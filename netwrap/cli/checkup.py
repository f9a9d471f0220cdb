"""`netwrap doctor` and `netwrap check`."""

from __future__ import annotations

from typing import Annotated

import typer

from netwrap import checkup, trying
from netwrap.cli.common import Json, complete_network_or_container, mode, show_table
from netwrap.cli.help import Command
from netwrap.terminal import talk
from netwrap.views.documents import dumps


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Find what keeps container networks from working on this host.

    Prints what is wrong, why it matters, and the command that repairs it. Exit code 1 if something is wrong.
    """
    found, unseen = checkup.doctor(mode(ctx, json=json, shows=True))
    for sentence in unseen:
        talk(f"not looked at: {sentence.partition(';')[0]}")
    wrong = sum(finding["wrong"] for finding in found)
    if json:
        print(dumps(found))
    else:
        for f in found:
            print(f"{'wrong' if f['wrong'] else 'note'}: {f['name']}: {f['what']}")
            print(f"  why: {f['why']}\n" + (f"  fix: {f['fix']}\n" if f["fix"] else ""))
        print(f"{wrong} problem{'' if wrong == 1 else 's'} found" if wrong else "no problems found")
    raise typer.Exit(1 if wrong else 0)


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...", help="A container or network. Default: all.", autocompletion=complete_network_or_container
    ),
]


def check(ctx: typer.Context, names: Names = None, json: Json = False) -> None:
    """Test with real packets which connections work.

    Each container tests its gateway, the outside and a few neighbours. Each published port is tested, and so is what
    must be blocked. WORKS is the result of the test, `-` if no test was possible. Exit code 1 if something is wrong.
    """
    found = trying.trying(mode(ctx, json=json, shows=True), names or [])
    if json:
        print(dumps(found))
    else:
        head = ("FROM", "TO", "IP", "HOW", "WORKS", "BROKEN")
        broken = [f"{f['hop']}: {f['broken']}" if f["hop"] else f["broken"] for f in found]
        rows = [
            [f["from"], f["to"], f["ip"], f["how"], _WORKS[f["works"]], b] for f, b in zip(found, broken, strict=True)
        ]
        show_table(head, rows, drop=("HOW",))
        for fix in dict.fromkeys(f["fix"] for f in found if f["fix"]):
            talk(f"fix: {fix}")
    raise typer.Exit(1 if trying.is_wrong(found) else 0)


_WORKS = {True: "yes", False: "no", None: "-"}


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(cls=Command)(doctor)
    app.command(cls=Command)(check)
