"""Steps on links: `ip link` (ip-link(8)). Probes know a link by name and MAC: no foreign link passes for netwrap's."""

from __future__ import annotations

from dataclasses import replace

from netwrap.model import LINK_GROUP, Netns
from netwrap.steps import SHELL_PID, Cmd, Probe, Step

LOOPBACK_MAC = "00:00:00:00:00:00"


def add_bridge(name: str, mac: str, why: str) -> Step:
    """Makes a bridge with its MAC and netwrap's group in one command: it is marked from the first moment."""
    return Step(
        "link add",
        Cmd(("ip", "link", "add", "name", name, "address", mac, "group", str(LINK_GROUP), "type", "bridge")),
        Cmd(("ip", "link", "del", "dev", name)),
        Probe("link", (name, mac)),
        why,
    )


def add_veth(name: str, mac: str, peer: str, peer_mac: str, mtu: int, why: str) -> Step:
    """Makes a veth pair on the host (veth(4)); deleting one end deletes both."""
    outer = ("name", name, "address", mac, *_mtu(mtu), "group", str(LINK_GROUP))
    inner = ("name", peer, "address", peer_mac, *_mtu(mtu))
    return Step(
        "link add",
        Cmd(("ip", "link", "add", *outer, "type", "veth", "peer", *inner)),
        Cmd(("ip", "link", "del", "dev", name)),
        Probe("link", (name, mac)),
        why,
    )


def set_mtu(name: str, mac: str, mtu: int, old: int, why: str) -> Step:
    """Sets a link's MTU, in bytes. A bridge keeps an MTU that is set; one given at creation changes with its ports."""
    return Step(
        "link mtu",
        Cmd(("ip", "link", "set", "dev", name, "mtu", str(mtu))),
        Cmd(("ip", "link", "set", "dev", name, "mtu", str(old))),
        Probe("mtu", (name, mac, str(mtu))),
        why,
    )


def set_up(name: str, mac: str, why: str, ns: Netns | None = None) -> Step:
    """Brings up a link that was down."""
    return Step(
        "link up",
        Cmd(("ip", "link", "set", "dev", name, "up"), ns),
        Cmd(("ip", "link", "set", "dev", name, "down"), ns),
        Probe("up", (name, mac), ns),
        why,
    )


def set_down(name: str, mac: str, why: str, ns: Netns | None = None) -> Step:
    """Takes down a link that was up, for a moment."""
    up = set_up(name, mac, why, ns)
    assert up.undo is not None
    return Step("link down", up.undo, up.do, Probe("passing", (name, mac), ns), why)


def delete(name: str, mac: str, again: Cmd, why: str, ns: Netns | None = None) -> Step:
    """Deletes one end of a cable whose other end is lost; its inverse is the command `again`, which makes the cable."""
    return Step("link del", Cmd(("ip", "link", "del", "dev", name), ns), again, Probe("passing", (name, mac), ns), why)


def rename(old: str, new: str, mac: str, why: str, ns: Netns | None = None) -> Step:
    """Renames a link that is down: not every kernel renames one that is up (net/core/dev.c)."""
    return Step(
        "link name",
        Cmd(("ip", "link", "set", "dev", old, "name", new), ns),
        Cmd(("ip", "link", "set", "dev", new, "name", old), ns),
        Probe("link", (new, mac), ns),
        why,
    )


def set_address(name: str, mac: str, old: str, why: str, ns: Netns | None = None) -> Step:
    """Restores a link's MAC."""
    return _mark(("address", mac), ("address", old), name, mac, why, ns)


def set_group(name: str, mac: str, old: str, why: str) -> Step:
    """Restores netwrap's group on a link of the host."""
    return _mark(("group", str(LINK_GROUP)), ("group", old), name, mac, why, None)


def _mark(mine: tuple[str, ...], old: tuple[str, ...], name: str, mac: str, why: str, ns: Netns | None) -> Step:
    words = ("ip", "link", "set", "dev", name)
    return Step("link mark", Cmd((*words, *mine), ns), Cmd((*words, *old), ns), Probe("link", (name, mac), ns), why)


def resize(name: str, mac: str, mtu: int, old: int, why: str, ns: Netns | None = None) -> Step:
    """Restores a link's MTU, in bytes, after somebody has changed it."""
    step = set_mtu(name, mac, mtu, old, why)
    assert step.undo is not None
    do, undo = replace(step.do, ns=ns), replace(step.undo, ns=ns)
    return replace(step, kind="link size", do=do, undo=undo, probe=replace(step.probe, ns=ns))


def called(step: Step, name: str) -> Step:
    """The step that deletes a link, under the name that somebody has given it."""
    do = replace(step.do, argv=(*step.do.argv[:-1], name))
    return replace(step, do=do, probe=replace(step.probe, key=(name, *step.probe.key[1:])))


def set_master(name: str, mac: str, bridge: str, why: str) -> Step:
    """Plugs a link that has no master into a bridge."""
    return Step(
        "link master",
        Cmd(("ip", "link", "set", "dev", name, "master", bridge)),
        Cmd(("ip", "link", "set", "dev", name, "nomaster")),
        Probe("master", (name, mac, bridge)),
        why,
    )


def set_hairpin(name: str, mac: str, why: str) -> Step:
    """Lets a bridge send a frame back out of the port where it came in (bridge(8), hairpin)."""
    return Step(
        "link hairpin",
        Cmd(("ip", "link", "set", "dev", name, "type", "bridge_slave", "hairpin", "on")),
        Cmd(("ip", "link", "set", "dev", name, "type", "bridge_slave", "hairpin", "off")),
        Probe("hairpin", (name, mac)),
        why,
    )


def move(name: str, mac: str, ns: Netns, ifname: str, why: str) -> Step:
    """Moves a link from the host into a namespace and gives it its name there, in one command."""
    return Step(
        "link netns",
        Cmd(("ip", "link", "set", "dev", name, "netns", ns.name, "name", ifname)),
        Cmd(("ip", "link", "set", "dev", ifname, "netns", SHELL_PID, "name", name), ns),
        Probe("link", (ifname, mac), ns),
        why,
    )


def _mtu(mtu: int) -> tuple[str, ...]:
    """The words for an MTU in bytes; none for 1500, the kernel's default."""
    return () if mtu == 1500 else ("mtu", str(mtu))
