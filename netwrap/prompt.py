"""Makes a shell in a sandbox or container show that in its prompt."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

_OTHERS = ("sh", "dash", "ash", "ksh", "mksh")
_OWN = "case $PS1 in *"
_STARTS = ("-i", "-l", "-il", "-li", "--login")


def environment(command: Sequence[str], where: str) -> dict[str, str]:
    """What an interactive shell on our terminal gets into its environment; nothing for any other command.

    bash runs $PROMPT_COMMAND before each prompt, when its own files have set PS1: where they set that variable too, the
    prompt is theirs alone. Shells without such files take PS1 from the environment.
    """
    name = command[0].rpartition("/")[2]
    if not (os.isatty(0) and os.isatty(2)) or any(word not in _STARTS for word in command[1:]):
        return {}
    mark = f"({where}) "
    if name in _OTHERS:
        return {"PS1": f"{mark}{'#' if os.geteuid() == 0 else '$'} "}
    if name != "bash":
        return {}
    own = f"{_OWN}{shlex.quote(mark)}*) ;; *) PS1={shlex.quote(mark)}$PS1 ;; esac"
    others = [line for line in os.environ.get("PROMPT_COMMAND", "").split("\n") if line and not line.startswith(_OWN)]
    return {"PROMPT_COMMAND": "\n".join([own, *others])}
