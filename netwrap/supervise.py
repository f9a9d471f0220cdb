"""Commands that stay as long as a process runs: `run`, `exec`, and `connect --hold`."""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from netwrap import app, health, plan, prompt, resolver, upkeep
from netwrap.app import Target
from netwrap.attend import PYTHON, Attended, handling, pidfd
from netwrap.desk import Mode
from netwrap.errors import BadInput, Interrupted, LeftBehind, NetwrapError, quoted
from netwrap.init import ENTER
from netwrap.look import process
from netwrap.model import Container, Endpoint, Netns, State
from netwrap.plan import ConnectWish
from netwrap.session import changing, looking, need_root, reading
from netwrap.spawn import require
from netwrap.steps import Plan, netns, shell_line
from netwrap.terminal import talk
from netwrap.views.script import Meanwhile

_INIT = (*PYTHON, "netwrap.init")
_PARENT = ("unshare", "--uts", "--pid", *_INIT)
_FIRST = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--mount-proc")


def connect_and_hold(mode: Mode, wish: ConnectWish, pid: int, show: Callable[[Endpoint], None]) -> None:
    """Connects a process, waits until it exits, then disconnects it.

    Raises Interrupted after a signal, when it is disconnected too; LeftBehind if it cannot be disconnected.
    """
    caught: list[int] = []
    with handling(caught.append) as wakeup, pidfd(pid) as ended:
        wait = ("tail", f"--pid={pid}", "-f", "/dev/null")
        made = app.connect(mode, wish, Target(pid=pid), meanwhile=wait if mode.dry_run else None)
        if made is None:
            return
        endpoint, held = made
        try:
            show(endpoint)
            if ended is not None and not caught:
                select.select([ended, wakeup], [], [])
        finally:
            was_there = _take_down(mode, held, endpoint)
    if caught:
        name = signal.Signals(caught[0]).name
        now = "is disconnected" if was_there else "had been disconnected already"
        raise Interrupted(f"interrupted by {name}; {held.name} {now} from {endpoint.network}", "netwrap ps")


def run(mode: Mode, wish: ConnectWish, command: list[str], *, detach: bool, dns: Sequence[str] = ()) -> int:
    """Runs a command in namespaces of its own on a network, takes all down when it exits, returns its exit code."""
    require(("ip", "setpriv", "unshare"))
    if shutil.which(command[0]) is None:
        raise BadInput(f"no command {quoted(command[0])}", "netwrap run --net NETWORK -- COMMAND…")
    if mode.dry_run:
        _dry_run(mode, wish, command, dns)
        return 0
    attended = Attended()
    with handling(attended.signal):
        container = _build(mode, wish)
        with reading(mode) as desk:
            words = _words(container.name, [*_resolver(container.name, wish, desk.state(), dns), *command])
        mode = replace(mode, step=False, heeds_signals=False)  # from here on the command gets them
        if not mode.quiet:
            talk(f"+ {shell_line(words)}{' &' if detach else ''}")
        if not detach:
            os.environ |= prompt.environment(command, f"netwrap {container.name}")
            return _supervise(mode, container, attended, words)
        return _detached(mode, container, attended, words)


def _words(name: str, command: list[str]) -> list[str]:
    return ["ip", "netns", "exec", name, *_PARENT, *_FIRST, *command]


def _dry_run(mode: Mode, wish: ConnectWish, command: list[str], dns: Sequence[str]) -> None:
    with changing(mode, f"run on {wish.network}") as desk:
        desk.known(wish.network)
        upkeep.clear(desk)
        seen = desk.look(ports=bool(wish.ports))
        made = plan.connect(wish, seen, desk.state())
        desk.carry_out(made, seen, first=True)
        name = _container(made).name
        words = _words(name, [*_resolver(name, wish, desk.state(), dns), *command])
        desk.show_deferred(f"run {name} on {wish.network}", Meanwhile(words, made.steps))


def _resolver(name: str, wish: ConnectWish, state: State, dns: Sequence[str]) -> list[str]:
    """The words before the command that give it a name server; tells the user if there is none."""
    if dns:
        return resolver.these(dns)
    network = state.networks.get(wish.network)
    hosts = resolver.servers(_text(resolver.ETC))
    if network is None or network.internal or os.path.exists(f"/etc/netns/{name}/resolv.conf"):  # ip-netns(8) binds it
        return []
    if not resolver.are_out_of_reach(hosts):
        return []
    asked = resolver.servers(_text(resolver.UPSTREAM))
    if asked and not resolver.are_out_of_reach(asked):
        return resolver.upstream()
    talk(f"netwrap: {name} cannot resolve names: the host's name server is {', '.join(hosts)}, its own loopback")
    talk(f"hint: netwrap run --net {wish.network} --dns ADDRESS -- COMMAND…")
    return []


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


def _container(made: Plan) -> Container:
    return next(m for m in made.makes if isinstance(m, Container))


def _build(mode: Mode, wish: ConnectWish) -> Container:
    """Makes the namespace and puts it on the network. Two looks: the second plan knows the namespace's inode.

    Until the command's pid is known, the container is there as long as we are.
    """
    with changing(mode, f"run on {wish.network}") as desk:
        desk.known(wish.network)
        upkeep.clear(desk)
        whole = plan.connect(wish, desk.look(ports=bool(wish.ports)), desk.state())
        container = _container(whole)
        with desk.operation(replace(whole, title=f"run {container.name} on {wish.network}")) as op:
            desk.run(op, replace(whole, steps=whole.steps[:1], makes=(), already=()), ends=False)
            seen = desk.look(inside=[Netns(container.name, 0)], ports=bool(wish.ports))
            if (found := seen.handle(container.name)) is None:
                raise NetwrapError(f"/run/netns/{container.name} was removed by somebody at once", "netwrap doctor")
            container = replace(container, inode=found.inode, cookie=found.cookie, supervisor=_ourselves())
            (added,) = desk.store.entries(op=op)
            desk.store.step_is(added.id, netns.add(container.netns, added.step.why))
            desk.run(op, plan.connect(wish, seen, desk.state(), container))
        return container


def _ourselves() -> tuple[int, int] | None:
    found = process(os.getpid())
    return (found.pid, found.starttime) if found is not None else None


def _supervise(
    mode: Mode, made: Container, attended: Attended, words: list[str], started: Callable[[], object] = lambda: None
) -> int:
    """Runs the command in its namespace, waits until it exits, takes its network down, returns its exit code."""

    def remember(pid: int | None) -> None:
        with suppress(NetwrapError), changing(mode, f"run {made.name}") as desk:
            container = desk.state().containers.get(made.name)
            found = process(pid) if pid is not None else None
            if found is not None and container is not None and container.netns.is_same(made.netns):
                desk.store.update(replace(container, pid=pid, starttime=found.starttime))
        started()

    try:
        code = attended.run(words, remember)
    except BaseException:
        _take_down(mode, made)
        raise
    try:
        _take_down(mode, made)
    except NetwrapError as error:
        talk(f"netwrap: {error.message}\nhint: {error.hint}")
        return code or error.exit_code
    return code


def _take_down(mode: Mode, made: Container, endpoint: Endpoint | None = None) -> bool:
    """Disconnects what we have made, despite signals; False if somebody has done so already. Raises LeftBehind."""
    try:
        return app.disconnect_same(replace(mode, step=False, heeds_signals=False), made, endpoint)
    except NetwrapError as error:
        where = f" from {endpoint.network}" if endpoint else ""
        raise LeftBehind(f"{made.name} could not be disconnected{where}: {error.message}", error.hint) from None


def _detached(mode: Mode, made: Container, attended: Attended, words: list[str]) -> int:
    """Starts a supervisor in a session of its own; prints the container's name when the command has started.

    Raises NetwrapError if it did not start.
    """
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        if not os.read(read, 1):
            raise NetwrapError("the command did not start; its network is taken down", "netwrap log")
        print(made.name)
        return 0
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):
                if fd < 3:
                    if fd == 0 or not _is_kept(fd):
                        os.dup2(null, fd)
                elif os.get_inheritable(fd):  # a pipe of our starter's, who may wait for its end
                    os.close(fd)
        with os.fdopen(write, "wb", buffering=0) as told:
            _supervise(replace(mode, quiet=True), made, attended, words, lambda: told.write(b"."))
    finally:
        os._exit(0)


def _is_kept(fd: int) -> bool:
    """Return whether a command in the background keeps its output: a file, or a device that is no terminal.

    A pipe or a socket it does not: who started us may wait for its end, as `name=$(netwrap run -d …)` does.
    """
    kind = os.fstat(fd).st_mode
    return stat.S_ISREG(kind) or (stat.S_ISCHR(kind) and not os.isatty(fd))


def execute(mode: Mode, name: str, command: list[str]) -> int:
    """Runs a command in a container, which gets our signals; returns its exit code. Raises NetwrapError, BadInput.

    All namespaces where `run` started the container, its root and its directory; else the network's alone.
    """
    with looking(mode) as desk:
        container = desk.state().container(name)
        seen = desk.look_at_all()
    need_root(mode, "entering a namespace")
    is_gone = health.is_gone(container, seen)
    if not container.netns.is_same(seen.handle(name)):
        hint = f"netwrap disconnect {name}" if is_gone else f"netwrap repair {name}"
        raise NetwrapError(f"container {name!r} is gone, or its handle is", hint)
    if container.started and container.pid is not None and not is_gone:
        # One's children alone enter another pid namespace: of the two, only the first stays, and passes signals on.
        pid = str(container.pid)
        words = ["nsenter", "-t", pid, "--pid", "--no-fork", "env", f"{ENTER}={pid}", *_INIT, *command]
    else:  # somebody else's process: its network, with this machine's programs
        if shutil.which(command[0]) is None:
            raise BadInput(f"no command {quoted(command[0])}", f"netwrap exec {name} -- COMMAND…")
        words = ["ip", "netns", "exec", name, *_INIT, *command]
    require(words[:1])
    attended = Attended()
    os.environ |= prompt.environment(command, f"netwrap {name}")
    with handling(attended.signal):
        return attended.run(words)
