"""One running command: look, carry out a plan or print it, roll back, take down, recover."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from netwrap import execute, mend, place
from netwrap.errors import BadInput, CommandFailed, Interrupted, LeftBehind, NetwrapError, StateFailed, quoted
from netwrap.execute import Runner, Say
from netwrap.facts import Facts, holds
from netwrap.flows import forget, lets_connect
from netwrap.foresee import after
from netwrap.journal import Log, NoLog
from netwrap.look import alive, look
from netwrap.model import Container, Netns, State, is_name
from netwrap.spawn import Signals, require
from netwrap.steps import NO_ROW, PASSING, Plan, Step, namespaces
from netwrap.store import Store
from netwrap.terminal import read_key, talk
from netwrap.undo import Chains, Entry, chains_of, foundation, take_back
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
    heeds_signals: bool = True
    """False if the caller handles signals: the work is then finished whatever comes."""
    line: str = "netwrap …"
    """The command line for the log, which everybody may read: without the command that `run` starts."""


@dataclass
class Desk:
    """One running command: its store, its signals, how it runs commands."""

    mode: Mode
    store: Store
    signals: Signals = field(default_factory=Signals)
    cleared: Plan = field(default_factory=lambda: Plan(""))
    """What a dry run would do before its own work: recover from a crash, clean up after exited processes."""
    _assumed: dict[str, None] = field(default_factory=dict)

    @property
    def say(self) -> Say:
        """Shows a command line, unless --quiet."""
        return (lambda _: None) if self.mode.quiet else talk

    def state(self) -> State:
        """What exists according to the store, without what this command removes first."""
        return self.store.state().without(self.cleared.removes)

    def known(self, network: str) -> None:
        """Raises BadInput if there is no such network; the hint says that a dry run does not make one."""
        state = self.state()
        if is_name(network) and network not in state.networks:
            raise BadInput(
                f"no network {quoted(network)}",
                f"netwrap network create {network}  # first: a dry run makes none. To try both: netwrap sandbox",
            )
        state.network(network)

    def look(
        self, pids: Iterable[int] = (), inside: Iterable[Netns] = (), *, ports: bool = False, way_out: bool = False
    ) -> Facts:
        """Looks at the host, at processes, and into their and other namespaces."""
        try:
            return after(look(pids, inside, ports=ports, way_out=way_out), self.cleared.steps)
        except CommandFailed as error:
            raise NetwrapError(str(error), f"{error.line}  # shows its output") from None

    def look_at_all(self, *, ports: bool = False, way_out: bool = False) -> Facts:
        """Looks at the host and at all containers."""
        containers = self.state().containers.values()
        return self.look(watched(containers), [c.netns for c in containers], ports=ports, way_out=way_out)

    # Building up

    def carry_out(self, plan: Plan, seen: Facts, kind: str = "build", *, first: bool = False) -> None:
        """Prints the plan in a dry run; otherwise runs it, and rolls back if it fails.

        `first`: another plan follows, and a dry run prints both then.
        """
        if self.mode.dry_run:
            self._defer(plan, seen, first)
            return
        with self.operation(plan, kind) as op:
            self.run(op, plan)

    def _defer(self, plan: Plan, seen: Facts, first: bool) -> None:
        """Appends a dry run's plan to the earlier ones, and prints all of them if it is the last one."""
        self._assumed.update(dict.fromkeys(seen.unseen))
        steps, removes = self.cleared.steps + plan.steps, self.cleared.removes + plan.removes
        self.cleared = replace(plan, steps=steps, removes=removes, warnings=self.cleared.warnings + plan.warnings)
        if not first:
            self.show_deferred(plan.title)

    def show_deferred(self, title: str, meanwhile: script.Meanwhile | None = None) -> None:
        """Prints a dry run's plans; otherwise nothing."""
        if not self.mode.dry_run:
            return
        for sentence in self._assumed:
            talk(f"assumed: {sentence}")
        _warn(self.cleared)
        plan = replace(self.cleared, title=title)
        sys.stdout.write(script.as_json(plan) + "\n" if self.mode.json else script.script(plan, meanwhile))

    @contextlib.contextmanager
    def operation(self, plan: Plan, kind: str = "build") -> Iterator[int]:
        """One operation in the journal; if it fails, it is rolled back, and the error has the command and stderr."""
        self._require_tools(plan)
        op = self._begin(plan.title, kind, undoes=plan.undoes)
        try:
            yield op
        except Exception as error:
            try:
                self.roll_back(op, plan.title)
            except LeftBehind as left:
                raise LeftBehind(f"{plan.title}: {error}; {left.message}", left.hint) from None
            except StateFailed:
                raise
            except NetwrapError as other:
                what = f"{plan.title}: {error}; it cannot be rolled back now: {other.message}"
                raise LeftBehind(what, "netwrap gc  # rolls it back, once that works again") from None
            if isinstance(error, CommandFailed):
                raise NetwrapError(f"{plan.title}: {error}; changes rolled back", f"netwrap log {op}") from None
            if isinstance(error, Interrupted):
                raise Interrupted(f"{error.message}; changes rolled back", f"netwrap log {op}") from None
            raise

    def run(self, op: int, plan: Plan, *, ends: bool = True) -> None:
        """Runs a plan that builds something up, as part of an operation."""
        self._say_already(plan)
        _warn(plan)
        self.store.add(op, plan.makes)
        self.store.add_again(op, plan.restores)
        plan = self._in_place(plan)
        execute.execute(plan, self._runner(plan, self.signals), Log(self.store, op), self.signals)
        if ends:
            passing = [e.id for e in self.store.entries(op=op) if e.op == op and e.step.kind in PASSING]
            self.store.end(op, "done", undone=[*plan.replaces, *passing])

    def _in_place(self, plan: Plan) -> Plan:
        """The plan with its steps in the places of those in the journal that no longer hold."""
        standing = self.store.entries(owners={step.owner for step in plan.steps})
        rows = {(e.step.owner, e.step.kind, e.step.probe): e.id for e in standing}
        steps: list[Step] = []
        for step in reversed(plan.steps):
            row = step.mends or rows.get((step.owner, step.kind, step.probe))
            if row is None and step.probe.kind == "keep" and steps:  # it belongs before its setting
                row = steps[-1].mends
            steps.append(replace(step, mends=row))
        mended = {step.mends for step in steps if step.mends is not None}
        return replace(plan, steps=tuple(reversed(steps)), replaces=tuple(mended.union(plan.replaces)))

    def roll_back(self, op: int, title: str) -> None:
        """Undoes what a half-done build-up made. Raises LeftBehind."""
        made = [e for e in self.store.entries(op=op) if e.op == op and e.state != "undone"]
        entries = [replace(e, place=0) for e in made]  # in the order in which it ran them
        self.say(f"# rolling back: {title}")
        made_by = self.store.made_by(op)
        unused = made_by - {e.step.owner for e in self.store.entries(op=op) if e.op == op and lets_connect(e.step)}
        plan, seen = self._back(f"roll back {title}", entries, made_by, unused)
        if self.mode.dry_run:
            self._defer(plan, seen, first=True)
            return
        self._finish(op, entries, plan, "rolled back", self._plain_runner(None))

    # Taking down

    def take_down(
        self,
        title: str,
        owners: frozenset[str],
        *,
        kind: str = "teardown",
        undoes: int | None = None,
        op: int | None = None,
        first: bool = False,
    ) -> None:
        """Undoes every step of the objects, and removes the objects; `op` is a teardown that was cut off, `first` as in
        `carry_out`. Finishing a removal that failed half-way is a `gc`: what it takes down was not complete.

        Raises LeftBehind; or Interrupted, when everything has been restored.
        """
        entries = self.store.entries(owners=owners)
        plan, seen = self._back(title, entries, owners)
        if self.mode.dry_run:
            self._defer(plan, seen, first)
            return
        self._require_tools(plan)
        is_new = op is None
        if op is None:
            kind = "gc" if owners & self.store.state().half_removed else kind
            rules = chains_of(plan.steps, seen)
            op = self._begin(title, kind, owners, undoes=undoes, rules=rules)
        signals = self.signals if is_new else None
        runner = self._runner(plan, signals) if is_new else self._plain_runner(None)
        try:
            self._finish(op, entries, plan, "done", runner, signals)
        except Interrupted as error:
            if self._restore(op, plan, chains_of(plan.steps, seen)):
                raise Interrupted(f"{error.message}; what was removed has been restored", f"netwrap log {op}") from None
            talk("netwrap: too late to stop: what was removed cannot be restored; finishing")
            self.take_down(title, owners, op=op)

    def _begin(
        self, title: str, kind: str, removes: Iterable[str] = (), undoes: int | None = None, rules: Chains | None = None
    ) -> int:
        where, who = place.here(), place.ourselves()
        return self.store.begin(title, kind, where, self.mode.line, removes, undoes=undoes, rules=rules, worker=who)

    def drop(self, title: str) -> None:
        """Drops what existed in a network namespace that is gone; removes only the handles, which are outside it."""
        state = self.store.state()
        entries = self.store.entries(owners=state.owners)
        seen = alive((), [c.netns for c in state.containers.values()])
        plan = take_back(title, [e for e in entries if e.step.probe.kind == "netns"], seen, state.owners)
        if self.mode.dry_run:
            self._defer(plan, seen, first=True)
            return
        self._require_tools(plan)
        self.store.end_running()
        op = self._begin(title, "gc", state.owners)
        self._finish(op, entries, plan, "done", self._plain_runner(None))

    def _restore(self, op: int, plan: Plan, before: Chains) -> bool:
        """Restores what an interrupted teardown took down, foreign rules too. Return False if that is impossible.

        A namespace whose handle is gone may be gone itself, or a new one may have been made in its place.
        """
        entries = [e for e in self.store.entries(op=op) if e.op != op]
        seen, runner = self.look(inside=_inside(entries)), execute.Shell(self.say)
        if any(e.step.probe.kind == "netns" and holds(e.step.probe, seen) is False for e in entries):
            return False
        strangers = [s for s in plan.steps if s.inverts == NO_ROW and s.undo and holds(s.probe, seen) is False]
        try:
            for entry in entries:
                execute.checkpoint()
                self.store.step_stands(entry.id)  # first: if this is cut off, its probe decides
                if entry.state == "undone" or holds(entry.step.probe, seen) is False:
                    execute.checkpoint()
                    seen = self._run_again(runner, entry.step, before, seen)
            for step in strangers:
                seen = self._run_again(runner, replace(step, do=step.undo or step.do), before, seen)
        except CommandFailed:
            return False
        self.store.end(op, "rolled back")
        return True

    def _run_again(self, runner: Runner, step: Step, before: Chains, seen: Facts) -> Facts:
        step = mend.in_place(step, before, seen)
        runner.run((step,))
        return after(seen, [step])

    def _back(
        self, title: str, entries: list[Entry], removes: Iterable[str], unused: Collection[str] = ()
    ) -> tuple[Plan, Facts]:
        """The plan that undoes the entries, after restoring the handles and chain names it needs; and the facts.

        `unused`: objects that nobody can have connected through, as the operation did not get that far.
        """
        inside = _inside(entries)
        containers = self._containers(inside)
        seen = self.look(watched(containers), inside)
        first: tuple[Step, ...] = ()
        if lost := mend.lost_chains(entries, seen):
            standing = self.store.entries(owners=self.store.state().owners)
            first = tuple(replace(step, inverts=NO_ROW) for step in mend.chain_names(lost, standing, seen))
        plan = take_back(title, entries, after(seen, first), removes)
        owned = self.store.entries(owners={c.owner for c in containers})
        if handles := tuple(mend.handles(plan.steps, owned, containers, seen)):
            first += handles
            plan = take_back(title, entries, after(seen, first), removes)
        plan = forget(plan, set(plan.removes).difference(unused), seen, self.store.state())
        return replace(plan, steps=first + plan.steps), seen

    def _containers(self, inside: Iterable[Netns]) -> list[Container]:
        """The containers that these namespaces belong to."""
        standing = self.store.state().containers
        return [standing[ns.name] for ns in inside if ns.name in standing]

    def _finish(
        self, op: int, entries: list[Entry], plan: Plan, state: str, runner: Runner, signals: Signals | None = None
    ) -> None:
        """Runs the plan that undoes the entries, and ends the operation. Raises LeftBehind, StateFailed."""
        self._say_already(plan)
        _warn(plan)
        for step in plan.steps:
            if step.inverts == NO_ROW and step.probe.kind != "flows":
                talk(f"netwrap: {step.why}")
        look = self._looker(_inside(entries))
        try:
            left = execute.execute_all(plan, runner, Log(self.store, op), look, signals)
            inside = {step.probe.ns.name for step, _ in left if step.probe.ns is not None}  # handles still needed
            handles = {e.id for e in entries if e.step.probe.kind == "netns" and e.step.probe.key[0] in inside}
            undone = {entry.id for entry in entries} - {step.inverts for step, _ in left} - handles
            standing = foundation(step.owner for step, _ in left)
            self.store.end(op, "failed" if left else state, undone=undone, removes=set(plan.removes) - standing)
        except StateFailed:  # the operation stays in the journal as running: the next command deals with it
            again, _ = self._back(plan.title, entries, plan.removes)
            _say_left(execute.execute_all(again, self._plain_runner(None), NoLog(), look))
            raise
        if left:
            _say_left(left)
            counted = f"{len(left)} of {len(plan.steps)} steps could not be undone"
            raise LeftBehind(f"{plan.title}: {counted}", f"netwrap log {op}")

    # What a crash left

    def recover(self) -> None:
        """Deals with what a killed command left: rolls a half-done build-up back, finishes a half-done teardown."""
        for found in self.store.operations():
            if found.state == "running":
                does = "finished" if found.is_teardown else "rolled back"
                is_ = "would be" if self.mode.dry_run else "is"
                talk(f"netwrap: operation {found.id}, {found.title}, was cut off; it {is_} {does} first")
                if not self.mode.dry_run:
                    self.store.works_on(found.id, place.ourselves())
                if not found.is_teardown:
                    self.roll_back(found.id, found.title)
                else:
                    self.take_down(found.title, frozenset(found.removes), op=found.id, first=True)

    # Runners

    def _runner(self, plan: Plan, signals: Signals | None) -> Runner:
        """The runner for the mode."""
        if self.mode.step:
            return execute.Ask(talk, signals, read_key, self._looker(namespaces(plan.steps)), diff)
        return self._plain_runner(signals)

    def _plain_runner(self, signals: Signals | None) -> Runner:
        return (execute.Batch if self.mode.batch else execute.Shell)(self.say, signals)

    def _looker(self, inside: Iterable[Netns]) -> Callable[[], Facts]:
        inside = tuple(inside)
        return partial(self.look, watched(self._containers(inside)), inside)

    def _require_tools(self, plan: Plan) -> None:
        """Finds a missing program before the first change. Raises NetwrapError."""
        batched = {"iptables-restore"} if self.mode.batch and "iptables" in plan.tools else set()
        require(plan.tools | batched)

    def _say_already(self, plan: Plan) -> None:
        for sentence in plan.already:
            self.say(f"# {sentence}")


def _warn(plan: Plan) -> None:
    for sentence in plan.warnings:
        talk(f"netwrap: {sentence}")


def _say_left(left: Iterable[tuple[Step, CommandFailed]]) -> None:
    for step, failure in left:
        talk(f"left: {step.probe.kind} {' '.join(step.probe.key)}: {failure.how}\n  remove it with: {step.do.text()}")


def _inside(entries: Iterable[Entry]) -> tuple[Netns, ...]:
    return namespaces(entry.step for entry in entries)


def watched(containers: Iterable[Container]) -> list[int]:
    """The pids of the processes whose end is the end of the containers."""
    return [c.watched[0] for c in containers if c.watched is not None]
