"""`netwrap doctor` and `netwrap check`."""

from __future__ import annotations

import re
import sys
import textwrap
from typing import Annotated, Any

import typer

from netwrap import checkup, trying
from netwrap.cli.common import Json, complete_network_or_container, mode, show_table
from netwrap.cli.help import Command
from netwrap.terminal import columns, talk
from netwrap.views.documents import dumps
from netwrap.views.table import fitted


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
            print(_paragraph(f"{'wrong' if f['wrong'] else 'note'}: {f['name']}: {f['what']}"))
            print(_paragraph(f"  why: {f['why']}") + (f"\n  fix: {f['fix']}\n" if f["fix"] else "\n"))
        print(f"{wrong} problem{'' if wrong == 1 else 's'} found" if wrong else "no problems found")
    raise typer.Exit(1 if wrong else 0)


def _paragraph(text: str) -> str:
    """Wraps text at the width of the terminal; a command in backquotes stays on one line."""
    width = columns(sys.stdout)
    if width is None or len(text) <= width:
        return text
    kept = re.sub("`[^`]*`", lambda command: command.group().replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(kept, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(_NO_BREAK, " ")


_NO_BREAK = "\ufffc"

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
        _show(found)
    raise typer.Exit(1 if trying.is_wrong(found) else 0)


def _show(found: list[dict[str, Any]]) -> None:
    """Prints the table. If a terminal is too narrow for what is broken, that follows as sentences."""
    head = ("FROM", "TO", "IP", "HOW", "WORKS", "BROKEN")
    broken = [f"{f['hop']}: {f['broken']}" if f["hop"] else f["broken"] for f in found]
    tested = [[f["from"], f["to"], f["ip"], f["how"], _WORKS[f["works"]]] for f in found]
    rows = [[*row, text] for row, text in zip(tested, broken, strict=True)]
    fixes = dict.fromkeys(f["fix"] for f in found if f["fix"])
    if fitted(head, rows, columns(sys.stdout))[1]:
        show_table(head, rows)
        for fix in fixes:
            talk(f"fix: {fix}")
        return
    show_table(head, [[*row, f["hop"] or f["broken"]] for row, f in zip(tested, found, strict=True)], drop=("IP",))
    for text, fix in dict.fromkeys((text, f["fix"]) for text, f in zip(broken, found, strict=True) if text):
        talk(f"{text}\n" + (f"  fix: {fix}" if fix else ""))


_WORKS = {True: "yes", False: "no", None: "-"}


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(cls=Command)(doctor)
    app.command(cls=Command)(check)
