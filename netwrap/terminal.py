"""The talk with the user: sentences on stderr, one key from the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty


def talk(text: str) -> None:
    """Says something to the user: stderr, as stdout is the result. Nobody has to listen."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text.translate(_HARMLESS), file=sys.stderr, flush=True)


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
