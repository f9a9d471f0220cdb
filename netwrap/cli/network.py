"""`netwrap network …`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from netwrap import app as verbs
from netwrap import parse
from netwrap.cli.common import (
    Json,
    changes,
    complete_driver,
    complete_linked,
    complete_network,
    mode,
    number_of,
    show_table,
)
from netwrap.cli.help import Command, Group, show_if_alone
from netwrap.desk import Mode
from netwrap.plan import NetworkWish
from netwrap.views.documents import dumps

app = typer.Typer(cls=Group, rich_markup_mode=None, invoke_without_command=True)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The network.", autocompletion=complete_network, show_default=False)
]


@app.callback()
def network(ctx: typer.Context) -> None:
    """Create, list, inspect, link and remove networks."""
    show_if_alone(ctx)


@app.command(cls=Command)
@changes(shows=True)
def create(
    m: Mode,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new network; its bridge gets the same name.")],
    subnet: Annotated[
        str | None,
        typer.Option(metavar="CIDR", help="Its subnet; 10.0.0.1/24 makes 10.0.0.1 the gateway. Default: a free /24."),
    ] = None,
    driver: Annotated[
        str, typer.Option(metavar="DRIVER", help="The kind of network.", autocompletion=complete_driver)
    ] = "bridge",
    gateway: Annotated[
        str | None, typer.Option(metavar="IP", help="The host's address in it. Default: the first one.")
    ] = None,
    ip_range: Annotated[
        str | None, typer.Option(metavar="CIDR", help="Give containers only addresses from this part of the subnet.")
    ] = None,
    mtu: Annotated[
        int | None,
        typer.Option(metavar="BYTES", parser=number_of, help="MTU. Default: the MTU of the default route's link."),
    ] = None,
    internal: Annotated[
        bool, typer.Option("--internal", help="No way out of the network, and no published ports.")
    ] = False,
) -> None:
    """Create a network.

    It is a bridge with the gateway's address, with rules for forwarding, and with masquerading for outgoing packets.
    """
    parse.network_name(name)
    net, host_bits = parse.subnet(subnet) if subnet is not None else (None, None)
    wish = NetworkWish(
        name,
        driver,
        net,
        parse.ip_address(gateway, "gateway") if gateway is not None else host_bits,
        parse.address_range(ip_range) if ip_range is not None else None,
        mtu,
        internal,
        {k: v for k, v in {"subnet": subnet, "gateway": gateway, "ip_range": ip_range}.items() if v is not None},
    )
    verbs.network_create(m, wish)
    if not m.dry_run:
        print(dumps(verbs.network_inspect(m, name)) if m.json else name)


@app.command(name="list", cls=Command)
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List the networks."""
    found = verbs.networks(mode(ctx, json=json, shows=True))
    if json:
        print(dumps(found))
        return
    head = ["NAME", "SUBNET", "GATEWAY", "DRIVER", "BRIDGE", "CONTAINERS", "STATE"]
    keys = ("name", "subnet", "gateway", "driver", "bridge")
    rows = [[*(n[k] for k in keys), len(n["endpoints"]), n["state"]] for n in found]
    notes = [" ".join(_notes(n)) for n in found]
    if any(notes):
        head.append("NOTES")
        rows = [[*row, note] for row, note in zip(rows, notes, strict=True)]
    show_table(head, rows, drop=("BRIDGE", "DRIVER", "GATEWAY"))


def _notes(network: dict[str, Any]) -> Iterator[str]:
    """What is special about a network."""
    if network["internal"]:
        yield "internal"
    if network["links"]:
        yield f"linked to {','.join(network['links'])}"


@app.command(cls=Command)
def inspect(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show a network as JSON."""
    print(dumps(verbs.network_inspect(mode(ctx, json=json, shows=True), name)))


@app.command(cls=Command)
@changes()
def remove(
    m: Mode,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="The networks.", autocompletion=complete_network)
    ],
    force: Annotated[bool, typer.Option("--force", help="Disconnect their containers first.")] = False,
) -> None:
    """Remove networks.

    Undoes every step that made them. With the last network, the host's own settings such as forwarding are undone too.
    """
    names = list(dict.fromkeys(names))
    verbs.network_remove(m, names, force=force)
    if not m.dry_run:
        print("\n".join(names))


@app.command(cls=Command)
@changes()
def link(
    m: Mode,
    a: Annotated[
        str, typer.Argument(metavar="A", help="A network.", autocompletion=complete_network, show_default=False)
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Another network.", autocompletion=complete_network, show_default=False)
    ],
) -> None:
    """Let the containers of two networks reach each other."""
    verbs.network_link(m, a, b)


@app.command(cls=Command)
@changes()
def unlink(
    m: Mode,
    a: Annotated[
        str, typer.Argument(metavar="A", help="A network.", autocompletion=complete_network, show_default=False)
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B", help="The network that it is linked to.", autocompletion=complete_linked, show_default=False
        ),
    ],
) -> None:
    """Isolate two linked networks from each other again."""
    verbs.network_unlink(m, a, b)
