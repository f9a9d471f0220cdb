"""Commands that stay as long as a process does: `run`, and `connect --hold`."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from netwrap import app, plan
from netwrap.desk import Mode, changing, reading, talk
from netwrap.errors import BadInput, Interrupted, NetwrapError
from netwrap.execute import background
from netwrap.look import process
from netwrap.model import Container, Endpoint, Netns
from netwrap.plan import ConnectWish
from netwrap.steps import Plan, shell_line
from netwrap.views.script import run_script

ISOLATE = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def hold(mode: Mode, endpoint: Endpoint, pid: int) -> None:
    """Stays until the process ends, then disconnects it. Errors: Interrupted after a signal, disconnected too."""
    caught: list[int] = []
    with _handling(lambda number: caught.append(number)) as wakeup, _pidfd(pid) as ended:
        if ended is not None and not caught:
            select.select([ended, wakeup], [], [])
    _take_down(mode, endpoint.container, endpoint.network)
    if caught:
        name = signal.Signals(caught[0]).name
        raise Interrupted(f"interrupted by {name}; {endpoint.container} is disconnected", "netwrap ps")


def run(mode: Mode, wish: ConnectWish, command: list[str], *, detach: bool) -> int:
    """Runs a command in namespaces of its own on a network and takes all down at its end; gives its exit code."""
    if shutil.which(command[0]) is None:
        raise BadInput(f"no command {command[0]!r}", "netwrap run --net NETWORK -- COMMAND…")
    if mode.dry_run:
        _dry_run(mode, wish, command)
        return 0
    name = _build(mode, wish)
    if not detach:
        return _supervise(mode, name, command)
    talk(f"+ {shell_line(_words(name, command))} &")
    if _fork_away():
        print(name)
        return 0
    try:
        _supervise(replace(mode, quiet=True, step=False), name, command, started=_report_started)
    finally:
        os._exit(0)


def _words(name: str, command: list[str]) -> list[str]:
    return ["ip", "netns", "exec", name, *ISOLATE, *command]


def _dry_run(mode: Mode, wish: ConnectWish, command: list[str]) -> None:
    with reading(mode) as desk:
        seen = desk.look()
        made = plan.connect(wish, seen, desk.state())
        if mode.json:
            desk.print(made, seen)
        else:
            print(run_script(made, _words(_container(made).name, command)), end="")


def _container(made: Plan) -> Container:
    return next(m for m in made.makes if isinstance(m, Container))


def _build(mode: Mode, wish: ConnectWish) -> str:
    """Makes the namespace and puts it on the network. Two looks: the second plan knows the namespace's inode."""
    with changing(mode, f"run on {wish.network}") as desk:
        whole = plan.connect(wish, desk.look(), desk.state())
        container = _container(whole)
        with desk.operation(whole.title.replace("connect", "run"), "build", whole.steps) as op:
            desk.run(op, replace(whole, steps=whole.steps[:1], makes=(), already=()), ends=False)
            seen = desk.look(inside=[Netns(container.name, 0)])
            container = replace(container, inode=seen.handles[container.name])
            desk.run(op, plan.connect(wish, seen, desk.state(), container))
        return container.name


def _supervise(mode: Mode, name: str, command: list[str], started: Callable[[], None] = lambda: None) -> int:
    """Runs the command in its namespace, waits for its end, takes its network down; gives its exit code."""
    words = _words(name, command)
    if not mode.quiet:
        talk(f"+ {shell_line(words)}")

    def remember(pid: int) -> None:
        _remember(mode, name, pid)
        started()

    code = attend(words, remember)
    _take_down(mode, name, None)
    return code


def attend(words: list[str], started: Callable[[int], None] = lambda _: None) -> int:
    """Runs words that end in `unshare --fork --kill-child … COMMAND`, passes signals on; gives the exit code.

    `started` is told the command's pid. A signal that the command has no handler for ends it.
    """
    ended_by: list[int] = []
    child = background(words)
    init = _init_of(child)
    if init is not None:
        started(init)

    def forward(number: int) -> None:
        if init is not None and not _pass_on(number, init):
            ended_by.append(number)
            os.kill(child, signal.SIGKILL)  # --kill-child takes the command along

    with _pidfd(init or child) as ended, _handling(forward):
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended is not None:
            select.select([ended], [], [], 10)
    if ended_by:
        code = -ended_by[0]
    return code if code >= 0 else 128 - code


def _init_of(child: int) -> int | None:
    """The command's pid: the first process of its pid namespace, which unshare forks; None where it ended first."""
    children = Path(f"/proc/{child}/task/{child}/children")
    for _ in range(1000):
        try:
            pids = children.read_text().split()
        except OSError:
            return None
        if pids:
            return int(pids[0])
        if (found := process(child)) is None or found.pid != child:
            return None
        time.sleep(0.005)
    return None


def _remember(mode: Mode, name: str, pid: int) -> None:
    with changing(replace(mode, step=False), f"run {name}") as desk:
        found = process(pid)
        container = desk.state().containers.get(name)
        if found is not None and container is not None:
            desk.store.update(replace(container, pid=pid, starttime=found.starttime))


def _pass_on(number: int, pid: int) -> bool:
    """Passes a signal on to the command; False where it has no handler for it and has to be ended.

    The first process of a pid namespace does not get signals that it has no handler for (pid_namespaces(7)).
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        masks = dict(line.split(":\t") for line in lines if line.startswith("Sig"))
        if not (int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16)) >> (number - 1) & 1:
            return False
        if number != signal.SIGINT or not os.isatty(0):  # Ctrl-C: the terminal has given it to the command already
            os.kill(pid, number)
    except (OSError, KeyError):
        pass  # it has ended
    return True


def _take_down(mode: Mode, name: str, network: str | None) -> None:
    """Disconnects, unless somebody has done so already."""
    try:
        app.disconnect(replace(mode, step=False), name, None, network)
    except BadInput:
        return


@contextmanager
def _handling(handle: Callable[[int], None]) -> Iterator[int]:
    """Calls `handle` for each signal that a user or system ends commands with; gives a descriptor that wakes."""
    read, write = os.pipe()
    os.set_blocking(write, False)

    def handler(number: int, _frame: FrameType | None) -> None:
        handle(number)

    old_fd = signal.set_wakeup_fd(write)
    old = {number: signal.signal(number, handler) for number in _FORWARDED}
    try:
        yield read
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(old_fd)
        os.close(read)
        os.close(write)


@contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    """A descriptor that is readable when the process has ended (pidfd_open(2)); None where it has already."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


_pipe: list[int] = []


def _fork_away() -> bool:
    """Forks a supervisor into a session of its own; True in the parent, once the command has started.

    Errors: NetwrapError where it did not start.
    """
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        if not os.read(read, 1):
            raise NetwrapError("the command did not start; its network is taken down", "netwrap log")
        return True
    os.close(read)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    _pipe.append(write)
    return False


def _report_started() -> None:
    os.write(_pipe[0], b".")
    os.close(_pipe[0])
