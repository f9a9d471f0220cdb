"""The frame of every changing command: lock, recover, look, carry out a plan or print it, roll back."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from netwrap import execute
from netwrap.errors import BadInput, CommandFailed, Interrupted, LeftBehind, NetwrapError
from netwrap.execute import Runner, Say, Signals
from netwrap.facts import Facts, holds
from netwrap.look import boot_id, look, own_namespace
from netwrap.model import Netns, State
from netwrap.steps import Plan, Step, namespaces, shell_line
from netwrap.store import Operation, Store, lock
from netwrap.undo import foundation, take_back
from netwrap.views import script
from netwrap.views.diff import diff

DEFAULT_STATE = Path("/var/lib/netwrap")


@dataclass(frozen=True)
class Mode:
    """How a command is to be carried out."""

    state_dir: Path = DEFAULT_STATE
    dry_run: bool = False
    step: bool = False
    batch: bool = False
    quiet: bool = False
    json: bool = False


def talk(text: str) -> None:
    """Says something to the user: stderr, as stdout is the result."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Log:
    """The journal of one operation, as the executor sees it."""

    store: Store
    op: int

    def begins(self, steps: Sequence[Step]) -> list[int]:
        """Writes the steps down before they take effect."""
        return self.store.step_begins(self.op, steps)

    def done(self, rows: Sequence[int]) -> None:
        """Writes down that they took effect."""
        self.store.step_done(rows)


@dataclass
class Desk:
    """One command at work: its store, its signals, how it runs commands."""

    mode: Mode
    store: Store
    signals: Signals = field(default_factory=Signals)

    @property
    def say(self) -> Say:
        """Shows a command line, unless --quiet."""
        return (lambda _: None) if self.mode.quiet else talk

    def state(self) -> State:
        """What stands, by the store."""
        return self.store.state()

    def look(self, pids: Iterable[int] = (), inside: Iterable[Netns] = ()) -> Facts:
        """Looks at the host, at processes, and into their namespaces and others."""
        try:
            return look(pids, inside)
        except CommandFailed as error:
            raise NetwrapError(str(error), "ip addr show") from None

    def carry_out(self, plan: Plan, *, seen: Facts | None = None) -> None:
        """Prints the plan where it is a dry run; otherwise runs it, and rolls back what fails."""
        if self.mode.dry_run:
            self.print(plan, seen)
            return
        with self.operation(plan.title, "build", plan.steps) as op:
            self.run(op, plan)

    def print(self, plan: Plan, seen: Facts | None) -> None:
        """The dry run: the plan on stdout, what it had to assume on stderr."""
        for sentence in seen.unseen if seen else ():
            talk(f"assumed: {sentence}")
        sys.stdout.write(script.as_json(plan) + "\n" if self.mode.json else script.script(plan))

    @contextlib.contextmanager
    def operation(self, title: str, kind: str, steps: Iterable[Step], removes: Iterable[str] = ()) -> Iterator[int]:
        """One operation in the journal; what fails inside it is rolled back, and said with command and stderr."""
        execute.require(Plan("", tuple(steps)).tools)
        op = self.store.begin(title, kind, (boot_id(), own_namespace()), removes)
        try:
            yield op
        except (CommandFailed, Interrupted, NetwrapError, OSError) as error:
            self.roll_back(op, title)
            if isinstance(error, CommandFailed):
                raise NetwrapError(f"{title}: {error}; rolled back", f"netwrap log {op}") from None
            if isinstance(error, Interrupted):
                raise Interrupted(f"{error.message}; rolled back", f"netwrap log {op}") from None
            raise

    def run(self, op: int, plan: Plan, *, ends: bool = True) -> None:
        """Runs a plan that builds something up, as part of an operation."""
        for sentence in plan.already:
            self.say(f"# {sentence}")
        self.store.add(op, plan.makes)
        execute.execute(plan, self.runner(plan, self.signals), Log(self.store, op), self.signals)
        if ends:
            self.store.end(op, "done")

    def take_down(self, title: str, owners: frozenset[str], *, op: int | None = None) -> None:
        """Takes back every step of the objects, and forgets them. Errors: LeftBehind."""
        entries = self.store.entries(owners=owners)
        seen = self.look(inside=namespaces(e.step for e in entries))
        plan = take_back(title, entries, seen, owners)
        if self.mode.dry_run:
            self.print(plan, seen)
            return
        execute.require(plan.tools)
        if op is None:
            op = self.store.begin(title, "teardown", (boot_id(), own_namespace()), owners)
        self._finish(op, plan, "done", frozenset(owners))

    def roll_back(self, op: int, title: str) -> None:
        """Takes back what a half-done build-up made. Errors: LeftBehind."""
        entries = [e for e in self.store.entries(op=op) if e.op == op and e.state != "undone"]
        owners = {e.step.owner for e in entries} | self.store.made_by(op)
        self.say(f"# rolling back: {title}")
        seen = self.look(inside=namespaces(e.step for e in entries))
        plan = take_back(f"roll back {title}", entries, seen, owners)
        self._finish(op, plan, "rolled back", frozenset(owners))

    def _finish(self, op: int, plan: Plan, state: str, removes: frozenset[str]) -> None:
        for sentence in plan.already:
            self.say(f"# {sentence}")
        asked = state == "done"  # a teardown that the user asked for; a roll back is not interrupted
        signals = self.signals if asked else None
        runner = self.runner(plan, signals) if asked else self._plain_runner(None)
        try:
            left = execute.execute_all(plan, runner, Log(self.store, op), self._looker(plan), signals)
        except Interrupted as error:
            self._restore(op)
            raise Interrupted(f"{error.message}; what was taken down stands again", f"netwrap log {op}") from None
        if not left:
            self.store.end(op, state, removes)
            return
        self.store.end(op, "failed", removes - foundation(step.owner for step, _ in left))
        for step, failure in left:
            talk(
                f"left: {step.probe.kind} {' '.join(step.probe.key)}: {failure.how}\n  remove it with: {step.do.text()}"
            )
        raise LeftBehind(
            f"{plan.title}: {len(left)} of {len(plan.steps)} steps could not be taken back", f"netwrap log {op}"
        )

    def _restore(self, op: int) -> None:
        """Builds up again what an interrupted teardown took down. Killed here, the teardown is finished later."""
        entries = [e for e in self.store.entries(op=op) if e.op != op]
        seen = self.look(inside=namespaces(e.step for e in entries))
        runner = execute.Shell(self.say)
        for entry in entries:
            if entry.state == "undone" or holds(entry.step.probe, seen) is False:
                runner.run((entry.step,))
            self.store.step_stands(entry.id)
        self.store.end(op, "rolled back")

    def recover(self) -> None:
        """Deals with what a killed command left: a half-done build-up goes, a half-done teardown is finished."""
        for operation in self.store.operations():
            if operation.state == "running":
                self._recover(operation)

    def _recover(self, operation: Operation) -> None:
        if operation.kind == "build":
            talk(f"netwrap: operation {operation.id}, {operation.title}, was cut off; it is rolled back first")
            self.roll_back(operation.id, operation.title)
        else:
            talk(f"netwrap: operation {operation.id}, {operation.title}, was cut off; it is finished first")
            self.take_down(operation.title, frozenset(operation.removes), op=operation.id)

    def runner(self, plan: Plan, signals: Signals | None) -> Runner:
        """The runner that the mode asks for."""
        if self.mode.step:
            return execute.Ask(talk, signals, read_key, self._looker(plan), diff)
        return self._plain_runner(signals)

    def _plain_runner(self, signals: Signals | None) -> Runner:
        return (execute.Batch if self.mode.batch else execute.Shell)(self.say, signals)

    def _looker(self, plan: Plan) -> Callable[[], Facts]:
        """Looks at what a plan changes."""
        return partial(self.look, inside=namespaces(plan.steps))


@contextlib.contextmanager
def changing(mode: Mode, title: str) -> Iterator[Desk]:
    """The desk of a changing command, with the lock held and an earlier crash dealt with.

    A dry run has neither: it reads. Errors: NetwrapError without root, BadInput for --step without a terminal.
    """
    if mode.step and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadInput("--step asks before each step, and there is no terminal to ask on", "netwrap … --dry-run")
    if mode.dry_run:
        with reading(mode) as desk:
            yield desk
        return
    need_root()
    with Signals() as signals, lock(mode.state_dir, title, lambda holder: _waiting(signals, holder)):
        store = Store(mode.state_dir, write=True)
        try:
            desk = Desk(mode, store, signals)
            _refuse_other_host(store)
            Desk(Mode(mode.state_dir, quiet=mode.quiet), store, signals).recover()
            signals.check()
            yield desk
        finally:
            store.close()


@contextlib.contextmanager
def reading(mode: Mode) -> Iterator[Desk]:
    """The desk of a command that only reads; everybody may."""
    store = Store(mode.state_dir, write=False)
    try:
        yield Desk(mode, store)
    finally:
        store.close()


def need_root(what: str = "changing links and rules") -> None:
    """Errors: NetwrapError where we are not root."""
    if os.geteuid() != 0:
        words = shell_line(["netwrap", *sys.argv[1:]])
        raise NetwrapError(f"{what} needs root", f"sudo {words}, or try it in: netwrap sandbox")


def _refuse_other_host(store: Store) -> None:
    machine, state = store.machine(), store.state()
    if machine is None or not (state.networks or state.containers):
        return
    if machine[0] == boot_id() and machine[1] != own_namespace():
        raise BadInput(
            f"the objects in {store.path} stand in network namespace {machine[1]}, and this one is {own_namespace()}",
            "use another state here: netwrap --state-dir DIR …",
        )


@contextlib.contextmanager
def _waiting(signals: Signals, holder: str) -> Iterator[None]:
    talk(f"netwrap: waiting for {holder}")
    with signals.at_once():
        yield


def read_key(prompt: str) -> str:
    """One key from the terminal, without enter; an empty text at the end of input."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    fd = sys.stdin.fileno()
    old = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSADRAIN)
        key = os.read(fd, 1).decode(errors="replace")
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, old)
    sys.stderr.write("\n")
    return key or "q"
