"""The verbs of the command line. Each is a short list of calls: look, plan, carry out, report."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netwrap import amiss, health, plan, upkeep
from netwrap import drivers as registry
from netwrap.desk import Desk, Mode, watched
from netwrap.errors import BadInput, CommandFailed, NetwrapError, quoted
from netwrap.facts import Facts
from netwrap.look import look_at_handles
from netwrap.model import Container, Endpoint, Netns, Publication, PublishedPort, State, is_name
from netwrap.plan import ConnectWish, NetworkWish
from netwrap.session import changing, reading, says_where
from netwrap.spawn import spawn
from netwrap.undo import Entry, closure, foundation
from netwrap.views import documents, script

ENGINES = ("docker", "podman", "nerdctl")
UNKNOWN = "unknown"
"""The state of objects that exist elsewhere."""

# ---- networks


def network_create(mode: Mode, wish: NetworkWish) -> None:
    """Creates a network."""
    with changing(mode, f"network create {wish.name}") as desk:
        seen = desk.look(way_out=wish.mtu is None)
        desk.carry_out(plan.network_create(wish, seen, desk.state()), seen)


def network_remove(mode: Mode, names: list[str], *, force: bool) -> None:
    """Removes networks; those in use only with `force`, which disconnects their containers first."""
    with changing(mode, f"network remove {' '.join(names)}") as desk:
        for name in names:
            desk.state().network(name)
        upkeep.clear(desk)
        state = desk.state()
        for name in names:
            users = [e.container for e in state.endpoints_of(network=name)]
            if users and not force:
                raise BadInput(
                    f"network {name!r} is in use by {', '.join(users)}", f"netwrap network remove --force {name}"
                )
        desk.take_down(f"network remove {' '.join(names)}", closure([f"network:{n}" for n in names], state.owners))


def networks(mode: Mode) -> list[dict[str, Any]]:
    """Every network as a document."""
    with reading(mode) as desk:
        state, seen = desk.state(), _look(desk)
        return [_network(desk, state, seen, name) for name in state.networks]


def network_inspect(mode: Mode, name: str) -> dict[str, Any]:
    """One network as a document. Raises BadInput."""
    with reading(mode) as desk:
        state = desk.state()
        state.network(name)
        return _network(desk, state, _look(desk), name)


def _look(desk: Desk) -> Facts | None:
    """Looks at everything that netwrap made; None if that is elsewhere, so that nothing is known of it."""
    return None if says_where(desk) else desk.look_at_all()


def _network(desk: Desk, state: State, seen: Facts | None, name: str) -> dict[str, Any]:
    found = state.network(name)
    links = [li.owner for li in state.links if name in (li.a, li.b)]
    entries = desk.store.entries(owners=["host", found.owner, f"published:{name}", *links])
    endpoints = [_endpoint(desk, state, seen, e) for e in state.endpoints_of(network=name)]
    how = health.network_state(found, _is_drifted(entries, seen, state), seen) if seen else UNKNOWN
    return documents.network(found, state, how, endpoints)


def _is_drifted(entries: list[Entry], seen: Facts, state: State) -> bool:
    return health.is_drifted(entries, seen) or amiss.drift(entries, seen, state) != []


def network_link(mode: Mode, one: str, other: str) -> None:
    """Links two networks: their containers can reach each other."""
    with changing(mode, f"network link {one} {other}") as desk:
        seen = desk.look()
        desk.carry_out(plan.network_link((one, other), seen, desk.state()), seen)


def network_unlink(mode: Mode, one: str, other: str) -> None:
    """Removes the link of two networks. Raises BadInput if they are not linked."""
    with changing(mode, f"network unlink {one} {other}") as desk:
        state = desk.state()
        for name in (one, other):
            state.network(name)
        found = next((li for li in state.links if {li.a, li.b} == {one, other}), None)
        if found is None:
            raise BadInput(f"{one} and {other} are not linked", f"netwrap network inspect {one}")
        desk.take_down(f"network unlink {one} {other}", closure([found.owner], state.owners))


# ---- containers


@dataclass(frozen=True)
class Target:
    """Which process or namespace `connect` means: exactly one of the three."""

    pid: int | None = None
    netns: str | None = None
    container: str | None = None


def connect(
    mode: Mode, wish: ConnectWish, target: Target, *, meanwhile: Sequence[str] | None = None
) -> tuple[Endpoint, Container] | None:
    """Connects a process to a network. Return its endpoint and the container, or None for a dry run.

    `meanwhile`: a dry run's script runs that command, and then undoes the steps.
    """
    pid = _pid_of(target.container) if target.container is not None else target.pid
    wish = replace(wish, pid=pid, netns=target.netns)
    with changing(mode, f"connect to {wish.network}") as desk:
        desk.known(wish.network)
        upkeep.clear(desk)
        seen = desk.look([pid] if pid is not None else (), _handles(wish), ports=bool(wish.ports))
        made = plan.connect(wish, seen, desk.state())
        desk.carry_out(made, seen, first=meanwhile is not None)
        if meanwhile is not None:
            desk.show_deferred(made.title, script.Meanwhile(meanwhile, made.steps))
        if mode.dry_run:
            return None
        endpoint = next(m for m in made.makes if isinstance(m, Endpoint))
        return endpoint, desk.state().container(endpoint.container)


def _handles(wish: ConnectWish) -> list[Netns]:
    return [Netns(wish.netns, 0)] if wish.netns is not None else []


def _pid_of(container: str) -> int:
    """Asks the engines on this machine for a container's pid. Raises BadInput, NetwrapError."""
    engines = [engine for engine in ENGINES if shutil.which(engine)]
    if not engines:
        raise NetwrapError(
            f"container {quoted(container)}: none of {', '.join(ENGINES)} is installed", "netwrap connect --pid PID …"
        )
    said, error_type, stopped = [], NetwrapError, list[str]()
    for engine in engines:
        try:
            answer = spawn((engine, "inspect", "--format", "{{.State.Pid}}", "--", container)).strip()
        except CommandFailed as error:
            said.append(f"{engine}: {error.stderr or error}")
            if "cannot connect" not in error.stderr.lower():  # it has looked for the container
                error_type = BadInput
            continue
        if re.fullmatch("[1-9][0-9]{0,9}", answer):
            return int(answer)
        said.append(f"{engine}: it is not running")
        error_type = BadInput
        stopped.append(engine)
    hint = f"{(stopped or engines)[0]} ps -a"
    raise error_type(f"container {quoted(container)}: {'; '.join(said)}", hint)


def disconnect(mode: Mode, name: str | None, pid: int | None, network: str | None) -> None:
    """Disconnects a container from one network, or from all of its networks. Raises BadInput."""
    with changing(mode, f"disconnect {name or f'pid {pid}'}") as desk:
        state = desk.state()
        name = name if name is not None else _name_of_pid(state, pid)
        if network is None and not state.endpoints_of(container=name):  # a teardown that failed has left it
            _take_down_left(desk, name)
        else:
            _disconnect(desk, name, _endpoints(state, name, network))


def disconnect_same(mode: Mode, made: Container, endpoint: Endpoint | None = None) -> bool:
    """Disconnects what a command has made, even if its name has changed: one endpoint of a namespace, or all of them.
    The end of a `run` cannot be undone.

    Return False if nothing of it exists any more.
    """
    kind = "gc" if made.started else "teardown"
    with changing(mode, f"disconnect {made.name}") as desk:
        state = desk.state()
        name = next((c.name for c in state.containers.values() if c.netns.is_same(made.netns)), None)
        if name is None:
            return False
        endpoints = state.endpoints_of(container=name, network=endpoint.network if endpoint else None)
        if endpoint is not None:
            endpoints = tuple(
                e for e in endpoints if (e.ip, e.mac, e.veth) == (endpoint.ip, endpoint.mac, endpoint.veth)
            )
            if not endpoints:
                return False
        if endpoints:
            _disconnect(desk, name, endpoints, kind)
        else:
            _take_down_left(desk, name)
        return True


def _take_down_left(desk: Desk, name: str) -> None:
    state = desk.state()
    desk.take_down(f"disconnect {name}", closure([state.container(name).owner], state.owners))


def _disconnect(desk: Desk, name: str, endpoints: tuple[Endpoint, ...], kind: str = "teardown") -> None:
    state = desk.state()
    networks = ", ".join(e.network for e in endpoints)
    staying = [e.network for e in state.endpoints_of(container=name) if e not in endpoints]
    if staying and any(e.default_route for e in endpoints):
        desk.say(f"# {name} no longer has a default route: it has none through {', '.join(staying)}")
    owners = closure([e.owner for e in endpoints], state.owners)
    desk.take_down(f"disconnect {name} from {networks}", owners, kind=kind)


def _name_of_pid(state: State, pid: int | None) -> str:
    for container in reversed(state.containers.values()):  # an earlier process may have had the number
        if container.pid == pid:
            return container.name
    raise BadInput(f"process {pid} is not connected", "netwrap ps")


def _endpoints(state: State, name: str, network: str | None) -> tuple[Endpoint, ...]:
    state.container(name)
    if network is not None:
        state.network(network)
    found = state.endpoints_of(container=name, network=network)
    if not found:
        raise BadInput(f"{name} is not connected to {network or 'any network'}", "netwrap ps")
    return found


def publish(mode: Mode, name: str, ports: tuple[PublishedPort, ...], network: str | None) -> None:
    """Publishes ports of a container, on its first network if none is named."""
    with changing(mode, f"publish {name}") as desk:
        state = desk.state()
        endpoint, container = _endpoints(state, name, network)[0], state.container(name)
        seen = desk.look(watched([container]), [container.netns], ports=True)
        if health.is_gone(container, seen):
            raise BadInput(f"container {name!r} is gone", f"netwrap disconnect {name}")
        if upkeep.clear(desk):
            state, seen = desk.state(), desk.look(ports=True)
        desk.carry_out(plan.publish(endpoint, ports, seen, state), seen)


def unpublish(mode: Mode, name: str, ports: tuple[PublishedPort, ...], network: str | None) -> None:
    """Stops publishing ports."""
    with changing(mode, f"unpublish {name}") as desk:
        state = desk.state()
        endpoints = _endpoints(state, name, network)
        owners = [_publication(state, endpoints, port).owner for port in ports]
        desk.take_down(f"unpublish {name} {' '.join(p.spec for p in ports)}", closure(owners, state.owners))


def _publication(state: State, endpoints: Iterable[Endpoint], port: PublishedPort) -> Publication:
    for endpoint in endpoints:
        for published in state.ports_of(endpoint):
            if published.spec == port.spec:
                return Publication(endpoint.container, endpoint.network, published)
    name = next(iter(endpoints)).container
    raise BadInput(f"{name} does not publish {port.said}", "netwrap ps")


def ps(mode: Mode) -> list[dict[str, Any]]:
    """Every endpoint as a document."""
    with reading(mode) as desk:
        state, seen = desk.state(), _look(desk)
        return [_endpoint(desk, state, seen, e) for e in state.endpoints]


def _endpoint(desk: Desk, state: State, seen: Facts | None, found: Endpoint) -> dict[str, Any]:
    container = state.container(found.container)
    ports = [p.owner for p in state.publications if (p.container, p.network) == (found.container, found.network)]
    place = f"{found.container}/{found.network}"
    built_upon = foundation([found.owner, *ports])  # a container whose network has drifted may reach nobody
    owners = [*built_upon, f"hairpin:{place}", f"replies:{place}"]
    owners += [owner for owner in state.owners if owner.startswith(f"self:{place}/")]
    entries = desk.store.entries(owners=owners)
    how = health.container_state(container, _is_drifted(entries, seen, state), seen) if seen else UNKNOWN
    return documents.endpoint(found, container, state, how)


# ---- names, for completion


def standing(mode: Mode) -> State:
    """The state, for completion; an empty one if it cannot be read."""
    try:
        with reading(mode) as desk:
            return desk.state()
    except NetwrapError:
        return State()


def handles() -> list[str]:
    """The handles in /run/netns, for completion."""
    return sorted(filter(is_name, look_at_handles()))


def drivers() -> list[str]:
    """The drivers that are installed, for completion."""
    return registry.names()
