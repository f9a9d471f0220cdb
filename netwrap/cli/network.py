"""`netwrap network …`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from netwrap import app as verbs
from netwrap import parse
from netwrap.cli.common import Json, changes, complete_driver, complete_linked, complete_network, mode, show_table
from netwrap.desk import Mode
from netwrap.plan import NetworkWish
from netwrap.views.documents import dumps

app = typer.Typer(help="Create, list, inspect, link and remove networks.", rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="The network's name.", autocompletion=complete_network, show_default=False)]


@app.command()
@changes(shows=True)
def create(
    m: Mode,
    name: Annotated[str, typer.Argument(help="The network's name; its bridge gets it too.", show_default=False)],
    subnet: Annotated[
        str | None, typer.Option(help="CIDR; 10.0.0.1/24 makes 10.0.0.1 the gateway. Left out, a free /24 is chosen.")
    ] = None,
    driver: Annotated[str, typer.Option(help="The kind of network.", autocompletion=complete_driver)] = "bridge",
    gateway: Annotated[str | None, typer.Option(help="The host's address in it; else the first usable one.")] = None,
    ip_range: Annotated[
        str | None, typer.Option(help="Give out addresses of this part of the subnet only (CIDR).")
    ] = None,
    mtu: Annotated[int | None, typer.Option(help="MTU in bytes; else that of the default route's link.")] = None,
    internal: Annotated[bool, typer.Option("--internal", help="No way out, and no published ports.")] = False,
) -> None:
    """Create a network: a bridge with the gateway's address, forwarding rules and a way out."""
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
    )
    verbs.network_create(m, wish)
    if not m.dry_run:
        print(dumps(verbs.network_inspect(m, name)) if m.json else name)


@app.command(name="list")
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


@app.command()
def inspect(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show a network as JSON."""
    print(dumps(verbs.network_inspect(mode(ctx, json=json, shows=True), name)))


@app.command()
@changes()
def remove(
    m: Mode,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="The networks.", autocompletion=complete_network)
    ],
    force: Annotated[bool, typer.Option("--force", help="Disconnect its containers first.")] = False,
) -> None:
    """Remove networks: every step of theirs is taken back, the host's with the last one."""
    names = list(dict.fromkeys(names))
    verbs.network_remove(m, names, force=force)
    if not m.dry_run:
        print("\n".join(names))


@app.command()
@changes()
def link(
    m: Mode,
    a: Annotated[str, typer.Argument(help="A network.", autocompletion=complete_network, show_default=False)],
    b: Annotated[str, typer.Argument(help="Another one.", autocompletion=complete_network, show_default=False)],
) -> None:
    """Let the containers of two networks reach each other, by their own addresses."""
    verbs.network_link(m, a, b)


@app.command()
@changes()
def unlink(
    m: Mode,
    a: Annotated[str, typer.Argument(help="A network.", autocompletion=complete_network, show_default=False)],
    b: Annotated[str, typer.Argument(help="One linked to it.", autocompletion=complete_linked, show_default=False)],
) -> None:
    """Set two linked networks apart again."""
    verbs.network_unlink(m, a, b)
