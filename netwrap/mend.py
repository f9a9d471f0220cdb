"""What makes a step hold again that somebody has undone: its own command, a rule in its place among ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from netwrap.facts import Facts, Rule, same_rule
from netwrap.model import State
from netwrap.steps import Step, netns
from netwrap.undo import Entry


def again(step: Step, entries: Iterable[Entry], seen: Facts, state: State) -> Step:
    """The step with the command that makes it hold again; `entries` are those that stand, in the order of their making.

    A rule that was appended at first would stand behind the DROP at the end of our chain now. A handle is for the
    namespace that is in use: `ip netns add` would make another.
    """
    container = state.containers.get(step.probe.key[0]) if step.probe.kind == "netns" else None
    if container is not None and container.pid is not None:
        return netns.attach(container.netns, container.pid, step.why)
    if step.probe.kind != "rule":
        return step
    table, chain, *words = step.probe.key
    wanted = _order((table, chain), entries)
    place = wanted.index(tuple(words)) if tuple(words) in wanted else len(wanted)
    there = seen.rules.get((table, chain), ())
    before = [n for n, rule in enumerate(there, 1) if any(same_rule(rule, w) for w in wanted[:place])]
    after = [n for n, rule in enumerate(there, 1) if any(same_rule(rule, w) for w in wanted[place + 1 :])]
    is_appended = "-A" in step.do.argv
    if (is_appended and not after) or (not is_appended and not before):
        return step
    number = min(after) if after else max(before) + 1
    argv = list(step.do.argv)
    how = argv.index("-A" if is_appended else "-I")
    argv[how : how + 2] = ["-I", chain, str(number)]
    return replace(step, do=replace(step.do, argv=tuple(argv)))


def _order(place: tuple[str, str], entries: Iterable[Entry]) -> list[Rule]:
    """Our rules of a chain in the order in which they have to stand."""
    rules: list[Rule] = []
    for entry in entries:
        probe = entry.step.probe
        if probe.kind == "rule" and probe.key[:2] == place:
            rules.insert(len(rules) if "-A" in entry.step.do.argv else 0, probe.key[2:])
    return rules
