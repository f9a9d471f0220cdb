"""The core values: a Plan is a tuple of Steps; a Step is born with do, undo, probe and why.

The constructors stand beside this file, one module a tool or object: link, addr, route, netns,
iptables, sysctl. Each makes one Step that changes one thing, with the inverse that gives back what was.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from netwrap.model import Container, Endpoint, Netns, Network, NetworkLink, Publication

SHELL_PID = "$$"
"""In a command: the process that runs it, as a shell spells it. Names the host's own namespace."""

NO_ROW = 0
"""As `inverts` of a step: it is not in the journal, because it takes back what a stranger made."""

PASSING = frozenset(
    {
        *("link down", "link name", "link del", "link mark", "link size", "netns clear", "chain name", "rule out"),
        *("route connected", "route del"),
    }
)
"""Kinds of steps that lead to another one, and are not what stands in the end."""

Object = Network | NetworkLink | Container | Endpoint | Publication
"""What a plan makes, apart from kernel objects: a row of the store."""


@dataclass(frozen=True)
class Cmd:
    """One visible command; in which namespace it works is data."""

    argv: tuple[str, ...]
    ns: Netns | None = None
    may_find_nothing: bool = False
    """Exit code 1 says that there was nothing to do, which is fine."""

    def line(self) -> tuple[str, ...]:
        """The words to spawn: `ip -n NS …` or `ip netns exec NS …` where it works in a namespace."""
        if self.ns is None:
            return self.argv
        if self.argv[0] == "ip":
            return ("ip", "-n", self.ns.name, *self.argv[1:])
        return ("ip", "netns", "exec", self.ns.name, *self.argv)

    def text(self) -> str:
        """The line in the exact form that a shell takes."""
        return shell_line(self.line()) + (" || true" if self.may_find_nothing else "")


@dataclass(frozen=True)
class Probe:
    """A question to the facts, as data, so that a later process can ask it after a crash."""

    kind: str
    key: tuple[str, ...]
    ns: Netns | None = None


@dataclass(frozen=True)
class Step:
    """One change: how to make it, take it back, see whether it holds, and why it is made.

    `owner` is the object it belongs to; `inverts` and `mends` are the journal's numbers of the step that it takes
    back, or takes the place of.
    """

    kind: str
    do: Cmd
    undo: Cmd | None
    probe: Probe
    why: str
    owner: str = ""
    inverts: int | None = None
    mends: int | None = None


@dataclass(frozen=True)
class Plan:
    """An ordered list of steps with what they make, or take down, in the store."""

    title: str
    steps: tuple[Step, ...] = ()
    already: tuple[str, ...] = ()
    """Sentences about what needs no step."""
    makes: tuple[Object, ...] = ()
    removes: tuple[str, ...] = ()
    """Owners that no longer stand when the plan is done."""
    replaces: tuple[int, ...] = ()
    """The journal's numbers of steps that no longer stand when the plan is done: others have undone them."""
    warnings: tuple[str, ...] = ()
    """Sentences that the user should read, whatever else is left out."""
    undoes: int | None = None
    """The operation whose teardown it builds up again."""
    restores: tuple[int, ...] = ()
    """The journal's numbers of objects that stand again when the plan is done."""

    @property
    def tools(self) -> frozenset[str]:
        """The programs that the plan and its way back need."""
        return frozenset(c.argv[0] for s in self.steps for c in (s.do, s.undo) if c is not None)


def is_undone_last(step: Step) -> bool:
    """Says whether a step is taken back when all others are: traffic that is forgotten while a rule stands is
    remembered anew."""
    return step.probe.kind == "flows"


def namespaces(steps: Iterable[Step]) -> tuple[Netns, ...]:
    """The namespaces that the steps work in, each once."""
    found = (step.do.ns or step.probe.ns for step in steps)
    return tuple(dict.fromkeys(ns for ns in found if ns is not None))


def shell_line(words: Iterable[str]) -> str:
    """Joins words so that a shell takes them apart again."""
    return " ".join(
        word if word == "!" or (before, word) == ("netns", SHELL_PID) else shlex.quote(word)
        for before, word in pairwise(("", *words))
    )


def owned(owner: str, steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps as belonging to an object, apart from those that say already whose they are."""
    return tuple(step if step.owner else replace(step, owner=owner) for step in steps)
