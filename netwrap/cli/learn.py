"""`netwrap sandbox` and `netwrap demo`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from netwrap import demo as story
from netwrap import sandbox as host
from netwrap.attend import PYTHON
from netwrap.errors import BadInput
from netwrap.terminal import talk

Lan = Annotated[bool, typer.Option("--lan", help="Put a LAN (gateway, neighbour) and an internet host around it.")]
Command = Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="Else a shell.")]


def sandbox(command: Command = None, lan: Lan = False) -> None:
    """Run a command, or a shell, on a throw-away host of its own: root in it, and nothing of it outlives it."""
    if not command:
        talk("A throw-away host; `exit` and it is gone. You are root here, and only here.")
    raise typer.Exit(host.enter(command or [os.environ.get("SHELL", "/bin/bash")], around=lan))


def sandbox_host(command: Command = None, lan: Lan = False) -> None:
    """The first process of a sandbox (used by `netwrap sandbox`)."""
    if os.getpid() != 1 or not command:
        raise BadInput("sandbox-host works inside a sandbox only", "netwrap sandbox")
    raise typer.Exit(host.inside(command, around=lan))


def demo(
    step: Annotated[bool, typer.Option("--step", help="The lesson: explain each command, and wait.")] = False,
    here: Annotated[bool, typer.Option("--here", hidden=True)] = False,
) -> None:
    """Run the whole tutorial in a sandbox, with real processes and real packets, and take it all back."""
    if step and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadInput("--step asks before each step, and there is no terminal to ask on", "netwrap demo")
    if here:
        raise typer.Exit(story.tell(step=step))
    again = [*PYTHON, "netwrap", "demo", "--here", *(["--step"] if step else [])]
    raise typer.Exit(host.enter(again, around=True))


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(demo)
    app.command()(sandbox)
    app.command(hidden=True)(sandbox_host)
