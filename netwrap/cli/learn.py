"""`netwrap sandbox` and `netwrap demo`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
