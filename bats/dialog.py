"""Runs a program on a terminal of its own and types, each time once it has said something: job control, shells.

usage: python3 dialog.py COMMAND… --- (WAIT TYPE)…     WAIT is a regular expression for what is new there
In TYPE \\r is the enter key, \\x03 Ctrl-C, \\x1a Ctrl-Z, \\x1c Ctrl-\\; HANGUP closes the terminal; a ~ in front waits
half a second first. All that the terminal shows goes to stdout; the exit code is the command's. 99: it did not say what
was waited for, or did not end.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time

LIMIT = 30.0


def main(*words: str) -> int:
    cut = words.index("---")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(words[0], words[:cut])
    rest = words[cut + 1 :]
    text = [""]
    for wait, keys in zip(rest[::2], rest[1::2], strict=True):
        if not (found := _waits(terminal, text, wait)):
            print(f"\n-- waited in vain for: {wait}", flush=True)
            return _kill(pid)
        text = found
        if keys.startswith("~"):
            time.sleep(0.5)
            keys = keys[1:]
        if keys == "HANGUP":
            os.close(terminal)
            terminal = -1
        else:
            os.write(terminal, re.sub(r"\\x(..)", lambda m: chr(int(m[1], 16)), keys.replace("\\r", "\r")).encode())
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if terminal >= 0:
            _read(terminal, 0.1)
        else:
            time.sleep(0.05)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            while terminal >= 0 and _read(terminal, 0.1):
                pass
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return code if code >= 0 else 128 - code
    print("\n-- it does not end", flush=True)
    return _kill(pid)


def _waits(terminal: int, text: list[str], wait: str) -> list[str]:
    """Reads on until what is new matches; gives what comes behind that, or nothing where it does not."""
    end = time.monotonic() + LIMIT
    while not (found := re.search(wait, text[0])):
        if time.monotonic() > end:
            return []
        text = [text[0] + _read(terminal, 0.2)]
    return [text[0][found.end() :]]


def _read(terminal: int, seconds: float) -> str:
    if not select.select([terminal], [], [], seconds)[0]:
        return ""
    try:
        text = os.read(terminal, 65536).decode(errors="replace").replace("\r\n", "\n")
    except OSError:  # nobody has the other side open
        time.sleep(seconds)
        return ""
    sys.stdout.write(text)
    sys.stdout.flush()
    return text


def _kill(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 99


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
