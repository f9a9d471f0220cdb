"""`netwrap connect`, `disconnect`, `publish`, `unpublish`, `ps`, `run` and `exec`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import typer

from netwrap import app as verbs
from netwrap import model, parse, supervise
from netwrap.app import Target
from netwrap.cli.common import (
    Json,
    changes,
    complete_container,
    complete_netns,
    complete_network,
    complete_published,
    mode,
    number_of,
    show_table,
)
from netwrap.cli.help import Command
from netwrap.desk import Mode
from netwrap.errors import BadInput
from netwrap.plan import ConnectWish
from netwrap.views.documents import dumps

SPEC = "[HOSTIP:]HOSTPORT[-END]:PORT[-END][/tcp|/udp|/sctp]"

Net = Annotated[
    str,
    typer.Option("--net", metavar="NETWORK", help="The network.", autocompletion=complete_network, show_default=False),
]
SomeNet = Annotated[
    str | None,
    typer.Option(
        "--net", metavar="NETWORK", help="The network, if the container is on several.", autocompletion=complete_network
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The container.", autocompletion=complete_container)]
NewName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="The container's name, also in /run/netns. Default: c-XXXXXXXX."),
]
Publish = Annotated[
    list[str] | None,
    typer.Option("-p", "--publish", metavar="SPEC", help=f"Publish a port: {SPEC}. Repeatable."),
]
AllowFrom = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CIDR", help="Only this source and this host may use the ports. Repeatable. Default: everybody."
    ),
]
Specs = Annotated[list[str], typer.Argument(metavar="SPEC...", help=SPEC)]


@changes(shows=True)
def connect(
    m: Mode,
    net: Net,
    pid: Annotated[
        int | None,
        typer.Option(metavar="PID", parser=number_of, help="A process with its own network namespace."),
    ] = None,
    netns: Annotated[
        str | None, typer.Option(metavar="NAME", help="A namespace in /run/netns.", autocompletion=complete_netns)
    ] = None,
    container: Annotated[
        str | None, typer.Option(metavar="ID", help="A container of docker, podman or nerdctl.")
    ] = None,
    name: NewName = None,
    ip: Annotated[str | None, typer.Option(metavar="IP", help="Its address. Default: the next free one.")] = None,
    mac: Annotated[
        str | None, typer.Option(metavar="MAC", help="Its MAC address. Default: derived from its address.")
    ] = None,
    ifname: Annotated[
        str | None, typer.Option(metavar="NAME", help="The name of its interface. Default: eth0, eth1, …")
    ] = None,
    publish: Publish = None,
    allow_from: AllowFrom = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Stay in the foreground; disconnect when the process ends.")
    ] = False,
) -> None:
    """Connect a process to a network; print its address.

    Give exactly one of --pid, --netns and --container. A process may be on several networks; its default route is
    through the first one.
    """
    if sum(given is not None for given in (pid, netns, container)) != 1:
        raise BadInput(
            "connect needs exactly one of --pid, --netns and --container", "netwrap connect --net NETWORK --pid PID"
        )
    if hold and pid is None:
        raise BadInput(
            "--hold waits for a process to end: it needs --pid", "netwrap connect --net NETWORK --pid PID --hold"
        )
    wish = ConnectWish(
        net,
        name=parse.container_name(name) if name is not None else None,
        ip=parse.ip_address(ip) if ip is not None else None,
        mac=parse.mac_address(mac) if mac is not None else None,
        mac_typed=mac,
        ifname=parse.link_name(ifname) if ifname is not None else None,
        ports=_ports(publish or [], allow_from),
    )
    if hold and pid is not None:
        supervise.connect_and_hold(m, wish, pid, lambda endpoint: _show(m, endpoint))
    elif made := verbs.connect(m, wish, Target(pid, netns, container)):
        _show(m, made[0])


def _show(m: Mode, endpoint: model.Endpoint) -> None:
    if m.json:
        places = verbs.ps(m)
        print(
            dumps(next(e for e in places if (e["name"], e["net"]) == (endpoint.container, endpoint.network))),
            flush=True,
        )
    else:
        print(endpoint.ip, flush=True)


@changes()
def disconnect(
    m: Mode,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The container.", autocompletion=complete_container)
    ] = None,
    pid: Annotated[
        int | None, typer.Option(metavar="PID", parser=number_of, help="Its process, instead of its name.")
    ] = None,
    net: SomeNet = None,
) -> None:
    """Disconnect a container.

    From all of its networks, or from the one that --net names.
    """
    if (name is None) == (pid is None):
        raise BadInput("disconnect needs either a container's name or --pid", "netwrap ps")
    verbs.disconnect(m, name, pid, net)


@changes()
def publish(
    m: Mode,
    name: Name,
    specs: Specs,
    allow_from: AllowFrom = None,
    net: SomeNet = None,
) -> None:
    """Publish ports of a container on the host.

    Outside clients reach them at the host's addresses; the host itself also reaches them at 127.0.0.1.
    """
    verbs.publish(m, name, _ports(specs, allow_from), net)


@changes()
def unpublish(
    m: Mode,
    name: Name,
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC...", help="As they were published.", autocompletion=complete_published)
    ],
    net: SomeNet = None,
) -> None:
    """Stop publishing ports."""
    verbs.unpublish(m, name, _ports(specs), net)


def ps(ctx: typer.Context, json: Json = False) -> None:
    """List the containers and their addresses.

    A container on two networks has two lines. STATE is `up`, `drifted` (another program or user has undone a step) or
    `gone` (the process has exited).
    """
    found = verbs.ps(mode(ctx, json=json, shows=True))
    if json:
        print(dumps(found))
        return
    head = ("NAME", "PID", "NETWORK", "IP", "IFNAME", "VETH", "PORTS", "STATE")
    keys = ("name", "pid", "net", "ip", "ifname", "veth")
    rows = [[*(e[k] for k in keys), " ".join(_published(e)), e["state"]] for e in found]
    show_table(head, rows, drop=("VETH", "IFNAME", "PID"))


def _published(endpoint: dict[str, Any]) -> Iterator[str]:
    """Its ports, each with the sources that may use it unless that is everybody."""
    for spec in endpoint["ports"]:
        allowed = endpoint["allow_from"].get(spec)
        yield f"{spec} from {','.join(allowed)}" if allowed else spec


@changes()
def run(
    m: Mode,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")],
    net: Net,
    name: NewName = None,
    publish: Publish = None,
    allow_from: AllowFrom = None,
    dns: Annotated[
        list[str] | None,
        typer.Option(metavar="IP", help="Name server for the container. Default: the host's. Repeatable."),
    ] = None,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Run it in the background; print its name.")] = False,
) -> None:
    """Run a command as a container on a network.

    It gets new net, mount, pid and uts namespaces, starts when its network is up, and is disconnected when it exits.
    netwrap exits with the command's exit code.
    """
    wish = ConnectWish(
        net,
        name=parse.container_name(name) if name is not None else None,
        ports=_ports(publish or [], allow_from),
    )
    servers = [str(parse.ip_address(ip, "name server")) for ip in dns or []]
    raise typer.Exit(supervise.run(m, wish, command, detach=detach, dns=servers))


def exec_(
    ctx: typer.Context,
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")],
) -> None:
    """Run a command inside a container.

    netwrap exits with the command's exit code.
    """
    raise typer.Exit(supervise.execute(mode(ctx), name, command))


def _ports(specs: list[str], allow_from: list[str] | None = None) -> tuple[model.PublishedPort, ...]:
    allowed = tuple(dict.fromkeys(parse.allowed(cidr) for cidr in allow_from or ()))
    if allowed and not specs:
        raise BadInput("--allow-from needs a published port, and there is none", "netwrap publish --help")
    if any(net.prefixlen == 0 for net in allowed):  # everybody: the same as no --allow-from
        allowed = ()
    return tuple(replace(parse.published_port(spec), allow_from=allowed) for spec in specs)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for function in (connect, disconnect, publish, unpublish, ps, run):
        app.command(cls=Command)(function)
    app.command(name="exec", cls=Command)(exec_)
