"""Runs a Plan: execute(plan, runner, journal), and the runners Shell, Batch and Ask.

The only door to processes: everything that is spawned and waited for goes through `spawn`, and `sh` is imported
here alone, when the first command is run.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count, groupby
from types import FrameType, TracebackType
from typing import Any, Protocol

from netwrap.errors import CommandFailed, Interrupted, NetwrapError
from netwrap.facts import Facts, holds
from netwrap.steps import SHELL_PID, Cmd, Plan, Step, shell_line

NETNS_DIR = "/run/netns"
PACKAGES = {
    "ip": "iproute2",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "sysctl": "procps",
    "unshare": "util-linux",
}
Say = Callable[[str], None]


class Journal(Protocol):
    """Where steps are written down before and after they take effect."""

    def begins(self, steps: Sequence[Step]) -> list[int]:
        """Writes down what is about to be run; gives the rows' numbers."""

    def done(self, rows: Sequence[int]) -> None:
        """Writes down that it took effect."""


class Runner(Protocol):
    """Makes the changes of steps. Errors: CommandFailed."""

    def group(self, steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
        """The steps in the groups in which they are run."""

    def run(self, steps: Sequence[Step]) -> None:
        """Runs one group."""


# ---- spawning


class Signals:
    """While entered, SIGINT, SIGTERM and SIGHUP end the running command, and `check` raises Interrupted.

    Inside `at_once`, where nothing is half done (waiting for a lock, for a key), they raise it themselves.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self.child: Any = None
        self._at_once = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.caught is None and self.child is not None:
            self.child.kill_group()
        self.caught = number
        if self._at_once:
            self.check()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal end what is waited for here."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def check(self) -> None:
        """Raises Interrupted where a signal has come."""
        if self.caught is not None:
            raise Interrupted(f"interrupted by {signal.Signals(self.caught).name}", "netwrap log")


def time_limit() -> float:
    """Seconds that a spawned command may take: $NETWRAP_TIMEOUT, 30 where that is no positive number."""
    try:
        limit = float(os.environ.get("NETWRAP_TIMEOUT", "30"))
    except ValueError:
        return 30.0
    return limit if limit > 0 else 30.0


def spawn(words: Sequence[str], stdin: str | None = None, signals: Signals | None = None) -> str:
    """Runs one command without a shell and gives its stdout.

    Errors: CommandFailed with exit code and stderr; NetwrapError where the program is missing.
    """
    import sh

    line = shell_line(words)
    try:
        command = sh.Command(words[0])
    except sh.CommandNotFound:
        raise missing(words[0]) from None
    child = command(
        *words[1:],
        _in=stdin,
        _tty_out=False,
        _env={**os.environ, "LC_ALL": "C"},
        _new_group=True,  # Ctrl-C is for netwrap, which decides what is ended
        _bg=True,
        _bg_exc=False,
    )
    late = threading.Timer(time_limit(), child.kill_group)  # sh's own _timeout polls: 100 ms a command
    late.daemon = True
    late.start()
    if signals is not None:
        signals.child = child
    try:
        child.wait()
    except sh.ErrorReturnCode as error:  # its own message is cut at 750 bytes; its stderr is whole
        code = None if late.finished.is_set() else error.exit_code
        raise CommandFailed(line, code, error.stderr.decode(errors="replace")) from None
    finally:
        late.cancel()
        if signals is not None:
            signals.child = None
    return str(child.stdout.decode(errors="replace"))


def background(words: Sequence[str]) -> int:
    """Starts a program on our own terminal and does not wait; gives its pid. Errors: OSError."""
    return os.posix_spawnp(words[0], list(words), os.environ)


def foreground(words: Sequence[str]) -> int:
    """Runs a program on our own terminal; gives its exit code, -N for signal N. Errors: OSError."""
    return os.waitstatus_to_exitcode(os.waitpid(background(words), 0)[1])


def missing(program: str) -> NetwrapError:
    """The error for a program that is not installed."""
    return NetwrapError(
        f"{program!r} is not installed on this machine", f"sudo apt-get install {PACKAGES.get(program, program)}"
    )


def require(programs: Iterable[str]) -> None:
    """Finds a missing program before the first change. Errors: NetwrapError."""
    for program in sorted(programs):
        if shutil.which(program) is None:
            raise missing(program)


def netns_inode(name: str) -> int | None:
    """The inode of a handle in /run/netns; None where there is none."""
    try:
        return os.stat(f"{NETNS_DIR}/{name}").st_ino
    except OSError:
        return None


# ---- runners


class Shell:
    """Runs one step after the other, each shown as it runs."""

    def __init__(self, say: Say, signals: Signals | None = None) -> None:
        self.say = say
        self.signals = signals

    def group(self, steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
        """One step a group."""
        return ((step,) for step in steps)

    def run(self, steps: Sequence[Step]) -> None:
        """Runs each step's command and reads back what its exit code cannot tell."""
        for step in steps:
            self._check_namespace(step)
            self._spawn(_resolved(step.do.line()))
            self._read_back(step)

    def _spawn(self, words: Sequence[str], stdin: str | None = None) -> None:
        here = f" <<'EOF'\n{stdin}EOF" if stdin else ""
        self.say(f"+ {shell_line(words)}{here}")
        spawn(words, stdin, self.signals)

    def _check_namespace(self, step: Step) -> None:
        """A handle that leads elsewhere by now would have us work in a stranger's namespace, or the host's."""
        ns = step.do.ns or step.probe.ns
        if ns is not None and ns.inode and netns_inode(ns.name) != ns.inode:
            raise CommandFailed(
                step.do.text(), 1, f"{NETNS_DIR}/{ns.name} does not lead to the namespace that it led to"
            )

    def _read_back(self, step: Step) -> None:
        if step.kind == "netns attach" and step.inverts is None:
            name, inode = step.probe.key
            if inode != "0" and netns_inode(name) != int(inode):
                self._spawn(("ip", "netns", "del", name))
                raise CommandFailed(step.do.text(), 1, "the process ended meanwhile; its number belongs to another one")
        if step.do.argv[0] == "sysctl":  # sysctl may print an error and exit 0
            key, _, value = step.do.argv[1].partition("=")
            if (found := read_sysctl(key)) != value:
                raise CommandFailed(step.do.text(), 0, f"{key} is {found} after it")


class Batch(Shell):
    """The same steps in few processes: `ip -batch -` for each run of ip steps in one namespace, and
    `iptables-restore --noflush` for each run of rules. Read from stdin: `iptables-restore -w FILE` would take
    FILE for a number of seconds."""

    def group(self, steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
        """Neighbours that one process can take."""
        alone = count()

        def carrier(step: Step) -> object:
            tool = step.do.argv[0]
            if tool == "iptables" or (tool == "ip" and step.do.argv[1] != "netns"):
                return tool, step.do.ns
            return next(alone)

        return (tuple(group) for _, group in groupby(steps, key=carrier))

    def run(self, steps: Sequence[Step]) -> None:
        """Runs the group in one process."""
        if len(steps) == 1:
            super().run(steps)
            return
        for step in steps:
            self._check_namespace(step)
        if steps[0].do.argv[0] == "ip":
            ns = steps[0].do.ns
            lines = [shell_line(_resolved(s.do.argv[1:])) for s in steps]
            self._spawn(("ip", *(("-n", ns.name) if ns else ()), "-batch", "-"), "".join(f"{li}\n" for li in lines))
        else:
            self._spawn(("iptables-restore", "-w", "--noflush"), restore_script([s.do for s in steps]))


class Ask(Shell):
    """Shows why and the command, waits for a key, runs, and shows what changed in the kernel."""

    def __init__(
        self,
        say: Say,
        signals: Signals | None,
        key: Callable[[str], str],
        look: Callable[[], Facts],
        diff: Callable[[Facts, Facts], str],
    ) -> None:
        super().__init__(say, signals)
        self._key, self._look, self._diff = key, look, diff
        self._before: Facts | None = None
        self._asking = True

    def run(self, steps: Sequence[Step]) -> None:
        """Asks before each step. Errors: Interrupted where the user stops."""
        for step in steps:
            if self._asking:
                self._ask(step)
            if self._asking:
                before = self._before or self._look()
                super().run((step,))
                self._before = self._look()
                self.say(self._diff(before, self._before))
            else:
                super().run((step,))

    def _ask(self, step: Step) -> None:
        self.say(f"\n# {step.why}\n  {step.do.text()}")
        while True:
            with self.signals.at_once() if self.signals else nullcontext():
                key = self._key("  enter = run, a = all the rest, q = stop and roll back, ? = more > ")
            match key:
                case "\r" | "\n" | "":
                    return
                case "a":
                    self._asking = False
                    return
                case "q" | "\x04" | "\x03":
                    raise Interrupted("stopped at your word", "netwrap log")
                case "?":
                    back = step.undo.text() if step.undo else "nothing"
                    self.say(
                        f"  takes it back: {back}\n  belongs to:    {step.owner}\n  manual:        {_manual(step)}"
                    )


def _manual(step: Step) -> str:
    tool, *words = step.do.argv
    if tool == "ip":
        page = {"addr": "address"}.get(words[0], words[0])
        return f"man 8 ip-{page}"
    return {"iptables": "man 8 iptables; man 8 iptables-extensions"}.get(tool, f"man 8 {tool}")


def restore_script(commands: Iterable[Cmd]) -> str:
    """iptables commands as input for iptables-restore: a block a table, in the order of the commands."""
    tables: dict[str, list[str]] = {}
    for command in commands:
        words = [w for w in command.argv[1:] if w != "-w"]
        table = "filter"
        if words[0] == "-t":
            table, words = words[1], words[2:]
        tables.setdefault(table, []).append(shell_line(words))
    return "".join(f"*{table}\n" + "".join(f"{li}\n" for li in lines) + "COMMIT\n" for table, lines in tables.items())


def read_sysctl(key: str) -> str | None:
    """The value of a kernel setting, from /proc/sys (proc(5)); None where there is none."""
    path = key if "/" in key else key.replace(".", "/")
    try:
        with open(f"/proc/sys/{path}") as file:
            return file.read().strip()
    except OSError:
        return None


def _resolved(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(os.getpid()) if w == SHELL_PID else w for w in words)


# ---- executing

_passed = count(1)


def checkpoint() -> None:
    """The fault point of the crash tests: dies by SIGKILL when it is passed for the $NETWRAP_KILL_AT-th time."""
    if (at := os.environ.get("NETWRAP_KILL_AT")) and next(_passed) == int(at):
        os.kill(os.getpid(), signal.SIGKILL)


def execute(plan: Plan, runner: Runner, journal: Journal, signals: Signals | None = None) -> None:
    """Runs the plan, every step journaled before and after. Errors: CommandFailed, Interrupted: then the
    steps so far stand, and the last group is in doubt."""
    for steps in runner.group(plan.steps):
        if signals is not None:
            signals.check()
        _journaled(steps, runner, journal)


def execute_all(
    plan: Plan, runner: Runner, journal: Journal, look: Callable[[], Facts], signals: Signals | None = None
) -> list[tuple[Step, CommandFailed]]:
    """Runs a plan of inverses and goes on past failures; gives the steps whose effect is still there.

    What failed is in doubt: the probes decide. A group that failed is run again one by one, as its error
    does not say how far it came.
    """
    left: list[tuple[Step, CommandFailed]] = []
    for steps in runner.group(plan.steps):
        if signals is not None:
            signals.check()
        try:
            _journaled(steps, runner, journal)
            continue
        except CommandFailed as error:
            failure = error
        if len(steps) == 1:
            if holds(steps[0].probe, look()) is False:
                journal.done([i for s in steps if (i := s.inverts) is not None])
            else:
                left.append((steps[0], failure))
            continue
        seen = look()
        still = tuple(s for s in steps if holds(s.probe, seen) is not False)
        journal.done([s.inverts for s in steps if s.inverts is not None and s not in still])
        say = runner.say if isinstance(runner, Shell) else (lambda _: None)
        left += execute_all(replace(plan, steps=still), Shell(say), journal, look, signals)
    return left


def _journaled(steps: Sequence[Step], runner: Runner, journal: Journal) -> None:
    checkpoint()
    rows = journal.begins(steps)
    checkpoint()
    runner.run(steps)
    checkpoint()
    journal.done(rows)
    checkpoint()
