"""What the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from world import World

settings.register_profile("netwrap", deadline=None, max_examples=50)
settings.load_profile("netwrap")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """netwrap on a toy kernel, with a state directory of its own."""
    return World(tmp_path / "state", monkeypatch)
