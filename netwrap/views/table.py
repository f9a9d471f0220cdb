"""Tables for people; `tabulate` draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with its head, also where there are no rows."""
    from tabulate import tabulate

    return tabulate(
        [["-" if cell in (None, "") else str(cell) for cell in row] for row in rows],
        head,
        "plain",
        disable_numparse=True,
    )
