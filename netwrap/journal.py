"""The journal of one operation, as the executor sees it: with the store behind it, or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netwrap.steps import Step
from netwrap.store import Store


@dataclass
class Log:
    """The journal of one operation, as the executor sees it."""

    store: Store
    op: int

    def begins(self, steps: Sequence[Step]) -> list[int]:
        """Records the steps before they take effect."""
        return self.store.step_begins(self.op, steps)

    def done(self, rows: Sequence[int]) -> None:
        """Records that they took effect."""
        self.store.step_done(rows)


class NoLog:
    """No journal, for when it can no longer be written: what is begun in it is undone by the next command."""

    def begins(self, _: Sequence[Step]) -> list[int]:
        """Writes nothing down."""
        return []

    def done(self, _: Sequence[int]) -> None:
        """Writes nothing down."""
