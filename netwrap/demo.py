"""`netwrap demo`: the whole tutorial, with real processes and real packets.

It runs inside a sandbox with a LAN and an internet around (`sandbox.PICTURE` is the map).
"""

from __future__ import annotations

import os
import shlex
import signal
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

from netwrap import history, sandbox
from netwrap.attend import PYTHON, background, foreground
from netwrap.desk import Mode
from netwrap.errors import CommandFailed, Interrupted, NetwrapError
from netwrap.facts import Facts
from netwrap.look import look, own_namespace, process
from netwrap.spawn import Signals, spawn
from netwrap.steps import shell_line
from netwrap.terminal import WIDTH, read_key
from netwrap.views.diff import diff, lines

SUBNET, GATEWAY, C1, C2 = "10.0.0.1/24", "10.0.0.1", "10.0.0.2", "10.0.0.3"
OTHER_SUBNET, C3 = "10.0.1.1/24", "10.0.1.2"


@dataclass
class Story:
    """The demo's output: each command as it runs, each test with its expected result."""

    step: bool
    signals: Signals
    tests: int = 0
    wrong: list[str] = field(default_factory=list)

    def chapter(self, title: str, text: str) -> None:
        """A heading; with --step it waits for a key. Raises NetwrapError if the user stops."""
        self.signals.check()
        with self.signals.at_once():
            key = read_key("\n  any key = go on, q = stop > ") if self.step else ""
        if key in ("q", "\x03", "\x04"):
            self.signals.check()
            raise NetwrapError("the demo stopped as requested; its sandbox is gone", "netwrap demo")
        say(f"\n== {title}\n{textwrap.fill(text, WIDTH, initial_indent='   ', subsequent_indent='   ')}\n")

    def netwrap(self, *words: str, changes: bool = True) -> None:
        """Runs a netwrap command as one types it. Raises NetwrapError if it fails."""
        words = (*words, "--step") if changes and self.step else words
        say(f"$ {shell_line(('netwrap', *words))}")
        code = foreground([*PYTHON, "netwrap", *words])
        self.signals.check()
        if code != 0:
            raise NetwrapError(f"netwrap {shell_line(words)} failed in the demo", "netwrap sandbox --lan")
        say("")

    def test(self, what: str, command: str, expected: str | None) -> None:
        """Runs a test; `expected` is a text that its output must contain, or None if it must fail."""
        self.tests += 1
        say(f"$ {command}")
        try:
            output = spawn(shlex.split(command), None, self.signals)
        except CommandFailed:
            output = ""
        self.signals.check()
        answer = next((li for li in output.splitlines() if expected and expected in li), "no answer")
        well = (answer != "no answer") == (expected is not None)
        if not well:
            self.wrong.append(what)
        say(f"  {answer}\n  {'ok' if well else 'WRONG'}: {what}\n")

    def by_hand(self, command: str) -> None:
        """Runs a command without netwrap's knowledge."""
        say(f"$ {command}")
        spawn(shlex.split(command), None, self.signals)


def say(text: str) -> None:
    """The story goes to stdout, together with the results of its commands."""
    print(text, flush=True)


def tell(*, step: bool) -> int:
    """Runs the demo; returns 0 if every test had its expected result and nothing is left."""
    try:
        with Signals() as signals:
            try:
                return _tell(Story(step, signals))
            except CommandFailed:  # a signal ends the command that runs
                signals.check()
                raise
    except Interrupted as error:
        raise Interrupted(f"the demo is {error.message}; its sandbox is gone", "netwrap demo") from None


def _tell(story: Story) -> int:
    say("A throw-away host of its own, with a LAN and an internet around:")
    say(textwrap.indent(sandbox.PICTURE, "  "))
    servers = [_container(name) for name in ("c1", "c2", "c3")]
    before = look(servers)
    try:
        _build(story, *servers[:2])
        _try(story)
        _two_lans(story, servers[2])
        return _take_back(story, servers, before)
    finally:
        for pid in servers:
            os.kill(pid, signal.SIGKILL)


def _container(name: str) -> int:
    """Starts a process in a network namespace of its own; it serves on port 80. Gives its pid."""
    words = ["unshare", "--net", *PYTHON, "netwrap.peer", name, "80"]
    pid = background(words)
    for _ in range(2000):
        found = process(pid)
        tables = Path(f"/proc/{pid}/net/tcp")
        if found and found.inode != own_namespace() and ":0050 " in tables.read_text():
            return pid
        time.sleep(0.01)
    raise NetwrapError(f"process {pid} does not serve", shell_line(words))


def _build(story: Story, first: int, second: int) -> None:
    story.chapter("A network", "A bridge, the gateway's address on it, forwarding, and a way out.")
    story.netwrap("network", "create", "--subnet", SUBNET, "testbridge")
    story.netwrap("network", "list", changes=False)
    story.chapter(
        "Two containers", f"Processes {first} and {second}, each in an empty network namespace, serve on port 80."
    )
    story.netwrap("connect", "--pid", str(first), "--name", "c1", "--net", "testbridge")
    story.netwrap("connect", "--pid", str(second), "--name", "c2", "--net", "testbridge")
    story.chapter("A published port", "Port 8080 of the host is forwarded to port 80 of c1.")
    story.netwrap("publish", "c1", "8080:80")
    story.netwrap("ps", changes=False)


def _try(story: Story) -> None:
    story.chapter("Test 1: container to container", "Through the bridge.")
    story.test("c1 reaches c2", f"ip netns exec c1 ping -c 1 -W 5 {C2}", "1 received")
    story.test("c2 sees c1's own address", call(C2, 80, "c1"), f"you come from {C1}")

    story.chapter("Test 2: host to container", "The host is the gateway: it has a route to the subnet.")
    story.test("the host reaches c1", f"ping -c 1 -W 5 {C1}", "1 received")
    story.test("c1 sees the gateway's address", call(C1, 80), f"you come from {GATEWAY}")

    story.chapter(
        "Test 3: container to the outside",
        f"{sandbox.INTERNET} has no route back to 10.0.0.0/24. First without the MASQUERADE rule, then with it.",
    )
    rule = _masquerade()
    story.by_hand(rule["undo"])
    story.test("without MASQUERADE there is no answer", f"ip netns exec c1 ping -c 1 -W 2 {sandbox.INTERNET}", None)
    story.by_hand(rule["do"])
    story.test("with it there is", f"ip netns exec c1 ping -c 1 -W 5 {sandbox.INTERNET}", "1 received")

    story.chapter("Test 4: the published port", "From a LAN machine, from the internet, and from the host itself.")
    host, seen = sandbox.HOST, "you come from"
    story.test("c1 sees the LAN machine", call(host, 8080, "neighbour"), f"{seen} {sandbox.NEIGHBOUR}")
    story.test("c1 sees the internet host", call(host, 8080, "internet"), f"{seen} {sandbox.INTERNET}")
    story.test("the host by its LAN address", call(host, 8080), "this is c1")
    story.test("the host by 127.0.0.1", call("127.0.0.1", 8080), "this is c1")


def _two_lans(story: Story, third: int) -> None:
    story.chapter("Test 5: containers on different LANs", f"A second network, with c3: process {third}.")
    story.netwrap("network", "create", "--subnet", OTHER_SUBNET, "otherbridge")
    story.netwrap("connect", "--pid", str(third), "--name", "c3", "--net", "otherbridge")
    story.test("networks are kept apart", f"ip netns exec c3 ping -c 1 -W 2 {C1}", None)
    story.netwrap("network", "link", "testbridge", "otherbridge")
    story.test("linked, c3 reaches c1", f"ip netns exec c3 ping -c 1 -W 5 {C1}", "1 received")
    story.test("c1 sees c3's own address", call(C1, 80, "c3"), f"you come from {C3}")
    story.netwrap("network", "remove", "otherbridge", "--force")


def call(address: str, port: int, where: str | None = None) -> str:
    """The command that calls a service and prints its answer, from the host or from a namespace."""
    inside = f"ip netns exec {where} " if where else ""
    return f"{inside}timeout 20 bash -c 'cat </dev/tcp/{address}/{port}'"


def _masquerade() -> dict[str, str]:
    """The MASQUERADE rule, from the steps of the first operation, `network create`."""
    steps = history.operation(Mode(Path(sandbox.STATE_DIR)), 1)["steps"]
    return next(step for step in steps if "MASQUERADE" in step["do"])


def _take_back(story: Story, servers: list[int], before: Facts) -> int:
    story.chapter("All of it back", "Each step's inverse, the last step first.")
    story.netwrap("disconnect", "c2")
    story.netwrap("undo")  # c2 is back, as it was
    story.netwrap("disconnect", "c2")
    story.netwrap("disconnect", "c1")
    story.netwrap("network", "remove", "testbridge")
    story.chapter("The proof", "Links, addresses, routes, rules, settings and namespaces, here and in both containers.")
    after = look(servers)
    changed = [li for li in diff(before, after).splitlines() if li.startswith(("  +", "  -"))]
    say("\n".join(changed) or f"  the same as before: {len(list(lines(after)))} objects compared")
    for wrong in story.wrong:
        say(f"  WRONG: {wrong}")
    say(f"  {story.tests - len(story.wrong)} of {story.tests} tests came out as they should")
    return 1 if changed or story.wrong else 0
