"""The door to processes that are waited for, and the signals that end them."""

from __future__ import annotations

import pytest

from netwrap.errors import CommandFailed, NetwrapError
from netwrap.spawn import require, spawn, time_limit


@pytest.mark.parametrize(("text", "seconds"), [("5", 5), ("0.5", 0.5), ("0", 30), ("-1", 30), ("soon", 30), ("", 30)])
def test_the_time_limit_is_30_seconds_where_none_is_given(
    text: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETWRAP_TIMEOUT", text)
    assert time_limit() == seconds


def test_a_real_command_that_fails_gives_its_line_code_and_whole_stderr() -> None:
    with pytest.raises(CommandFailed) as caught:
        spawn(["sh", "-c", "printf %2000s . >&2; exit 4"])
    assert caught.value.code == 4
    assert len(caught.value.stderr) == 1


def test_a_command_without_an_answer_is_ended_and_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRAP_TIMEOUT", "0.1")
    with pytest.raises(CommandFailed, match="no answer in time"):
        spawn(["sleep", "20"])


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(NetwrapError) as caught:
        require(["sh", "netwrap-no-such-program"])
    assert "'netwrap-no-such-program'" in caught.value.message
    assert caught.value.hint.startswith("sudo apt-get install ")
