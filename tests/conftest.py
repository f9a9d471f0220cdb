"""What the tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from world import World

settings.register_profile("netwrap", deadline=None, max_examples=50)
settings.load_profile("netwrap")


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No width for sentences: pytest-xdist sets one for its workers."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A directory of the test's own, in memory where the machine has that."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK | os.X_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def world(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """netwrap on a toy kernel, with a state directory of its own."""
    return World(quick_path / "state", monkeypatch)
