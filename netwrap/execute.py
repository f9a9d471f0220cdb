"""Runs a Plan: execute(plan, runner, journal), and the runners Shell, Batch and Ask."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count, groupby, pairwise
from typing import Protocol

from netwrap.errors import CommandFailed, Interrupted, NetwrapError, NotRun
from netwrap.facts import HUSK, Facts, holds, is_husk, netns_of, renamed
from netwrap.look import NETNS_DIR, netns_at, read_sysctl
from netwrap.spawn import Signals, spawn
from netwrap.steps import NO_ROW, PASSING, SHELL_PID, Cmd, Plan, Step, link, shell_line
from netwrap.terminal import talk

Say = Callable[[str], None]
Left = tuple[Step, CommandFailed]
"""An inverse that failed, and how."""


class Journal(Protocol):
    """Where steps are recorded before and after they take effect."""

    def begins(self, steps: Sequence[Step], /) -> list[int]:
        """Records what is about to be run. Return the rows' numbers."""

    def done(self, rows: Sequence[int], /) -> None:
        """Records that it took effect."""


class Runner(Protocol):
    """Makes the changes of steps. Raises CommandFailed."""

    def group(self, steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
        """The steps in the groups that are run together."""

    def check(self, steps: Sequence[Step]) -> None:
        """Raises an error if a group cannot be run, before it is recorded in the journal."""

    def run(self, steps: Sequence[Step]) -> None:
        """Runs one group."""


# ---- runners


class Shell:
    """Runs one step after the other, and shows each as it runs."""

    def __init__(self, say: Say, signals: Signals | None = None) -> None:
        self.say = say
        self.signals = signals

    def group(self, steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
        """One step per group."""
        return ((step,) for step in steps)

    def check(self, steps: Sequence[Step]) -> None:
        """Refuses a handle that another program has made since the look: in the journal it would pass for netwrap's."""
        for step in steps:
            words = step.do.argv[1:]
            if words[:2] in (("netns", "add"), ("netns", "attach")) and netns_at(words[2]) is not None:
                raise NotRun(step.do.text(), f"{NETNS_DIR}/{words[2]} exists by now, and it is not netwrap's")

    def run(self, steps: Sequence[Step]) -> None:
        """Runs each step's command and reads back what its exit code cannot tell."""
        for step in steps:
            self._check_namespace(step)
            self._command(replace(step.do, argv=_resolved(step.do.argv)))
            self._read_back(step)

    def _command(self, cmd: Cmd) -> None:
        self.say(f"+ {cmd.text()}")
        try:
            spawn(cmd.line(), None, self.signals)
        except CommandFailed as error:
            if not (cmd.may_find_nothing and error.code == 1):
                raise

    def _spawn(self, words: Sequence[str], stdin: str) -> None:
        self.say(f"+ {shell_line(words)} <<'EOF'\n{stdin}EOF")
        spawn(words, stdin, self.signals)

    def _check_namespace(self, step: Step) -> None:
        """Refuses a handle that has been replaced: the command would run in a foreign namespace, or the host's."""
        ns = step.do.ns or step.probe.ns
        if step.do.argv[1:3] == ("netns", "del"):
            ns = netns_of(step.probe)
        if ns is None or not ns.inode:
            return
        there = netns_at(ns.name)
        is_cleared = there is not None and there.inode == HUSK and step.do.argv[1:3] == ("netns", "del")
        if not (ns.is_same(there) or is_cleared):
            raise NotRun(step.do.text(), f"{NETNS_DIR}/{ns.name} is now another namespace")

    def _read_back(self, step: Step) -> None:
        if step.do.argv[1:3] == ("netns", "attach"):
            ns = netns_of(step.probe)
            if ns.inode and not ns.is_same(netns_at(ns.name)):
                self._command(Cmd(("ip", "netns", "del", ns.name)))
                raise CommandFailed(step.do.text(), 1, "the process has ended; its pid now belongs to another process")
        if step.do.argv[0] == "sysctl":  # sysctl may print an error and exit 0
            key, _, value = step.do.argv[1].partition("=")
            if (found := read_sysctl(key)) != value:
                raise CommandFailed(step.do.text(), 0, f"{key} is {found} afterwards")


class Batch(Shell):
    """The same steps in few processes: `ip -batch -` for each run of ip steps in one namespace, `iptables-restore
    --noflush` for each run of rules, one `sysctl` for each run of settings. Read from stdin: `iptables-restore -w
    FILE` would take FILE for a number of seconds."""

    def group(self, steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
        """Consecutive steps that one process can run."""
        alone = count()

        def carrier(step: Step) -> object:
            tool = step.do.argv[0]
            if step.kind == "chain name":  # iptables-nft does not find a chain by a name that it gets in the same run
                return next(alone)
            if tool in ("iptables", "sysctl") or (tool == "ip" and step.do.argv[1] != "netns"):
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
        if steps[0].do.argv[0] == "sysctl":
            self._command(Cmd(("sysctl", *(s.do.argv[1] for s in steps))))
            for step in steps:
                self._read_back(step)
        elif steps[0].do.argv[0] == "ip":
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

    def check(self, steps: Sequence[Step]) -> None:
        """Asks before each step, so that a step at which the user stops is not in the journal. Raises Interrupted."""
        for step in steps:
            if self._asking:
                self._ask(step)
        super().check(steps)

    def run(self, steps: Sequence[Step]) -> None:
        """Runs each step, and shows what it changed unless the user has chosen to run all the rest."""
        for step in steps:
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
                    raise Interrupted("stopped as requested", "netwrap log")
                case "?":
                    back = step.undo.text() if step.undo else "nothing"
                    self.say(
                        f"  undone by:     {back}\n  belongs to:    {step.owner}\n  manual:        {_manual(step)}"
                    )


def _manual(step: Step) -> str:
    tool, *words = step.do.argv
    if tool == "ip":
        page = {"addr": "address"}.get(words[0], words[0])
        return f"man 8 ip-{page}"
    return {"iptables": "man 8 iptables; man 8 iptables-extensions"}.get(tool, f"man 8 {tool}")


def restore_script(commands: Iterable[Cmd]) -> str:
    """iptables commands as input for iptables-restore: one block per table, in the order of the commands."""
    tables: dict[str, list[str]] = {}
    for command in commands:
        words = [w for w in command.argv[1:] if w != "-w"]
        table = "filter"
        if words[0] == "-t":
            table, words = words[1], words[2:]
        tables.setdefault(table, []).append(shell_line(words))
    return "".join(f"*{table}\n" + "".join(f"{li}\n" for li in lines) + "COMMIT\n" for table, lines in tables.items())


def _resolved(words: Iterable[str]) -> tuple[str, ...]:
    """The words with the shell's own pid where a shell would insert it: after `netns`."""
    words = tuple(words)
    return tuple(str(os.getpid()) if pair == ("netns", SHELL_PID) else pair[1] for pair in pairwise(("", *words)))


# ---- executing

_passed = count(1)


def checkpoint() -> None:
    """For the crash tests: netwrap dies by SIGKILL when this is called for the $NETWRAP_KILL_AT-th time."""
    if (at := os.environ.get("NETWRAP_KILL_AT")) and str(next(_passed)) == at:
        os.kill(os.getpid(), signal.SIGKILL)


def execute(plan: Plan, runner: Runner, journal: Journal, signals: Signals | None = None) -> None:
    """Runs the plan; each step is recorded in the journal before and after. Raises CommandFailed, Interrupted: then
    the steps so far have been run, and the last group is in doubt."""
    for steps in runner.group(plan.steps):
        _heed(signals)
        try:
            _journaled(steps, runner, journal)
        except CommandFailed:
            _heed(signals)  # a signal ends the running command: then report the signal
            raise
    _heed(signals)


def execute_all(
    plan: Plan, runner: Runner, journal: Journal, look: Callable[[], Facts], signals: Signals | None = None
) -> list[Left]:
    """Runs a plan of inverses and goes on after failures. Return the steps whose effect is still there.

    What failed is in doubt: the probes decide. A group that failed is run again one by one, as its error
    does not say how much of it was done.
    """
    left: list[Left] = []
    for steps in runner.group(plan.steps):
        _heed(signals)
        if left and steps[0].do.argv[1:3] == ("netns", "del"):  # something may be left in the namespace
            left = _still(left, look, journal)
            if any(s.probe.ns is not None and s.probe.ns.name == steps[0].do.argv[3] for s, _ in left):
                left.append((steps[0], NotRun(steps[0].do.text(), "something is left in that namespace")))
                continue
        try:
            _journaled(steps, runner, journal)
            continue
        except CommandFailed as error:
            _heed(signals)
            failure = error
        if len(steps) == 1:
            left.append((steps[0], failure))
            continue
        still = tuple(step for step, _ in _still([(step, failure) for step in steps], look, journal))
        say = runner.say if isinstance(runner, Shell) else (lambda _: None)
        left += execute_all(replace(plan, steps=still), Shell(say), journal, look, signals)
    return _still(left, look, journal) if left else []


def _still(left: list[Left], look: Callable[[], Facts], journal: Journal) -> list[Left]:
    """Return those whose work is still to be done; the others are recorded as done.

    All of them are inverses, except a step that restores a handle for others.
    """
    for step, failure in left:
        if step.probe.kind == "flows":  # nothing is left by it, but connections may go on as before
            talk(f"netwrap: {failure}")
    left = [pair for pair in left if pair[0].probe.kind != "flows"]
    try:
        seen = look()
    except NetwrapError:  # the look has failed too: everything may still be there
        return left
    left = [(_by_its_name(step, seen), failure) for step, failure in left]
    for_others = {"netns attach", *PASSING}
    gone = [s for s, _ in left if holds(s.probe, seen) is (s.kind in for_others and s.inverts == NO_ROW)]
    gone = [s for s in gone if not is_husk(s.probe, seen)]
    journal.done([step.inverts for step in gone if step.inverts is not None])
    return [(step, failure) for step, failure in left if step not in gone]


def _by_its_name(step: Step, seen: Facts) -> Step:
    """The step; if it removes a link that another program has renamed meanwhile, with the link's new name."""
    other = renamed(step.probe, seen) if step.kind == "link add" else None
    return step if other is None else link.called(step, other.name)


def _heed(signals: Signals | None) -> None:
    if signals is not None:
        signals.check()


def _journaled(steps: Sequence[Step], runner: Runner, journal: Journal) -> None:
    runner.check(steps)
    checkpoint()
    rows = journal.begins(steps)
    checkpoint()
    runner.run(steps)
    checkpoint()
    journal.done(rows)
    checkpoint()
