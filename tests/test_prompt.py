"""The prompt of a shell that runs in a sandbox or a container."""

from __future__ import annotations

import os
import subprocess

import pytest

from netwrap import prompt


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd in (0, 2))
    monkeypatch.delenv("PROMPT_COMMAND", raising=False)


@pytest.mark.parametrize(
    "command",
    [["bash", "-c", "true"], ["bash", "script"], ["python3"], ["sh", "-ic", "true"], ["zsh"], ["/bin/bashful"]],
)
def test_a_command_that_is_no_interactive_shell_of_these_gets_nothing(command: list[str]) -> None:
    assert prompt.environment(command, "netwrap c1") == {}


def test_without_a_terminal_no_shell_gets_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert prompt.environment(["bash"], "netwrap c1") == prompt.environment(["sh"], "netwrap c1") == {}


@pytest.mark.parametrize("command", [["bash"], ["/bin/bash", "-l"], ["bash", "-i"]])
def test_bash_puts_it_before_its_own_prompt_once(command: list[str]) -> None:
    found = prompt.environment(command, "netwrap c1")
    assert list(found) == ["PROMPT_COMMAND"]
    assert _prompt("mine> ", found["PROMPT_COMMAND"]) == "(netwrap c1) mine> "


def test_a_container_in_a_sandbox_has_its_own_mark_and_the_users_command_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMPT_COMMAND", "PS2=users")
    outer = prompt.environment(["bash"], "netwrap sandbox")["PROMPT_COMMAND"]
    monkeypatch.setenv("PROMPT_COMMAND", outer)
    inner = prompt.environment(["bash"], "netwrap c1")["PROMPT_COMMAND"]
    assert inner.endswith("\nPS2=users")
    assert _prompt("mine> ", inner) == "(netwrap c1) mine> "


def test_other_shells_take_theirs_from_the_environment() -> None:
    assert prompt.environment(["/bin/sh"], "netwrap c1")["PS1"].startswith("(netwrap c1) ")


def _prompt(own: str, command: str) -> str:
    """PS1 after the command has run twice, before two prompts."""
    script = 'eval "$2"; eval "$2"; printf %s "$PS1"'
    words = ["bash", "-c", f"PS1=$1; {script}", "-", own, command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
