"""What the README promises has tests: those that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def promises() -> list[tuple[str, str, str]]:
    """The rows of the README's table: sentence, file, name of the test."""
    section = (ROOT / "README.md").read_text().partition("## What you can rely on")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    return [(sentence.strip(), *shown.strip().split(": ", 1)) for sentence, shown in rows]  # type: ignore[misc]


def test_there_are_promises() -> None:
    assert len(promises()) > 10
    assert all(sentence.endswith(".") for sentence, _, _ in promises())


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise[2])
def test_the_test_that_shows_it_is_there(promise: tuple[str, str, str]) -> None:
    _, file, name = promise
    begins = rf'@test "{re.escape(name)}"' if file.endswith(".bats") else rf"def {name}\("
    assert re.search(f"^{begins}", (ROOT / file).read_text(), flags=re.MULTILINE)
