"""Messages to the user on stderr, single keys from the terminal, and the terminal's width."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import textwrap
import tty
from typing import TextIO

WIDTH = 80
"""Sentences are wrapped at this width, even if the terminal is wider."""


def talk(text: str, *, as_it_is: bool = False) -> None:
    """Prints a message on stderr, as stdout is for the result. It is no error if stderr is closed.

    Sentences are wrapped on a terminal. Commands (`+ …`) and indented lines are not, and nothing is with `as_it_is`.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            width = None if as_it_is else _sentence_width(sys.stderr)
            text = text.translate(_HARMLESS)
            print(text if width is None else wrapped(text, width), file=sys.stderr, flush=True)


def wrapped(text: str, width: int = WIDTH) -> str:
    """A text with each line wrapped between words, except commands and indented lines."""
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    if len(line) <= width or line.startswith(("+ ", "hint: ", " ", "\t")):
        return line
    indent = "# " if line.startswith("# ") else "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def columns(stream: TextIO) -> int | None:
    """The width of a stream's terminal; None if it is not a terminal, or the width is unknown."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return None
    return _said_columns() or found or None


def page_width(stream: TextIO) -> int:
    """The width of a page of text: that of the stream's terminal, or $COLUMNS; 80 at most, 40 at least."""
    return max(40, min(columns(stream) or _said_columns() or WIDTH, WIDTH))


def _said_columns() -> int | None:
    """$COLUMNS, if it is a valid number."""
    said = os.environ.get("COLUMNS", "")
    return int(said) if said.isascii() and said.isdigit() and 0 < len(said) < 6 and int(said) else None


def _sentence_width(stream: TextIO) -> int | None:
    """The width of sentences: the terminal's, 80 at most; None if it is unknown, as in a file or a pipe."""
    found = columns(stream) or _said_columns()
    return found and min(found, WIDTH)


_HARMLESS = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}
"""Names, comments and errors of commands may contain control sequences for the terminal (console_codes(4))."""


def read_key(prompt: str) -> str:
    """Reads one key from the terminal, without enter; q if the terminal is gone."""
    fd = sys.stdin.fileno()
    try:
        old = termios.tcgetattr(fd)
        try:
            tty.setcbreak(fd, termios.TCSADRAIN)  # before the prompt, so that an early answer counts as a key
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
