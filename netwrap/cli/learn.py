"""`netwrap sandbox` and `netwrap demo`."""

from __future__ import annotations

import os
import sys
from textwrap import indent
from typing import Annotated

import typer

from netwrap import demo as story
from netwrap import sandbox as host
from netwrap.attend import PYTHON
from netwrap.cli.help import Command
from netwrap.errors import BadInput
from netwrap.terminal import talk

Lan = Annotated[bool, typer.Option("--lan", help="Surround it with a LAN (gateway, neighbour) and an internet host.")]
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="What to run in it. Default: a shell.")
]


_WHERE = """\
You are on the host. `ip netns exec neighbour COMMAND` runs a command on the LAN
machine, as do `gateway` and `internet` on theirs."""


def sandbox(command: Words = None, lan: Lan = False) -> None:
    """Open a shell on a throw-away host.

    You are root on it, even if you are an ordinary user outside. Nothing of it remains when its command exits.
    """
    if not command:
        talk("This is a throw-away host; `exit` removes it. You are root here, and only here.")
        if lan:
            talk(f"\n{indent(host.PICTURE.rstrip(), '  ')}\n\n{_WHERE}", as_it_is=True)
    raise typer.Exit(host.enter(command or [os.environ.get("SHELL", "/bin/bash")], around=lan))


def sandbox_host(command: Words = None, lan: Lan = False) -> None:
    """The first process of a sandbox (used by `netwrap sandbox`)."""
    if os.getpid() != 1 or not command:
        raise BadInput("sandbox-host works inside a sandbox only", "netwrap sandbox")
    raise typer.Exit(host.inside(command, around=lan))


def demo(
    step: Annotated[bool, typer.Option("--step", help="Explain each command and wait for a key.")] = False,
    here: Annotated[bool, typer.Option("--here", hidden=True)] = False,
) -> None:
    """Run the whole tutorial in a sandbox.

    It uses real processes and real packets, and undoes everything at the end.
    """
    if step and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadInput("--step asks before each step, but there is no terminal", "netwrap demo")
    if here:
        raise typer.Exit(story.tell(step=step))
    again = [*PYTHON, "netwrap", "demo", "--here", *(["--step"] if step else [])]
    raise typer.Exit(host.enter(again, around=True))


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(cls=Command)(demo)
    app.command(cls=Command)(sandbox)
    app.command(hidden=True, cls=Command)(sandbox_host)
