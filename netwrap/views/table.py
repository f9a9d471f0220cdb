"""Tables for people; `tabulate` draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GAP = 2
"""Spaces between two columns."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with its head, even if there are no rows."""
    return fitted(head, rows)[0]


def fitted(
    head: Sequence[str], rows: Iterable[Sequence[object]], width: int | None = None, drop: Sequence[str] = ()
) -> tuple[str, bool]:
    """A table, and whether it is complete.

    If it is wider than `width`, the columns in `drop` go, one by one, then the longest cells are cut; no line wraps.
    """
    cells = [["-" if cell in (None, "") else str(cell) for cell in row] for row in rows]
    whole = _drawn(head, cells)
    if width is None or _width(whole) <= width:
        return whole, True
    if _needed(head, cells) <= width:
        return _drawn(head, cells, padding=0), True
    for name in drop:
        at = list(head).index(name)
        head = [h for n, h in enumerate(head) if n != at]
        cells = [[c for n, c in enumerate(row) if n != at] for row in cells]
        if _needed(head, cells) <= width:
            return _drawn(head, cells, padding=0), False
    limits = _limits(_widths(head, cells), width - GAP * (len(head) - 1))
    return _drawn(_cut(head, limits), [_cut(row, limits) for row in cells], padding=0), False


def _drawn(head: Sequence[str], cells: Iterable[Sequence[str]], padding: int = 2) -> str:
    import tabulate

    tabulate.MIN_PADDING = padding  # how much wider a head may be than its column
    return tabulate.tabulate(cells, head, "plain", disable_numparse=True)


def _widths(head: Sequence[str], cells: Iterable[Sequence[str]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(head, *cells, strict=True)]


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def _needed(head: Sequence[str], cells: Iterable[Sequence[str]]) -> int:
    return sum(_widths(head, cells)) + GAP * (len(head) - 1)


def _limits(widths: list[int], room: int) -> list[int]:
    """The widths of columns that share the room: the widest are made narrower first."""
    limits = list(widths)
    while sum(limits) > max(room, len(limits)):
        widest = max(limits)
        limits[limits.index(widest)] = widest - 1
    return limits


def _cut(row: Iterable[str], limits: Iterable[int]) -> list[str]:
    pairs = zip(row, limits, strict=True)
    return ["\n".join(_short(line, limit) for line in cell.split("\n")) for cell, limit in pairs]


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
