"""Errors as a user sees them: the fact with the offending value, and a hint that is a command."""

from __future__ import annotations


def quoted(text: str) -> str:
    """What the user typed, as it was typed, in quotes; control characters are escaped."""
    return repr(shortened(text))


def shortened(text: str, most: int = 160) -> str:
    """A text, without its middle if it is very long."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 4 :]}"


class NetwrapError(Exception):
    """Failed, or not possible on this machine now; everything was rolled back (exit 1)."""

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StateFailed(NetwrapError):
    """The state cannot be read or written now: a full disk, a read-only directory (exit 1)."""


class BadInput(NetwrapError):
    """Bad input, or a state that netwrap refuses to use; nothing was changed (exit 2)."""

    exit_code = 2


class LeftBehind(NetwrapError):
    """Failed, and something is left; the message names everything that is left (exit 3)."""

    exit_code = 3


class Interrupted(NetwrapError):
    """Stopped by a signal or by the user; everything was rolled back (exit 130)."""

    exit_code = 130


class CommandFailed(Exception):
    """A spawned command failed: its line, its exit code (None: it timed out), its stderr."""

    def __init__(self, line: str, code: int | None, stderr: str) -> None:
        super().__init__(line, code, stderr)
        self.line = line
        self.code = code
        self.stderr = stderr.strip()

    @property
    def how(self) -> str:
        """Exit code and stderr."""
        code = "timed out" if self.code is None else f"exit {self.code}"
        return f"{code}: {self.stderr}" if self.stderr else code

    def __str__(self) -> str:
        return f"{self.line}: {self.how}"


class NotRun(CommandFailed):
    """A command that was not started, and why."""

    def __init__(self, line: str, why: str) -> None:
        super().__init__(line, None, why)

    @property
    def how(self) -> str:
        """The reason."""
        return f"not run: {self.stderr}"
