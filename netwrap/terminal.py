"""The talk with the user: sentences on stderr, one key from the terminal; how wide the terminal is."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import textwrap
import tty
from typing import TextIO

WIDTH = 80
"""Sentences are no wider, also where the terminal is."""


def talk(text: str, *, as_it_is: bool = False) -> None:
    """Says something to the user: stderr, as stdout is the result. Nobody has to listen.

    Sentences are wrapped on a terminal; commands (`+ …`) and what is indented stay on their line, as does everything
    with `as_it_is`.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            width = None if as_it_is else _sentence_width(sys.stderr)
            text = text.translate(_HARMLESS)
            print(text if width is None else wrapped(text, width), file=sys.stderr, flush=True)


def wrapped(text: str, width: int = WIDTH) -> str:
    """Sentences, each line wrapped between words; commands and what is indented as they are."""
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    if len(line) <= width or line.startswith(("+ ", "hint: ", " ", "\t")):
        return line
    indent = "# " if line.startswith("# ") else "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def columns(stream: TextIO) -> int | None:
    """How wide the terminal is that a stream leads to; None where it is none, or does not know."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return None
    return _said_columns() or found or None


def page_width(stream: TextIO) -> int:
    """How wide a page of text is: as the stream's terminal, or as $COLUMNS says; 80 at most, 40 at least."""
    return max(40, min(columns(stream) or _said_columns() or WIDTH, WIDTH))


def _said_columns() -> int | None:
    """$COLUMNS, where it is a number."""
    said = os.environ.get("COLUMNS", "")
    return int(said) if said.isascii() and said.isdigit() and 0 < len(said) < 6 and int(said) else None


def _sentence_width(stream: TextIO) -> int | None:
    """How wide sentences are: the terminal's width, 80 at most; None where nobody has said one, in a file or a pipe."""
    found = columns(stream) or _said_columns()
    return found and min(found, WIDTH)


_HARMLESS = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}
"""What a link, a comment or a command's error has in it might be meant for the terminal (console_codes(4))."""


def read_key(prompt: str) -> str:
    """One key from the terminal, without enter; q where there is none any more."""
    fd = sys.stdin.fileno()
    try:
        old = termios.tcgetattr(fd)
        try:
            tty.setcbreak(fd, termios.TCSADRAIN)  # before the prompt: a quick answer has to be a key already
            with contextlib.suppress(OSError):
                sys.stderr.write(prompt)
                sys.stderr.flush()
            key = os.read(fd, 1).decode(errors="replace")
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, old)
    except (OSError, termios.error):  # the terminal is gone
        return "q"
    talk("")
    return key or "q"
