"""`netwrap doctor` and `netwrap check`."""

from __future__ import annotations

import typer

from netwrap import checkup
from netwrap.cli.common import Json, mode, show_table
from netwrap.cli.help import Command
from netwrap.terminal import talk
from netwrap.views.documents import dumps


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Find what keeps container networks from working here.

    What is wrong, why it matters, and the command that repairs it. Exit code 1 where something is wrong.
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
        print(f"{wrong} thing{'' if wrong == 1 else 's'} to mend" if wrong else "all well")
    raise typer.Exit(1 if wrong else 0)


def check(ctx: typer.Context, json: Json = False) -> None:
    """Try who reaches whom.

    Each container tries its gateway, the outside and other containers; each published port is tried. Exit code 1 where
    one fails.
    """
    found = checkup.check(mode(ctx, json=json, shows=True))
    if json:
        print(dumps(found))
    else:
        head = ("FROM", "TO", "IP", "HOW", "WORKS", "BROKEN")
        broken = [f"{f['hop']}: {f['broken']}" if f["hop"] else "" for f in found]
        rows = [
            [f["from"], f["to"], f["ip"], f["how"], "yes" if f["works"] else "no", b]
            for f, b in zip(found, broken, strict=True)
        ]
        show_table(head, rows, drop=("HOW",))
    raise typer.Exit(0 if all(f["works"] for f in found) else 1)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(cls=Command)(doctor)
    app.command(cls=Command)(check)
