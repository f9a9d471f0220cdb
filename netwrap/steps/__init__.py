"""The core values: a Plan is a tuple of Steps; a Step is made with do, undo, probe and why.

The constructors are in the modules of this package, one for each tool or kind of object: link, addr, route, netns,
neigh, iptables, conntrack, sysctl. Each makes one Step that changes one thing, with the inverse that restores it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from netwrap.model import Container, Endpoint, Netns, Network, NetworkLink, Publication

SHELL_PID = "$$"
"""In a command: the pid of the process that runs it, as in a shell script. Names the host's own namespace."""

NO_ROW = 0
"""Value of a step's `inverts` if it is not in the journal, because it removes something that netwrap did not make."""

PASSING = frozenset(
    {
        *("link down", "link name", "link del", "link mark", "link size", "netns clear", "chain name", "rule out"),
        *("route connected", "route del"),
    }
)
"""Kinds of steps that only prepare another one; nothing of them is to be seen in the end."""

Object = Network | NetworkLink | Container | Endpoint | Publication
"""What a plan makes, apart from kernel objects: a row of the store."""


@dataclass(frozen=True)
class Cmd:
    """One visible command; the namespace that it works in is data."""

    argv: tuple[str, ...]
    ns: Netns | None = None
    may_find_nothing: bool = False
    """Exit code 1 means that there was nothing to do, which is no failure."""

    def line(self) -> tuple[str, ...]:
        """The words to spawn: `ip -n NS …` or `ip netns exec NS …` where it works in a namespace."""
        if self.ns is None:
            return self.argv
        if self.argv[0] == "ip":
            return ("ip", "-n", self.ns.name, *self.argv[1:])
        return ("ip", "netns", "exec", self.ns.name, *self.argv)

    def text(self) -> str:
        """The line exactly as a shell takes it."""
        return shell_line(self.line()) + (" || true" if self.may_find_nothing else "")


@dataclass(frozen=True)
class Probe:
    """A question about the facts, as data, so that a later process can ask it after a crash."""

    kind: str
    key: tuple[str, ...]
    ns: Netns | None = None


@dataclass(frozen=True)
class Step:
    """One change: how to make it, how to undo it, how to see whether it holds, and why it is made.

    `owner` is the object that it belongs to; `inverts` and `mends` are the journal's numbers of the step that it
    undoes, or replaces.
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
    """An ordered list of steps, with the objects that they add to the store or remove from it."""

    title: str
    steps: tuple[Step, ...] = ()
    already: tuple[str, ...] = ()
    """Sentences about what is already as requested and needs no step."""
    makes: tuple[Object, ...] = ()
    removes: tuple[str, ...] = ()
    """Owners that no longer exist when the plan is done."""
    replaces: tuple[int, ...] = ()
    """The journal's numbers of steps that no longer count when the plan is done: somebody else has undone them."""
    warnings: tuple[str, ...] = ()
    """Sentences that the user should read, also with --quiet."""
    undoes: int | None = None
    """The teardown (an operation) that this plan undoes."""
    restores: tuple[int, ...] = ()
    """The journal's numbers of objects that exist again when the plan is done."""

    @property
    def tools(self) -> frozenset[str]:
        """The programs that the plan and its inverse need."""
        return frozenset(c.argv[0] for s in self.steps for c in (s.do, s.undo) if c is not None)


def is_undone_last(step: Step) -> bool:
    """Return whether a step is undone after all others: the kernel would remember traffic that is forgotten while a
    rule still exists."""
    return step.probe.kind == "flows"


def namespaces(steps: Iterable[Step]) -> tuple[Netns, ...]:
    """The namespaces that the steps work in, each once."""
    found = (step.do.ns or step.probe.ns for step in steps)
    return tuple(dict.fromkeys(ns for ns in found if ns is not None))


def shell_line(words: Iterable[str]) -> str:
    """Joins words into a line that a shell splits into the same words."""
    return " ".join(
        word if word == "!" or (before, word) == ("netns", SHELL_PID) else shlex.quote(word)
        for before, word in pairwise(("", *words))
    )


def owned(owner: str, steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps with this owner, except for those that have an owner already."""
    return tuple(step if step.owner else replace(step, owner=owner) for step in steps)
