"""Every case file in plans/: what a command line plans on a machine, or how it is refused.

A case is a session: `machine` makes the toy kernel's small machine another one, `before` are commands that have
been carried out, `then` is what happened to the machine after them, `netwrap` is the command in question. The
answer is `commands` (with `already`, what needs none) or `error`, `hint` and `exit`.

NETWRAP_WRITE_EXPECTED=1 pytest tests/test_plan.py  writes the answers anew; read the difference before you commit it.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import Result, Saved, World

from netwrap.facts import holds
from netwrap.steps import Step
from netwrap.undo import Entry

Case = dict[str, Any]
Make = Callable[[Case], World]

ANSWERS = ("already", "commands", "error", "hint", "exit")
PLANS = Path(__file__).parent / "plans"
CASES: dict[str, Case] = {path.stem: json.loads(path.read_text()) for path in sorted(PLANS.iterdir())}
REFUSED = [name for name in CASES if name.startswith("bad-")]
PLANNED = [name for name in CASES if name not in REFUSED]
TAKES_DOWN = ("disconnect", "unpublish", "network remove", "network unlink")
TEARDOWNS = [name for name in PLANNED if CASES[name]["netwrap"].startswith(TAKES_DOWN)]
BUILDS = [name for name in PLANNED if name not in TEARDOWNS]

AT_ANY_TIME = ("keep", "flows")
"""Kinds of probes of steps that are right whenever they are done."""

_prepared: dict[str, Saved] = {}
"""Machines and states on which a session has been played up to the command in question."""


@pytest.fixture
def make(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Gives a new world as a case describes it, each time that it is called."""
    made = itertools.count()

    def make_world(case: Case) -> World:
        world = World(quick_path / str(next(made)), monkeypatch)
        session = json.dumps([case.get(part, []) for part in ("machine", "before", "then")])
        if session not in _prepared:
            for line in case.get("machine", ()):
                world.prepare(line)
            for line in case.get("before", ()):
                world.must(f"{line} --quiet")
            for line in case.get("then", ()):
                world.prepare(line)
            _prepared[session] = world.save()
        world.load(_prepared[session])
        return world

    return make_world


def with_option(line: str, option: str) -> str:
    """A command line with one more option, also where `--` ends its options."""
    head, dashes, rest = line.partition(" -- ")
    return f"{head} {option}{dashes}{rest}"


def dry_run(world: World, line: str) -> Result:
    return world.netwrap(with_option(line, "--dry-run"))


def answer_of(result: Result) -> Case:
    """What a dry run said, as a case file has it."""
    if result.code:
        what, hint = result.complaint
        return {"error": what, "hint": hint, "exit": result.code}
    head, *blocks = result.out.split("\n\n")
    already = [line.removeprefix("# ") for line in head.partition("\nset -e")[2].splitlines()[1:]]
    commands = [line for block in blocks for line in block.splitlines() if not line.startswith("# ")]
    return {"already": already, "commands": commands} if already else {"commands": commands}


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_planned_or_refused_as_its_file_says(name: str, make: Make) -> None:
    case = CASES[name]
    world = make(case)
    before = world.everything()
    found = answer_of(dry_run(world, case["netwrap"]))
    if os.environ.get("NETWRAP_WRITE_EXPECTED"):
        path = PLANS / f"{name}.json"
        session = {key: value for key, value in case.items() if key not in ANSWERS}
        path.write_text(json.dumps(session | found, indent=2, ensure_ascii=False) + "\n")
    else:
        assert found == {key: value for key, value in case.items() if key in ANSWERS}
    assert world.everything() == before
    assert world.kernel.log == []


@pytest.mark.parametrize("name", CASES)
def test_every_case_says_in_one_sentence_what_it_is_about(name: str) -> None:
    assert CASES[name]["about"].endswith(".")
    assert set(CASES[name]) <= {"about", "machine", "before", "then", "netwrap", *ANSWERS}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_before_the_first_change(name: str, make: Make) -> None:
    case = CASES[name]
    world = make(case)
    before, operations = world.everything(), world.operations()
    result = world.netwrap(case["netwrap"])
    assert (result.code, *result.complaint) == (case["exit"], case["error"], case["hint"])
    assert result.out == ""
    assert len(result.err.splitlines()) == 2
    assert world.everything() == before
    assert world.kernel.log == []
    assert world.operations() == operations


@pytest.mark.parametrize("name", PLANNED)
def test_dry_run_and_run_and_batch_give_the_same_kernel_state(name: str, make: Make) -> None:
    case = CASES[name]
    by_script = make(case)
    by_script.run_script(dry_run(by_script, case["netwrap"]).out)
    by_run = make(case)
    by_run.must(case["netwrap"])
    by_batch = make(case)
    by_batch.must(with_option(case["netwrap"], "--batch"))
    assert by_script.kernel.snapshot() == by_run.kernel.snapshot()
    assert by_batch.everything() == by_run.everything()
    assert len(by_run.kernel.log) == len(by_batch.kernel.log)


@pytest.mark.parametrize("name", PLANNED)
def test_a_run_shows_each_command_as_the_dry_run_prints_it(name: str, make: Make) -> None:
    case = CASES[name]
    world = make(case)
    shown = [line.removeprefix("+ ") for line in world.netwrap(case["netwrap"]).err.splitlines() if line[:2] == "+ "]
    printed = [line.replace("$$", str(os.getpid())) for line in case["commands"]]
    assert shown == printed


@pytest.mark.parametrize("name", BUILDS)
def test_undo_gives_back_kernel_and_state_as_they_were(name: str, make: Make) -> None:
    case = CASES[name]
    world = make(case)
    before = world.everything()
    world.must(case["netwrap"])
    assert world.everything() != before
    world.must("undo")
    assert world.everything() == before


def _holds_at_any_time(step: Step) -> bool:
    """Return whether a step is right whenever it is done; one that sets what is set already holds before, too."""
    return step.probe.kind in AT_ANY_TIME or step.do == step.undo


@pytest.mark.parametrize("name", BUILDS)
def test_the_probe_of_each_step_of_a_plan_turns_true_with_it_and_false_with_its_undo(name: str, make: Make) -> None:
    case = CASES[name]
    entries = _journal(make(case), case)
    # What a `keep` holds on to, the kernel changes with a later step: only the whole is the identity then.
    keeps = any(entry.step.kind == "sysctl keep" for entry in entries)
    kernel = make(case).kernel
    states = [kernel.snapshot()]
    for entry in entries:
        assert holds(entry.step.probe, kernel.everything()) is _holds_at_any_time(entry.step)
        kernel.do(entry.step.do)
        assert holds(entry.step.probe, kernel.everything()) is True
        states.append(kernel.snapshot())
    for entry in reversed(entries):
        assert entry.step.undo is not None or entry.step.probe.kind == "flows"
        wanted = states.pop()
        assert keeps or kernel.snapshot() == wanted
        if entry.step.undo is not None:
            kernel.do(entry.step.undo)
        assert holds(entry.step.probe, kernel.everything()) is _holds_at_any_time(entry.step)
    assert kernel.snapshot() == states.pop()


def _journal(world: World, case: Case) -> list[Entry]:
    world.must(case["netwrap"])
    with world.store() as store:
        return store.entries(op=store.operations()[-1].id)


@pytest.mark.parametrize("name", BUILDS)
def test_every_step_says_why_and_bears_our_mark(name: str, make: Make) -> None:
    case = CASES[name]
    for entry in _journal(make(case), case):
        assert entry.step.why.endswith((".", ")")), entry.step.why
        assert entry.step.owner
        if entry.step.kind == "rule":
            assert "netwrap:" in entry.step.do.text()
        if entry.step.kind == "chain":
            assert entry.step.probe.key[1].startswith("NETWRAP")


def test_a_plan_names_things_the_same_each_time(make: Make) -> None:
    case = CASES["connect-default-name"]
    assert dry_run(make(case), case["netwrap"]).out == dry_run(make(case), case["netwrap"]).out
