"""For the drivers beside it: netwrap, many times over, in forked children of one warm interpreter.

The same entry point as the command's, without its start-up: hundreds of runs in a minute. Runs on a test's host.
"""

from __future__ import annotations

import difflib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import sh  # noqa: F401  # what a command imports late is here already
import tabulate  # noqa: F401
from state import kernel_state as kernel_state

from netwrap import cli

cli.commands()
gc.freeze()  # a child that collects garbage would copy all of it

HERE = Path(__file__).resolve().parent
Words = tuple[object, ...]


@dataclass(frozen=True)
class Result:
    """How a command ended; a negative code is the signal's number."""

    code: int
    out: str
    err: str


def forked(run: Callable[[], int], kill_after: float | None = None) -> int:
    """Runs a function in a forked child; gives its exit code, or the negative number of the signal that ended it.

    `kill_after`: it gets SIGKILL that many seconds later, if it is there by then.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = run()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)  # it is there at least as one that nobody has waited for
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(words: list[str]) -> int:
    """netwrap itself, as the words of a command line; gives its exit code."""
    sys.argv = ["netwrap", *words]
    code = cli.run(words)
    sys.stdout.flush()
    return code


def netwrap(*words: object, env: dict[str, object] | None = None, kill_after: float | None = None) -> Result:
    """Runs one command line to its end, or to its end by SIGKILL after some seconds."""
    out, err = os.memfd_create("out"), os.memfd_create("err")

    def run() -> int:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update({key: str(value) for key, value in (env or {}).items()})
        return command([str(word) for word in words])

    return Result(forked(run, kill_after), _text(out), _text(err))


def _text(fd: int) -> str:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read().decode(errors="replace")


def well(*words: object, env: dict[str, object] | None = None) -> Result:
    """The same for a command that has to succeed."""
    result = netwrap(*words, env=env)
    if result.code != 0:
        fail(f"netwrap {' '.join(map(str, words))}: exit {result.code}", result.err)
    return result


def answer(*words: object) -> Any:
    """A document of a --json command."""
    return json.loads(well(*words, "--json").out)


def container() -> int:
    """Starts a process in a network namespace of its own; gives its pid. It ends with the host."""
    pid = subprocess.Popen(["unshare", "--net", "sleep", "100000"], stdout=subprocess.DEVNULL).pid
    own = os.stat("/proc/self/ns/net").st_ino
    for _ in range(600):
        if os.stat(f"/proc/{pid}/ns/net").st_ino != own:
            return pid
        time.sleep(0.05)
    raise TimeoutError("a process in a namespace of its own did not start")


def no_address_is_kept(spoil: Callable[[Words], None]) -> None:
    """Fails where connects that `spoil` cuts off keep an address: after three, both of a range of two are to be had."""
    well("network", "create", "--subnet", "10.6.0.0/24", "--ip-range", "10.6.0.8/31", "small", "--batch")
    words = ("connect", "--net", "small", "--batch", "--quiet", "--pid")
    pids = [container(), container()]
    for _ in range(3):
        spoil((*words, pids[0]))
    given = {well(*words, pid).out.strip() for pid in pids}
    if given != {"10.6.0.8", "10.6.0.9"}:
        fail(f"both addresses of the range are to be had; given: {given}")


def same(what: str, wanted: str, found: str, told: str = "") -> None:
    """Fails with the difference where two texts differ."""
    if wanted != found:
        lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), "wanted", "found", lineterm="", n=0)
        fail(what, *lines, told)


def fail(what: str, *details: str) -> NoReturn:
    """Ends the driver with what went wrong."""
    print(f"FAILED: {what}", *details, sep="\n", flush=True)
    sys.exit(1)
