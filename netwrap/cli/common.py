"""What the groups of commands share: option types, the mode that they select, completion."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from netwrap import app as verbs
from netwrap import sandbox
from netwrap.desk import DEFAULT_STATE as DEFAULT_STATE
from netwrap.desk import Mode
from netwrap.errors import BadInput, quoted
from netwrap.model import State
from netwrap.steps import shell_line
from netwrap.terminal import columns, talk
from netwrap.views.table import fitted

HOW = "How to run it"

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", rich_help_panel=HOW, help="Print the commands as a bash script; change nothing. Needs no root."
    ),
]
Step = Annotated[
    bool, typer.Option("--step", rich_help_panel=HOW, help="Explain and ask before each command; show what it changes.")
]
Batch = Annotated[bool, typer.Option("--batch", rich_help_panel=HOW, help="Run the same steps in fewer processes.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=HOW, help="Do not show the commands as they run.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def mode(
    ctx: typer.Context,
    *,
    dry_run: bool = False,
    step: bool = False,
    batch: bool = False,
    quiet: bool = False,
    json: bool = False,
    shows: bool = False,
) -> Mode:
    """The mode that a command's options select; `shows` if it has JSON to print without --dry-run.

    Raises BadInput for options that contradict each other.
    """
    command = ctx.command_path
    if step and (batch or dry_run):
        raise BadInput(f"--step cannot be used with {'--batch' if batch else '--dry-run'}", f"{command} --help")
    if json and not (dry_run or shows):
        raise BadInput("--json needs --dry-run with this command", f"{command} --help")
    return Mode(_state_dir(ctx), dry_run, step, batch, quiet, json, line=_line(ctx))


PRIVATE = "command"
"""The argument with another program's command line: it may contain secrets, and every user may read the log."""


def _line(ctx: typer.Context) -> str:
    """The command line as it was parsed, without another program's command line: what the log may contain."""
    words, more = ["netwrap"], ""
    path: list[Any] = [ctx]
    while (parent := path[0].parent) is not None:
        path.insert(0, parent)
    for context in path:
        if context.parent is not None:
            words.append(context.info_name)
        given = [p for p in context.command.params if _is_given(context, p.name)]
        for param in given:
            if param.param_type_name == "option":
                words += _option(param, context.params[param.name])
        for param in given:
            if param.param_type_name == "argument":
                if param.name == PRIVATE:
                    more = " -- …"
                else:
                    words += _as_list(context.params[param.name])
    return (shell_line(words) + more).encode(errors="backslashreplace").decode()


def _is_given(context: Any, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE" and context.params.get(name) is not None


def _option(param: Any, value: object) -> list[str]:
    if param.is_flag:
        return [param.opts[0]]
    return [word for one in _as_list(value) for word in (param.opts[0], one)]


def _as_list(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]


def changes(*, shows: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the options of every changing command to a command, which is called with the mode that they select."""
    options = {"dry_run": DryRun, "step": Step, "batch": Batch, "quiet": Quiet, "json": Json}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(ctx: typer.Context, **given: Any) -> None:
            chosen = {name: given.pop(name) for name in options}
            function(mode(ctx, **chosen, shows=shows), **given)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(name, kind, default=False, annotation=t) for name, t in options.items()]
        context = inspect.Parameter("ctx", kind, annotation=typer.Context)
        parameters = [context, *(p.replace(kind=kind) for p in own), *added]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def number_of(text: str) -> int:
    """Parses a number in the form that netwrap prints, so that errors quote it as it was typed."""
    if not re.fullmatch("0|[1-9][0-9]{0,29}", text):
        raise typer.BadParameter(f"{quoted(text)} is not a whole number")
    return int(text)


def show_table(head: Sequence[str], rows: Iterable[Sequence[object]], drop: Sequence[str] = ()) -> None:
    """Prints a table; if the terminal is too narrow, columns in `drop` go first, then the longest cells are cut."""
    width = columns(sys.stdout)
    text, whole = fitted(head, rows, width, drop)
    print(text, flush=not whole)
    if not whole:
        talk(f"# cut to {width} columns; the whole table:\n  {shell_line(['netwrap', *sys.argv[1:]])} | cat")


def _state_dir(ctx: typer.Context) -> Path:
    """--state-dir, or else what the environment or the sandbox says; also in completion, where no callback has run."""
    given = ctx.find_root().params.get("_state_dir")
    return Path(given) if given else sandbox.state_dir(os.environ)


def _state(ctx: typer.Context) -> State:
    return verbs.standing(Mode(_state_dir(ctx)))


def complete_network(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of networks, for the shell's completion."""
    return [n for n in _state(ctx).networks if n.startswith(incomplete)]


def complete_linked(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the networks that the first one is linked to, for the shell's completion."""
    return [n for n in _state(ctx).linked_to(ctx.params.get("a", "")) if n.startswith(incomplete)]


def complete_container(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of containers, for the shell's completion."""
    return [c for c in _state(ctx).containers if c.startswith(incomplete)]


def complete_network_or_container(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of networks and containers, for the shell's completion."""
    return complete_network(ctx, incomplete) + complete_container(ctx, incomplete)


def complete_published(ctx: typer.Context, incomplete: str) -> list[str]:
    """SPECs of published ports, for the shell's completion."""
    name = ctx.params.get("name")
    return [p.port.spec for p in _state(ctx).publications if p.container == name and p.port.spec.startswith(incomplete)]


def complete_netns(incomplete: str) -> list[str]:
    """Handles in /run/netns, for the shell's completion."""
    return [name for name in verbs.handles() if name.startswith(incomplete)]


def complete_driver(incomplete: str) -> list[str]:
    """Names of drivers, for the shell's completion."""
    return [name for name in verbs.drivers() if name.startswith(incomplete)]
