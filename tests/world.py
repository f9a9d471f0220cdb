"""A machine to run netwrap on: a toy kernel below, a state directory of its own beside it."""

from __future__ import annotations

import contextlib
import copy
import io
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from toykernel import HOST, ToyKernel
from toytables import Refused, split

from netwrap import cli, desk, execute, place, session, supervise, upkeep
from netwrap.desk import Desk, Mode
from netwrap.facts import Listener
from netwrap.model import Machine, State
from netwrap.statefile import FILE
from netwrap.store import Store
from netwrap.undo import Operation


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing of netwrap's runs after it."""


@dataclass(frozen=True)
class Result:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> tuple[str, str]:
        """The last two lines on stderr: what is wrong, and the hint."""
        what, hint = self.err.splitlines()[-2:]
        assert what.startswith("netwrap: ")
        assert hint.startswith("hint: ")
        return what.removeprefix("netwrap: "), hint.removeprefix("hint: ")


@dataclass(frozen=True)
class Saved:
    """A world to come back to."""

    kernel: ToyKernel
    state: bytes | None


class World:
    """netwrap on a toy kernel."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.kernel = ToyKernel()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(execute, "spawn", lambda *a, **k: self.kernel.spawn(*a, **k))
        monkeypatch.setattr(execute, "netns_at", lambda name: self.kernel.netns_at(name))
        monkeypatch.setattr(execute, "read_sysctl", lambda key: self.kernel.read_sysctl(key))
        for module in (desk, supervise):
            monkeypatch.setattr(module, "require", lambda _: None)
        monkeypatch.setattr(desk, "look", lambda *a, **k: self.kernel.facts(*a, **k))
        monkeypatch.setattr(session, "need_root", lambda *_: None)
        monkeypatch.setattr(upkeep, "alive", lambda *a: self.kernel.facts(*a))
        monkeypatch.setattr(desk, "alive", lambda *a: self.kernel.facts(*a))
        monkeypatch.setattr(place, "here", self.here)
        for seen, what in (("is_netns_gone", False), ("is_pidns_gone", False), ("way", ())):
            monkeypatch.setattr(place._Sight, seen, lambda *_, what=what: what)
        monkeypatch.setattr(sqlite3, "connect", _connect)  # for speed: nothing waits for the disk

    def here(self) -> Machine:
        """Where netwrap is, as netwrap.place gives it."""
        return Machine(self.kernel.boot_id, HOST)

    def netwrap(self, line: str) -> Result:
        """Runs one command line, written as in a shell."""
        out, err = io.StringIO(), io.StringIO()
        self._monkeypatch.setattr(sys, "argv", ["netwrap", *split(line)])
        self._monkeypatch.setenv("NETWRAP_STATE_DIR", str(self.directory))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(split(line))
        return Result(code, out.getvalue(), err.getvalue())

    def must(self, line: str) -> str:
        """Runs one command line that succeeds; gives its stdout."""
        result = self.netwrap(line)
        assert result.code == 0, f"netwrap {line}: {result.err}"
        return result.out

    def run_script(self, text: str) -> None:
        """Runs a dry run's script as bash would: line by line, up to the first failure."""
        for line in text.splitlines():
            if line and not line.startswith("#") and line != "set -e":
                line = line.removesuffix(" || true")
                with contextlib.suppress(Refused) if line.startswith("conntrack ") else contextlib.nullcontext():
                    self.kernel.run(split(line))

    def prepare(self, line: str) -> None:
        """Makes the machine another one: a command of the toy kernel's, or one of the words below."""
        match split(line):
            case ["listen", protocol, ip, port]:
                self.kernel.listeners.add(Listener(protocol, _ip(ip), int(port)))
            case ["end", pid]:
                self.kernel.end_process(int(pid))
            case ["altname", name, link]:
                self.kernel.host.links[link].altnames += (name,)
            case ["install", tool]:
                self.kernel.tools.add(tool)
            case ["without", "ipv6"]:
                for key in [k for k in self.kernel.sysctls if "ipv6" in k]:
                    del self.kernel.sysctls[key]
            case ["mtu", value, link]:
                self.kernel.host.links[link].mtu = int(value)
            case words:
                self.kernel.run(words)

    def save(self) -> Saved:
        """Kernel and state as they are."""
        path = self.directory / FILE
        return Saved(copy.deepcopy(self.kernel), path.read_bytes() if path.exists() else None)

    def load(self, saved: Saved) -> None:
        """Goes to kernel and state as they were."""
        self.kernel = copy.deepcopy(saved.kernel)
        self.kernel.log.clear()
        self.kernel.spawned.clear()
        path = self.directory / FILE
        path.unlink(missing_ok=True)
        if saved.state is not None:
            self.directory.mkdir(mode=0o755, exist_ok=True)
            path.write_bytes(saved.state)
            path.chmod(0o644)

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        store = Store(self.directory, write=False)
        try:
            yield store
        finally:
            store.close()

    def state(self) -> State:
        """What stands, read from the file anew."""
        with self.store() as store:
            return store.state()

    def operations(self) -> list[Operation]:
        with self.store() as store:
            return store.operations()

    def recover(self) -> None:
        """What the next changing command does first."""
        with session.changing(Mode(self.directory, quiet=True), "the next command") as at_work:
            assert isinstance(at_work, Desk)

    def everything(self) -> dict[str, object]:
        """Kernel and state, to be compared before and after."""
        return {**self.kernel.snapshot(), "state": _comparable(self.state())}


_real_connect = sqlite3.connect


def _connect(*args: Any, **options: Any) -> sqlite3.Connection:
    connection = _real_connect(*args, **options)
    connection.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;")
    return connection


def _comparable(state: State) -> object:
    """What stands; where each network's round robin is, is no part of it: it only goes on."""
    return state.networks, state.links, state.containers, state.endpoints, state.publications, state.owners


def _ip(text: str) -> IPv4Address | None:
    return None if text == "*" else IPv4Address(text)
