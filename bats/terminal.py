"""Runs something on a terminal of its own and answers what it asks, one key a question.

Where a line is read, enter follows the key; the last key is repeated.

usage: python3 terminal.py KEYS COMMAND…     stdin and stderr are the terminal, whose text goes to stderr; stdout stays
In KEYS \\r is the enter key. The exit code is the command's.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Callable

_QUESTION = re.compile(rb"(q = [^\n]*> |\[y/N\]: ?)$")
LIMIT = 300.0  # seconds
MOST = 200  # questions


def converse(run: Callable[[], int], keys: str) -> tuple[int, str]:
    """Runs a function in a child on a new terminal; gives its exit code and the terminal's text."""
    master, slave = pty.openpty()
    child = os.fork()
    if child == 0:
        os.close(master)
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        os.dup2(slave, 0)
        os.dup2(slave, 2)
        code = 99
        try:
            code = run()
        finally:
            os._exit(code)
    os.close(slave)
    text = _answer(master, keys, child)
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text.decode(errors="replace").replace("\r\n", "\n")


def _answer(master: int, keys: str, child: int) -> bytes:
    text, answered, end = b"", 0, time.monotonic() + LIMIT
    while True:
        if answered > MOST or not select.select([master], [], [], max(0, end - time.monotonic()))[0]:
            os.kill(child, signal.SIGKILL)
            return text + b"\nno end in sight; killed\n"
        try:
            new = os.read(master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return text
        if not new:
            return text
        text += new
        if question := _QUESTION.search(text):
            enter = "\r" if question[0].startswith(b"[") else ""  # yes or no is a line
            os.write(master, (keys[min(answered, len(keys) - 1)] + enter).encode())
            answered += 1


def main(keys: str, *command: str) -> None:
    def run() -> int:
        os.execvp(command[0], command)

    code, text = converse(run, keys.replace("\\r", "\r").replace("\\n", "\n"))
    sys.stderr.write(text)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(*sys.argv[1:])
