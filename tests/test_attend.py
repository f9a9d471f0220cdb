"""Programs with our own terminal, or that stay: started, waited for, given our signals. Nothing here needs root."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import pytest

from netwrap.attend import Attended, background, foreground, handling, pidfd

INIT = [sys.executable, "-m", "netwrap.init"]


def readable(fd: int, seconds: float) -> bool:
    return select.select([fd], [], [], seconds)[0] == [fd]


def test_a_pidfd_tells_when_a_process_has_ended() -> None:
    pid = background(["sleep", "20"])
    with pidfd(pid) as fd:
        assert fd is not None
        assert not readable(fd, 0)
        os.kill(pid, signal.SIGKILL)
        assert readable(fd, 10)
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_process_that_is_not_there_any_more_has_no_pidfd() -> None:
    pid = background(["true"])
    os.waitpid(pid, 0)
    with pidfd(pid) as fd:
        assert fd is None


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15)])
def test_a_program_in_the_foreground_gives_its_exit_code(script: str, code: int) -> None:
    assert foreground(["sh", "-c", script]) == code


def test_a_program_in_the_background_is_not_waited_for() -> None:
    begun = time.monotonic()
    pid = background(["sleep", "20"])
    assert time.monotonic() - begun < 5
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


def test_a_program_that_is_not_there_is_an_error_of_the_systems() -> None:
    with pytest.raises(FileNotFoundError):
        background(["netwrap-no-such-program"])


def test_a_program_gets_the_signals_that_python_ignores() -> None:
    ignored = "while read key mask; do [ $key = SigIgn: ] && exit $((0x$mask >> 12 & 1)); done < /proc/self/status"
    assert foreground(["sh", "-c", ignored]) == 0  # bit 12 is SIGPIPE


# ---- signals


def test_a_signal_is_handled_and_wakes_who_waits_and_the_old_handlers_come_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before, caught = [signal.getsignal(n) for n in numbers], list[int]()
    with handling(caught.append) as wakeup:
        assert not readable(wakeup, 0)
        for number in numbers:
            os.kill(os.getpid(), number)
        assert readable(wakeup, 10)
    assert caught == list(numbers)
    assert [signal.getsignal(n) for n in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_hangup_that_is_ignored_is_not_handled() -> None:
    old, caught = signal.signal(signal.SIGHUP, signal.SIG_IGN), list[int]()
    try:
        with handling(caught.append):
            os.kill(os.getpid(), signal.SIGHUP)
        assert caught == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


# ---- a command under netwrap.init


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)])
def test_an_attended_command_gives_its_exit_code(script: str, code: int) -> None:
    assert Attended().run([*INIT, "sh", "-c", script]) == code


def test_who_attends_is_told_the_commands_pid_while_it_runs() -> None:
    told: list[int | None] = []

    def started(pid: int | None) -> None:
        told.append(pid)
        assert pid is not None
        assert os.getpgid(pid) > 0
        os.kill(pid, signal.SIGTERM)

    assert Attended().run([*INIT, "sleep", "20"], started) == 143
    assert len(told) == 1


def test_who_attends_is_told_of_none_where_there_is_no_command() -> None:
    told: list[int | None] = []
    assert Attended().run([sys.executable, "-c", "raise SystemExit(3)"], told.append) == 3
    assert told == [None]


def test_a_signal_from_before_the_command_was_there_reaches_it() -> None:
    attended = Attended()
    with handling(attended.signal):
        os.kill(os.getpid(), signal.SIGTERM)
        assert attended.run([*INIT, "sleep", "20"]) == 143


def test_a_signal_while_the_command_runs_reaches_it() -> None:
    attended = Attended()
    with handling(attended.signal):
        code = attended.run([*INIT, "sleep", "20"], lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert code == 143


def test_a_signal_after_the_commands_end_is_nobodys_and_no_error() -> None:
    attended = Attended()
    assert attended.run([*INIT, "true"]) == 0
    attended.signal(signal.SIGTERM)


def test_a_parent_that_is_killed_is_waited_for_with_its_command() -> None:
    """By the pidfd: the command may hold what is about to be taken down."""
    begun = time.monotonic()
    assert Attended().run([*INIT, "sh", "-c", "sleep 0.2; kill -KILL $PPID; sleep 0.4"]) == 137
    assert time.monotonic() - begun >= 0.6
