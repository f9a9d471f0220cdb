"""The parent of a container's first process, run as a program: exit codes, signals, stopped children, the terminal."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netwrap.init import FORWARDED

INIT = [sys.executable, "-m", "netwrap.init"]
READY = "echo ready; "


def can_make_pid_namespaces() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None and subprocess.run([unshare, *USER, "--pid", "--fork", "true"], check=False).returncode == 0
    )


USER = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
needs_pid_namespace = pytest.mark.skipif(not can_make_pid_namespaces(), reason="no pid namespaces for us here")


def block_signals() -> None:
    """As who starts it does: the kernel keeps signals until it can pass them on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)


def start(*words: str) -> subprocess.Popen[str]:
    """Starts words that say `ready`, and waits until they have."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, preexec_fn=block_signals
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def start_sleep(*words: str) -> subprocess.Popen[bytes]:
    """Starts words that sleep, and waits until they do: a shell before its exec has handlers of its own."""
    process = subprocess.Popen([*words, "sleep", "20"], stdin=subprocess.DEVNULL, preexec_fn=block_signals)
    for _ in range(1000):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "sleep\n":
            return process
        time.sleep(0.005)
    raise AssertionError("it does not sleep")


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)],
)
def test_the_exit_code_is_the_commands_and_128_more_for_a_signal(script: str, code: int) -> None:
    assert subprocess.run([*INIT, "sh", "-c", script], check=False).returncode == code


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("/nowhere/at-all", 127, "'/nowhere/at-all': No such file or directory\nhint: ls -l /nowhere/at-all\n"),
        ("no-such-command", 127, "'no-such-command': No such file or directory\nhint: which no-such-command\n"),
        ("/etc/passwd", 126, "'/etc/passwd': Permission denied\nhint: ls -l /etc/passwd\n"),
    ],
)
def test_a_command_that_cannot_be_started_is_127_or_126_with_two_lines(command: str, code: int, said: str) -> None:
    done = subprocess.run([*INIT, command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, f"netwrap: {said}")


@pytest.mark.parametrize("number", FORWARDED)
def test_a_signal_is_passed_on_to_a_command_that_handles_it(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    process = start(*INIT, "sh", "-c", f"trap 'exit 42' {name}; {READY} while :; do sleep 0.02; done")
    process.send_signal(number)
    assert process.wait(10) == 42


@pytest.mark.parametrize("number", FORWARDED)
def test_a_signal_ends_a_command_that_does_not_handle_it(number: signal.Signals) -> None:
    process = start_sleep(*INIT)
    process.send_signal(number)
    assert process.wait(10) == 128 + number


def test_a_hangup_that_was_ignored_stays_ignored() -> None:
    process = start("sh", "-c", f'trap "" HUP; exec "$@" -c "{READY} sleep 0.3; exit 5"', "sh", *INIT, "sh")
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == 5


def test_signals_that_came_before_it_could_pass_them_on_are_passed_on_then() -> None:
    """Who starts it blocks them: the kernel keeps them until they are let in."""
    read, write = os.pipe()
    script = "trap 'exit 42' USR1; while :; do sleep 0.02; done"
    pid = os.posix_spawnp(INIT[0], [*INIT, "bash", "-c", script], os.environ, setsigmask=FORWARDED)
    os.close(write)
    os.close(read)
    os.kill(pid, signal.SIGUSR1)  # its interpreter is not even there yet
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (42, 128 + signal.SIGUSR1)  # by the trap, or before the shell had set it


def test_the_command_starts_with_no_signal_blocked_and_none_ignored_by_us() -> None:
    code = "grep -E '^Sig(Blk|Ign)' /proc/self/status"
    script = [*INIT, "sh", "-c", code]
    read, write = os.pipe()
    pid = os.posix_spawnp(
        script[0], script, os.environ, setsigmask=FORWARDED, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    with os.fdopen(read) as said:
        fields = dict(line.split(":\t") for line in said.read().splitlines())
    os.waitpid(pid, 0)
    assert int(fields["SigBlk"], 16) == 0
    assert not int(fields["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


def test_a_stopped_command_is_continued_as_no_shell_is_there_that_could() -> None:
    assert subprocess.run([*INIT, "sh", "-c", "kill -STOP $$; exit 5"], check=False, timeout=10).returncode == 5


def test_it_ends_with_the_command_and_not_with_a_process_that_the_command_left() -> None:
    begun = time.monotonic()
    done = subprocess.run([*INIT, "sh", "-c", "sleep 5 >&- 2>&- & exit 3"], check=False, timeout=10)
    assert done.returncode == 3
    assert time.monotonic() - begun < 4


# ---- the first process of a pid namespace


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_command_has_started_is_not_lost(number: signal.Signals) -> None:
    for _ in range(5):
        process = subprocess.Popen(
            [*INIT, "sleep", "20"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=block_signals,
        )
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
        assert (process.returncode, err) == (128 + number, "")


FIRST = ["unshare", *USER, "--pid", *INIT]


@needs_pid_namespace
@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -KILL $$; exit 9", 9)])
def test_the_exit_code_of_a_first_process_is_its_own(script: str, code: int) -> None:
    """A first process does not get its own signals, not even SIGKILL (pid_namespaces(7))."""
    assert subprocess.run([*FIRST, "sh", "-c", script], check=False, timeout=10).returncode == code


@needs_pid_namespace
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_first_process_that_does_not_handle_it_though_the_kernel_keeps_it_away(
    number: signal.Signals,
) -> None:
    process = start_sleep(*FIRST)
    process.send_signal(number)
    assert process.wait(10) == 128 + number


@needs_pid_namespace
def test_a_first_process_that_handles_a_signal_gets_it() -> None:
    process = start(*FIRST, "sh", "-c", f"trap 'exit 42' TERM; {READY} while :; do sleep 0.02; done")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 42


@needs_pid_namespace
def test_a_first_process_that_ignores_a_signal_goes_on() -> None:
    process = start(*FIRST, "sh", "-c", f"trap '' TERM; {READY} sleep 0.3; exit 6")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 6


# ---- the terminal


def in_a_terminal(code: str, typed: bytes = b"") -> tuple[str, int]:
    """Runs Python code as a session leader with a terminal; types once it says `ready`. Gives output and exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    said, deadline = b"", time.monotonic() + 10
    while select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if typed and b"ready" in said:
            os.write(terminal, typed)
            typed = b""
    os.kill(pid, signal.SIGKILL)  # where it has not ended by itself, that is the exit code
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return said.decode(), code


ATTEND = """
import os, sys
from netwrap.attend import Attended, handling
attended = Attended()
with handling(attended.signal):
    code = attended.run([sys.executable, "-m", "netwrap.init", "sh", "-c", {script!r}])
print("code", code, "ours again", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
"""


def test_the_command_has_the_terminal_as_a_foreground_job_and_we_have_it_back_afterwards() -> None:
    script = "read line; echo it read $line; ps -o stat= -p $$ | grep -q + && echo foreground; exit 7"
    said, code = in_a_terminal(ATTEND.format(script="echo ready; " + script), b"hello\n")
    assert "it read hello" in said
    assert "foreground" in said
    assert "code 7 ours again True" in said
    assert code == 0


def test_ctrl_c_ends_the_command_once_and_we_go_on() -> None:
    said, code = in_a_terminal(
        ATTEND.format(script="trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.02; done"), b"\x03"
    )
    assert said.count("caught") == 1
    assert "code 9 ours again True" in said
    assert code == 0


def test_the_settings_of_the_terminal_are_as_they_were_whatever_the_command_left() -> None:
    code = ATTEND.format(script="stty -echo -icanon; exit 0")
    code = f"import termios; old = termios.tcgetattr(0)\n{code}\nprint('same', termios.tcgetattr(0) == old)"
    said, _ = in_a_terminal(code)
    assert "same True" in said
