"""The door to processes that are waited for, and the signals that end them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from netwrap.errors import CommandFailed, Interrupted, NetwrapError
from netwrap.spawn import Signals, require, spawn, time_limit


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
    with pytest.raises(CommandFailed, match="timed out"):
        spawn(["sleep", "20"])


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(NetwrapError) as caught:
        require(["sh", "netwrap-no-such-program"])
    assert "'netwrap-no-such-program'" in caught.value.message
    assert caught.value.hint.startswith("sudo apt-get install ")


def test_commands_run_side_by_side_in_threads_each_with_its_own_answer() -> None:
    def answer(number: int) -> tuple[str, int | None]:
        said = spawn(["sh", "-c", f"echo {number}; echo other >&2"])
        with pytest.raises(CommandFailed) as caught:
            spawn(["sh", "-c", f"echo {number} >&2; exit {number}"])
        return said.strip() + caught.value.stderr.strip(), caught.value.code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, range(1, 41))) == [(f"{n}{n}", n) for n in range(1, 41)]


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_running_command_with_its_children(number: signal.Signals) -> None:
    begun = time.monotonic()
    with Signals() as signals:
        with pytest.raises(CommandFailed):
            spawn(["sh", "-c", f"sleep 0.3; kill -{number.name[3:]} {os.getpid()}; sleep 10; sleep 10"], None, signals)
        assert signals.caught == number
        with pytest.raises(Interrupted, match=f"interrupted by {number.name}"):
            signals.check()
    assert time.monotonic() - begun < 5


def test_a_signal_that_comes_while_the_command_is_being_started_ends_it_too() -> None:
    """Between the fork and the moment when the handler knows the child."""
    begun = time.monotonic()
    with Signals() as signals, pytest.raises(CommandFailed):
        spawn(["sh", "-c", f"kill -TERM {os.getpid()}; sleep 60"], None, signals)
    assert time.monotonic() - begun < 30


def test_a_signal_is_not_lost_where_the_command_has_ended_and_left_a_child_that_holds_its_output() -> None:
    with Signals() as signals:
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        spawn(["sh", "-c", "sleep 1.5 & exit 0"], None, signals)
        assert signals.caught == signal.SIGTERM


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_time_limit_ends_a_child_too_that_an_ended_command_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRAP_TIMEOUT", "0.3")
    begun = time.monotonic()
    spawn(["sh", "-c", "sleep 5 & exit 0"])
    assert time.monotonic() - begun < 30


def test_signals_that_are_not_heeded_are_handled_by_who_did_before() -> None:
    old, caught = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number)), list[int]()
    try:
        with Signals(heed=False) as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            signals.check()
        assert caught == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, old)


def test_a_signal_that_came_when_all_was_done_is_given_to_who_handled_it_before() -> None:
    old, caught = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number)), list[int]()
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert caught == []
        assert caught == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, old)


def test_a_signal_ends_at_once_what_is_waited_for_with_nothing_half_done() -> None:
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with Signals() as signals, pytest.raises(Interrupted), signals.at_once():
        time.sleep(10)


# ---- where threads are scarce


def few_threads(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """After so many, no thread can be started any more."""
    start, left = threading.Thread.start, [count]

    def scarce(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)


def test_without_any_thread_a_command_runs_as_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    few_threads(monkeypatch, 0)
    assert spawn(["sh", "-c", "cat; echo $LC_ALL"], "given\n") == "given\nC\n"
    with pytest.raises(CommandFailed) as caught:
        spawn(["sh", "-c", "printf %2000s . >&2; exit 4"])
    assert (caught.value.code, len(caught.value.stderr)) == (4, 1)
    monkeypatch.setenv("NETWRAP_TIMEOUT", "0.1")
    with pytest.raises(CommandFailed, match="timed out"):
        spawn(["sleep", "20"])
    monkeypatch.delenv("NETWRAP_TIMEOUT")
    begun = time.monotonic()
    with Signals() as signals, pytest.raises(CommandFailed):
        spawn(["sh", "-c", f"kill -TERM {os.getpid()}; sleep 60"], None, signals)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("count", range(1, 8))
def test_wherever_threads_end_a_command_is_through_or_has_failed_and_none_is_left(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_threads(monkeypatch, count)
    for _ in range(3):
        with contextlib.suppress(CommandFailed):
            assert spawn(["sh", "-c", "echo done"], "") == "done\n"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert spawn(["sh", "-c", "echo done"]) == "done\n"
