"""What was probably meant by a command or an option that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from netwrap.cli.help import leaves
from netwrap.steps import shell_line

_SAME = {
    **dict.fromkeys(("rm", "delete", "del", "destroy"), "remove"),
    **dict.fromkeys(("ls", "show-all"), "list"),
    **dict.fromkeys(("add", "new", "make"), "create"),
    **dict.fromkeys(("show", "info", "describe"), "inspect"),
    **dict.fromkeys(("attach", "join", "plug"), "connect"),
    **dict.fromkeys(("detach", "leave", "unplug"), "disconnect"),
    **dict.fromkeys(("expose", "forward", "map"), "publish"),
    **dict.fromkeys(("unexpose", "unforward"), "unpublish"),
    **dict.fromkeys(("start", "launch"), "run"),
    **dict.fromkeys(("enter", "shell", "nsenter"), "exec"),
    **dict.fromkeys(("containers", "top"), "ps"),
    **dict.fromkeys(("history", "journal"), "log"),
    **dict.fromkeys(("rollback", "revert"), "undo"),
    **dict.fromkeys(("fix", "mend", "restore"), "repair"),
    **dict.fromkeys(("prune", "clean", "cleanup"), "gc"),
    **dict.fromkeys(("tutorial", "lesson"), "demo"),
}
"""Words of other tools."""

_LONGEST = 300


def command(word: str, group: str, tree: Any, arguments: list[str]) -> str | None:
    """The command line with the command that was probably meant by `word`, which `group` does not have."""
    names = [name for name, _ in leaves(tree)]
    prefix = f"{group} " if group else ""
    here = [name.removeprefix(prefix).split()[0] for name in names if name.startswith(prefix)]
    everywhere = {name.split()[-1]: name for name in reversed(names)}
    low = word.lower()
    same = _SAME.get(low, low)
    if same in here:
        found = prefix + same
    elif near := get_close_matches(low, here, 1):
        found = prefix + near[0]
    elif same in everywhere:
        found = everywhere[same]
    elif near := get_close_matches(low, everywhere, 1, 0.7):
        found = everywhere[near[0]]
    else:
        return None
    places = (n for n, w in enumerate(arguments) if w == word and (not group or arguments[n - 1 : n] == [group]))
    at = next(places, None)
    if at is None:
        return f"netwrap {found}"
    return _line([*arguments[: at - bool(group)], *found.split(), *arguments[at + 1 :]], found)


def option(typed: str, known: Iterable[str], path: str, arguments: list[str], *, likeness: float) -> str | None:
    """The command line with the option that was probably meant by the one that was typed."""
    name, equals, value = typed.partition("=")
    near = get_close_matches("--" + name.lstrip("-"), [k for k in known if k.startswith("--")], 1, likeness)
    if not near or typed not in arguments:
        return None
    at = arguments.index(typed)
    return _line([*arguments[:at], near[0] + equals + value, *arguments[at + 1 :]], f"{path} {near[0]}")


def _line(words: list[str], short: str) -> str:
    line = shell_line(["netwrap", *words])
    return line if len(line) <= _LONGEST and line.isprintable() else f"netwrap {short}"
