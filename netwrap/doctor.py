"""What is wrong with this machine, as far as container networks go: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from netwrap import firewall
from netwrap.facts import Facts, Rule, holds, same_rule
from netwrap.health import is_gone
from netwrap.model import LINK_GROUP, PublishedPort, State
from netwrap.steps import shell_line
from netwrap.undo import Entry


@dataclass(frozen=True)
class Finding:
    """One thing: what is so, why it matters, and the command that mends it. A note needs no mending."""

    name: str
    what: str
    why: str
    mend: str
    wrong: bool = True


@dataclass(frozen=True)
class Hook:
    """A base chain of nftables that sees every packet of its hook, apart from iptables' own (nft(8))."""

    family: str
    table: str
    chain: str
    hook: str
    policy: str


@dataclass(frozen=True)
class Machine:
    """What only the doctor asks, beside the Facts."""

    missing: dict[str, str] = field(default_factory=dict)
    """Programs that are not installed, with their packages."""
    unable: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What the kernel does not do: the command that was tried in a throw-away namespace, and what it said."""
    other_backend: tuple[str, ...] = ()
    """Tables with rules in the backend that `iptables` does not use, and its name first."""
    backend: str = ""
    hooks: tuple[Hook, ...] = ()
    rp_filter: dict[str, str] = field(default_factory=dict)
    bridges_filtered: bool = False
    """net.bridge.bridge-nf-call-iptables"""
    grabs: tuple[tuple[str, str, str], ...] = ()
    """A network manager, the link that it would take for its own, and the file that says so."""
    no_user_namespaces: str = ""
    """The setting that forbids them."""


def findings(machine: Machine, seen: Facts, state: State, entries: Iterable[Entry]) -> list[Finding]:
    """Everything that is wrong, and what is only worth knowing."""
    standing = [e for e in entries if e.state != "undone"]
    return [
        *_tools(machine),
        *_forwarding(seen, state),
        *_forward_policy(machine, seen, state, standing),
        *_settings(machine, seen, state),
        *_backends(machine),
        *_overlaps(seen, state),
        *_managers(machine),
        *_dead(seen, state),
        *_lost(seen, standing),
        *_shadowed(seen, state),
    ]


def _tools(machine: Machine) -> Iterator[Finding]:
    for tool, package in machine.missing.items():
        yield Finding(
            "missing tool",
            f"{tool!r} is not installed",
            "UDP traffic is led the old way for a while after a port is published or taken back."
            if tool == "conntrack"
            else "netwrap runs it.",
            f"sudo apt-get install {package}",
        )
    for feature, (command, said) in machine.unable.items():
        yield Finding(
            "kernel feature",
            f"this kernel does not do {feature}: {command}: {said}",
            "A step of netwrap's plans needs it.",
            f"modprobe -a {_MODULES.get(feature, feature)}",
        )


_MODULES = {"NAT": "iptable_nat xt_addrtype xt_comment", "connection tracking": "nf_conntrack xt_conntrack"}


def _forwarding(seen: Facts, state: State) -> Iterator[Finding]:
    for name in ("all", *(n.bridge for n in state.networks.values() if not n.internal)):
        key = f"net.ipv4.conf.{name}.forwarding"
        if seen.sysctls.get(key) == "0":
            yield Finding(
                "ip_forward",
                f"{key} is 0" + (" (net.ipv4.ip_forward)" if name == "all" else ""),
                "The host passes no packets on: containers reach neither each other's networks nor the outside, and "
                "published ports answer nobody."
                if state.networks
                else "The host passes no packets on. The first network here turns it on, the last one off again.",
                f"sysctl {key}=1" if state.networks else f"sysctl {key}  # nothing to mend",
                wrong=bool(state.networks),
            )


def _forward_policy(machine: Machine, seen: Facts, state: State, standing: list[Entry]) -> Iterator[Finding]:
    if not seen.rules_seen:
        return
    of_host = (e.step for e in standing if e.step.owner == "host")
    jump = next((step for step in of_host if step.probe.key[:2] == ("filter", "FORWARD")), None)
    if jump is not None and holds(jump.probe, seen) is False:
        policy = seen.policies.get(("filter", "FORWARD"), "ACCEPT")
        yield Finding(
            "FORWARD",
            f"the rule that leads from FORWARD to netwrap's chain is gone; FORWARD has policy {policy} "
            f"({firewall.by_whom(seen, 'FORWARD')})",
            "Nobody is let in or kept out by netwrap any more: containers reach nothing, or everybody reaches them.",
            jump.do.text(),
        )
    elif jump is not None and jump.undo is not None and (rule := _in_front(seen, jump.probe.key[2:])):
        yield Finding(
            "FORWARD",
            f"forwarded packets are turned away before they meet netwrap's chain: {rule}",
            "Containers reach nothing behind the host, and published ports answer nobody.",
            f"{jump.undo.text()}; {jump.do.text()}",
        )
    elif guard := firewall.guard(seen, "FORWARD"):
        yield Finding(
            "FORWARD",
            f"forwarded packets are turned away ({guard}), set up by: {firewall.by_whom(seen, 'FORWARD')}",
            "It cuts off the bridges of others. Those of netwrap do not suffer: its chain decides first."
            if state.networks
            else "It does not concern networks of netwrap: their chain will decide first.",
            "iptables -S FORWARD  # nothing to mend",
            wrong=False,
        )
    for hook in machine.hooks:
        if hook.hook == "forward" and hook.policy == "drop":
            where = f"{hook.family} {hook.table} {hook.chain}"
            bridges = " ".join(n.bridge for n in state.networks.values()) or "BRIDGE"
            yield Finding(
                "FORWARD",
                f"nftables chain {where} drops forwarded packets that none of its rules accepts",
                "A packet has to pass every table: what netwrap accepts is dropped there all the same (nft(8)).",
                " && ".join(
                    f"nft insert rule {where} {way} {bridge} accept"
                    for bridge in bridges.split()
                    for way in ("iifname", "oifname")
                ),
            )


def _in_front(seen: Facts, jump: Rule) -> str:
    """A rule that turns every packet away in front of our jump from FORWARD."""
    for rule in seen.rules.get(("filter", "FORWARD"), ()):
        if same_rule(rule, jump):
            break
        if firewall.target(rule) in ("DROP", "REJECT") and not firewall.conditions(rule):
            return f"-A FORWARD {shell_line(rule)}"
    return ""


def _settings(machine: Machine, seen: Facts, state: State) -> Iterator[Finding]:
    uplinks = {r.dev for r in seen.host.routes if r.dst == "default" and r.dev}
    watched = {n.bridge for n in state.networks.values()} | uplinks
    for name in sorted(name for name, value in machine.rp_filter.items() if value == "1" and name in {*watched, "all"}):
        yield Finding(
            "rp_filter",
            f"net.ipv4.conf.{name}.rp_filter is 1 (strict)",
            "A packet is dropped without a word where its answer would leave by another link: hosts with two ways out "
            "lose connections to published ports. netwrap's own networks do not need it loose.",
            f"sysctl net.ipv4.conf.{name}.rp_filter=2",
            wrong=len(uplinks) > 1,
        )
    if machine.bridges_filtered:
        yield Finding(
            "br_netfilter",
            "net.bridge.bridge-nf-call-iptables is 1: frames between two containers of one bridge pass FORWARD too",
            "Bridges of others may be cut off by a FORWARD policy of DROP. netwrap has rules for its own.",
            "sysctl net.bridge.bridge-nf-call-iptables  # nothing to mend; Kubernetes needs it on",
            wrong=False,
        )
    if machine.no_user_namespaces:
        yield Finding(
            "user namespaces",
            f"ordinary users may not make user namespaces here: {machine.no_user_namespaces}",
            "`netwrap sandbox` and `netwrap demo` need root then.",
            f"sysctl {_allowing(machine.no_user_namespaces)}  # or: sudo netwrap sandbox",
            wrong=False,
        )


def _allowing(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key}={'0' if value == '1' else '15000' if key.startswith('user.') else '1'}"


def _backends(machine: Machine) -> Iterator[Finding]:
    if machine.other_backend:
        other, *tables = machine.other_backend
        yield Finding(
            "iptables backends",
            f"iptables is the {machine.backend} one here, and there are rules of the {other} one too "
            f"(table {', '.join(tables)})",
            "A packet has to pass both, and each shows its own rules only: what netwrap accepts may be dropped by "
            "a rule that `iptables -S` does not show.",
            f"iptables-{other}-save  # whose are they? one backend for all: update-alternatives --config iptables",
        )


def _overlaps(seen: Facts, state: State) -> Iterator[Finding]:
    for network in state.networks.values():
        for route in seen.host.routes:
            if route.dst == "default" or route.dev in (network.bridge, None) or ":" in route.dst:
                continue
            net = IPv4Network(route.dst, strict=False)
            if net.prefixlen > 1 and net.overlaps(network.subnet):
                yield Finding(
                    "overlap",
                    f"network {network.name!r} ({network.subnet}) overlaps a route of this machine: {route.dst} dev "
                    f"{route.dev}",
                    "Packets go by the narrower of the two: the containers, or that LAN or VPN, cannot be reached.",
                    f"netwrap network remove --force {network.name}  # and create it again without --subnet",
                )


def _managers(machine: Machine) -> Iterator[Finding]:
    for manager, link, file in machine.grabs:
        mend = (
            "printf '[keyfile]\\nunmanaged-devices=interface-name:veth*;interface-name:peer*;"
            f"interface-name:{link}\\n' | sudo tee /etc/NetworkManager/conf.d/netwrap.conf && nmcli general reload"
            if manager == "NetworkManager"
            else f"printf '[Match]\\nName=veth* peer* {link}\\n\\n[Link]\\nUnmanaged=yes\\n' | sudo tee "
            "/etc/systemd/network/05-netwrap.network && networkctl reload"
        )
        yield Finding(
            "network manager",
            f"{manager} takes {link} for its own ({file})",
            "It may give the link other addresses, or take away ours, at any time.",
            mend,
        )


def _dead(seen: Facts, state: State) -> Iterator[Finding]:
    for container in state.containers.values():
        if is_gone(container, seen):
            who = f"process {container.pid}" if container.pid else "its namespace"
            yield Finding(
                "leftover",
                f"container {container.name!r} is gone ({who} has ended); its address, link and rules are still there",
                "The address is not given out again, and a port that it published leads nowhere.",
                f"netwrap disconnect {container.name}",
            )


def _lost(seen: Facts, standing: list[Entry]) -> Iterator[Finding]:
    """What bears our mark and is in no journal of this state."""
    links = {e.step.probe.key[0] for e in standing if e.step.probe.kind == "link" and e.step.probe.ns is None}
    why = "It bears netwrap's mark, and this state does not know it: another one (--state-dir) may, or a lost one did."
    for name, link in seen.host.links.items():
        if link.group == str(LINK_GROUP) and name not in links:
            yield Finding("leftover", f"link {name} is nobody's", why, f"ip link del dev {name}")
    rules = [e.step.probe.key for e in standing if e.step.probe.kind == "rule"]
    for (table, chain), found in seen.rules.items():
        ours = [key[2:] for key in rules if key[:2] == (table, chain)]
        for rule in found:
            if firewall.is_ours(rule) and not any(same_rule(rule, known) for known in ours):
                line = shell_line(("iptables", "-w", "-t", table, "-D", chain, *rule))
                yield Finding("leftover", f"a rule in {chain} ({table}) is nobody's: {' '.join(rule)}", why, line)


def _shadowed(seen: Facts, state: State) -> Iterator[Finding]:
    for publication in state.publications:
        for listener in seen.listeners:
            taken = PublishedPort(listener.port, listener.port, listener.protocol, 1, listener.ip)
            if publication.port.clashes(taken):
                where = f"{listener.ip or '*'}:{listener.port}/{listener.protocol}"
                yield Finding(
                    "shadowed port",
                    f"{publication.port.spec} of {publication.container}: a socket of this host listens on {where} too",
                    "Who calls that port reaches the container, and never the service that listens there.",
                    f"ss -lnp 'sport = :{listener.port}'  # who listens; or: netwrap unpublish "
                    f"{publication.container} {publication.port.spec}",
                )
