"""Help: what a command is for, how it is called, and examples; plain text that fits 80 columns."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from netwrap.terminal import page_width

SECTIONS = ("Networks", "Containers", "Undo and repair", "Look", "Learn")


@dataclass(frozen=True)
class Page:
    """A command's section, how it is called, and examples."""

    section: str
    usage: str
    examples: tuple[str, ...]


PAGES = {
    "network create": Page(
        "Networks",
        "NAME [OPTIONS]",
        (
            "netwrap network create --subnet 10.0.0.1/24 testbridge",
            "netwrap network create --dry-run testbridge | less",
        ),
    ),
    "network list": Page("Networks", "[--json]", ("netwrap network list",)),
    "network inspect": Page("Networks", "NAME", ("netwrap network inspect testbridge",)),
    "network remove": Page(
        "Networks",
        "NAME... [--force] [OPTIONS]",
        ("netwrap network remove testbridge", "netwrap network remove --force testbridge otherbridge"),
    ),
    "network link": Page("Networks", "A B [OPTIONS]", ("netwrap network link testbridge otherbridge",)),
    "network unlink": Page("Networks", "A B [OPTIONS]", ("netwrap network unlink testbridge otherbridge",)),
    "connect": Page(
        "Containers",
        "--net NETWORK (--pid PID | --netns NAME | --container ID) [OPTIONS]",
        (
            "netwrap connect --net testbridge --pid 4711 --name web -p 8080:80",
            "netwrap connect --net testbridge --container my-docker-container",
        ),
    ),
    "disconnect": Page(
        "Containers",
        "(NAME | --pid PID) [--net NETWORK] [OPTIONS]",
        ("netwrap disconnect web", "netwrap disconnect --pid 4711 --net testbridge"),
    ),
    "publish": Page(
        "Containers",
        "NAME SPEC... [OPTIONS]",
        ("netwrap publish web 8080:80", "netwrap publish web 5353:53/udp --allow-from 192.168.50.0/24"),
    ),
    "unpublish": Page("Containers", "NAME SPEC... [OPTIONS]", ("netwrap unpublish web 8080:80",)),
    "ps": Page("Containers", "[--json]", ("netwrap ps",)),
    "run": Page(
        "Containers",
        "--net NETWORK [OPTIONS] -- COMMAND...",
        (
            "netwrap run --net testbridge -- ping -c 1 10.0.0.1",
            "netwrap run -d --net testbridge -p 8080:8000 -- python3 -m http.server",
        ),
    ),
    "exec": Page("Containers", "NAME -- COMMAND...", ("netwrap exec web -- ip addr",)),
    "log": Page("Undo and repair", "[ID] [--json]", ("netwrap log", "netwrap log 2")),
    "undo": Page("Undo and repair", "[ID] [--yes] [OPTIONS]", ("netwrap undo", "netwrap undo 2 --dry-run")),
    "repair": Page("Undo and repair", "[NAME] [OPTIONS]", ("netwrap repair",)),
    "gc": Page("Undo and repair", "[OPTIONS]", ("netwrap gc",)),
    "status": Page("Look", "[--json]", ("netwrap status",)),
    "check": Page("Look", "[NAME...] [--json]", ("netwrap check", "netwrap check c1")),
    "doctor": Page("Look", "[--json]", ("netwrap doctor",)),
    "demo": Page("Learn", "[--step]", ("netwrap demo --step",)),
    "sandbox": Page(
        "Learn",
        "[--lan] [-- COMMAND...]",
        ("netwrap sandbox --lan", "netwrap sandbox -- netwrap network create --subnet 10.0.0.1/24 testbridge"),
    ),
    "help": Page("Learn", "[COMMAND...]", ("netwrap help network create",)),
}
"""Every command that is not hidden, in the order of the help."""

GROUPS = {
    "": Page(
        "",
        "[--state-dir DIR] COMMAND [OPTIONS]",
        ("netwrap sandbox --lan", "netwrap network create --subnet 10.0.0.1/24 testbridge"),
    ),
    "network": Page("", "COMMAND [OPTIONS]", ("netwrap network create --subnet 10.0.0.1/24 testbridge",)),
}


class Command(TyperCommand):
    """A command with netwrap's own help page."""

    def get_help(self, ctx: Any) -> str:
        """Its help, as wide as the terminal."""
        return page(self, ctx.command_path.partition(" ")[2])


class Group(TyperGroup):
    """A group of commands with netwrap's own help page."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds a command. Raises UnknownCommand."""
        if args[0][:1].isalnum() and args[0] not in self.commands and not ctx.resilient_parsing:
            raise UnknownCommand(args[0], ctx.command_path.partition(" ")[2])
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: Any) -> str:
        """Its help, as wide as the terminal."""
        return page(self, ctx.command_path.partition(" ")[2])


class UnknownCommand(Exception):
    """A word that is not a command of its group."""

    def __init__(self, word: str, group: str) -> None:
        super().__init__(word, group)
        self.word = word
        self.group = group


def show_if_alone(ctx: typer.Context) -> None:
    """Shows the help of a group that is called without a command."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit


def page(command: Any, path: str) -> str:
    """The help of a command or a group; `path` is its name without `netwrap`."""
    width = page_width(sys.stdout)
    found = GROUPS.get(path) or PAGES.get(path) or Page("", "", ())
    called = " ".join(filter(None, ("netwrap", path)))
    parts = [_wrap(f"{called} {found.usage}", width, "Usage: ", "           ")]
    parts += [_wrap(text, width) for text in inspect.cleandoc(command.help or "").split("\n\n")]
    if path in GROUPS:
        parts += _commands(command, path, width)
    parts += _params(command, width)
    if found.examples:
        title = "Example" if len(found.examples) == 1 else "Examples"
        parts.append("\n".join([f"{title}:", *(f"  {line}" for line in found.examples)]))
    if not path:
        parts.append("`netwrap help COMMAND` explains a command.")
    return "\n\n".join(parts)


def summary(command: Any) -> str:
    """The first line of a command's help, without its full stop."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split()).removesuffix(".")


def leaves(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that is not hidden, with its name."""
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from leaves(found, f"{path}{name} ")
        elif not found.hidden:
            yield path + name, found


def _commands(group: Any, path: str, width: int) -> Iterator[str]:
    prefix = f"{path} " if path else ""
    found = dict(leaves(group, prefix))
    for section in SECTIONS:
        names = [name for name, known in PAGES.items() if known.section == section and name in found]
        if names:
            rows = [(name.removeprefix(prefix), summary(found[name])) for name in names]
            yield f"{section if not path else 'Commands'}:\n" + _rows(rows, width)


def _params(command: Any, width: int) -> Iterator[str]:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in command.params:
        if getattr(param, "hidden", False):
            continue
        if param.param_type_name == "argument":
            sections["Arguments"].append((param.metavar or param.name.upper(), param.help or ""))
        else:
            title = param.rich_help_panel or "Options"
            sections.setdefault(title, []).append((_names(param), _about(param)))
    sections["Options"].append(("-h, --help", "Show this help."))
    for title, rows in sections.items():
        if rows:
            yield f"{title}:\n" + _rows(rows, width)


def _names(param: Any) -> str:
    names = ", ".join(sorted(param.opts, key=len))
    return names if param.is_flag else f"{names} {param.metavar or param.name.upper()}"


def _about(param: Any) -> str:
    more = " Required." if param.required else ""
    if param.default is not None and not param.is_flag and not param.required:
        more += f" Default: {param.default}."
    return (param.help or "") + more


def _rows(rows: Iterable[tuple[str, str]], width: int) -> str:
    rows = list(rows)
    column = min(max(len(name) for name, _ in rows), 24) + 4
    lines = []
    for name, text in rows:
        start = f"  {name}".ljust(column)
        if len(start) > column:
            lines.append(start.rstrip())
            start = " " * column
        lines.append(_wrap(text, width, start, " " * column))
    return "\n".join(lines)


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
