"""The command line: options in, text out. One module per group of commands; errors are printed here, in two lines."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from netwrap import __version__
from netwrap.cli import checkup, container, learn, log, meant, network, upkeep
from netwrap.cli import help as pages
from netwrap.cli.common import DEFAULT_STATE, PRIVATE
from netwrap.errors import BadInput, CommandFailed, NetwrapError, quoted, shortened
from netwrap.terminal import talk

app = typer.Typer(
    name="netwrap",
    cls=pages.Group,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(network.app, name="network")
for group in (container, log, upkeep, checkup, learn):
    group.register(app)


def _complete_words(ctx: typer.Context, incomplete: str) -> list[str]:
    found: Any = commands()
    for word in ctx.params.get("words") or ():
        found = getattr(found, "commands", {}).get(word)
    below = getattr(found, "commands", {})
    return [name for name, command in below.items() if name.startswith(incomplete) and not command.hidden]


def _show_version(asked: bool) -> None:
    if asked:
        print(f"netwrap {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    _state_dir: Annotated[
        str | None,
        typer.Option(
            "--state-dir",
            metavar="DIR",
            help=f"Directory of the state file. Default: $NETWRAP_STATE_DIR, or {DEFAULT_STATE}.",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Container networking by hand: one visible command per step, and every step can be undone."""
    if _state_dir == "":
        raise BadInput("--state-dir '' is not a directory", f"netwrap --state-dir {DEFAULT_STATE} …")
    pages.show_if_alone(ctx)


def _no_command(word: str, group: str) -> str:
    return f"no command {quoted(word)}" + (f" in netwrap {group}" if group else "")


@app.command(name="help", cls=pages.Command)
def help_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND...", help="A command, such as `network create`.", autocompletion=_complete_words
        ),
    ] = None,
) -> None:
    """Show this help, or that of a command."""
    found, path = commands(), ""
    for word in words or ():
        below = getattr(found, "commands", {})
        if word not in below:
            meaning = meant.command(word, path, commands(), list(words or ()))
            hint = f"did you mean: {meaning.replace('netwrap', 'netwrap help', 1)}" if meaning else "netwrap help"
            raise BadInput(_no_command(word, path), hint)
        found, path = below[word], f"{path} {word}".strip()
    print(pages.page(found, path))


@cache
def commands() -> Callable[..., Any]:
    """All commands with their options, as a tree."""
    return typer.main.get_command(app)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code. No traceback reaches the user."""
    own = str(Path(sys.executable).parent)  # netwrap itself, for commands that it starts
    path = (os.environ.get("PATH") or "/usr/bin:/bin").split(":")  # an empty PATH would mean the current directory
    os.environ["PATH"] = ":".join([*path, *(d for d in (*_SBIN, own) if d not in path)])
    _open_what_is_closed()
    try:
        code = commands()(arguments, prog_name="netwrap", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except pages.UnknownCommand as error:
        meaning = meant.command(error.word, error.group, commands(), arguments)
        hint = f"did you mean: {meaning}" if meaning else f"netwrap help {error.group}".strip()
        return _complain(_no_command(error.word, error.group), hint, 2)
    except NetwrapError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except CommandFailed as error:
        return _complain(str(error), "netwrap log", 1)
    except typer.TyperException as error:
        return _usage(error, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", "netwrap log", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:  # stdout cannot be written: /dev/full, a full disk
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _complain(
                "the command is done, but its output could not be written: stdout is full", "netwrap log", 1
            )
        return _complain(f"{error.filename or 'system'}: {error.strerror or error}", "netwrap log", 1)
    except Exception as error:  # a bug; the journal has what was done, and the next command deals with it
        if os.environ.get("NETWRAP_DEBUG"):
            raise
        return _complain(f"{type(error).__name__}: {error}", "NETWRAP_DEBUG=1 netwrap …  # shows where", 1)


_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def _open_what_is_closed() -> None:
    """A program may start netwrap without stdin, stdout or stderr: a file opened later would get their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode))  # noqa: SIM115  # for as long as we run


def _usage(error: typer.TyperException, arguments: list[str]) -> int:
    message = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else _command_path(arguments)
    if hasattr(error, "possibilities"):  # an option that the command does not have
        typed = _typed(getattr(error, "option_name", ""), arguments)
        known = [name for param in context.command.params for name in param.opts] if context is not None else []
        hint = f"{path} --help"
        runs_another = context is not None and any(param.name == PRIVATE for param in context.command.params)
        if is_of_another := runs_another and "--" not in arguments:
            hint = f"{path} … -- COMMAND…  # behind -- options are the command's own"
        if meaning := meant.option(typed, known, path, arguments, likeness=0.8 if is_of_another else 0.6):
            hint = f"did you mean: {meaning}"
        return _complain(f"No such option: {quoted(typed.partition('=')[0])}", hint, 2)
    message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shortened(message, 600))
    return _complain(message.rstrip("."), f"{path} --help", 2)


def _typed(option: str, arguments: list[str]) -> str:
    """The unknown option as it was typed: `-net`, where click reports `-n`."""
    if option.startswith("--"):
        return next((w for w in arguments if w.partition("=")[0] == option), option)
    return next((w for w in arguments if w[:1] == "-" != w[1:2] and option[1:] in w[1:]), option)


def _command_path(arguments: list[str]) -> str:
    """The command at the start of the arguments, for errors that do not name it."""
    path, found = ["netwrap"], commands()
    for word in arguments:
        if word in getattr(found, "commands", {}):
            path.append(word)
            found = getattr(found, "commands", {})[word]
    return " ".join(path)


def _complain(message: str, hint: str, code: int) -> int:
    talk(f"netwrap: {'; '.join(filter(None, map(str.strip, message.splitlines())))}\nhint: {hint}", as_it_is=True)
    return code
