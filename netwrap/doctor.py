"""What is wrong with this machine, as far as container networks go: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from netwrap import firewall, nft, roads, strangers
from netwrap.drift import REPAIR, Finding, drifted, jump_of, left_over, once, some_of
from netwrap.facts import Facts, holds
from netwrap.health import drifted as drifted_entries
from netwrap.model import Network, PublishedPort, State
from netwrap.passage import Fate, Meets
from netwrap.steps import shell_line, sysctl
from netwrap.undo import Entry


@dataclass(frozen=True)
class Machine:
    """What only the doctor asks, beside the Facts."""

    missing: dict[str, str] = field(default_factory=dict)
    """Programs that are not installed, with their packages."""
    unable: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What the kernel does not do: the command that was tried in a throw-away namespace, and what it said."""
    other_backend: tuple[str, ...] = ()
    """Tables with rules or policies in the backend that `iptables` does not use, and its name first."""
    backend: str = ""
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
    off = {key: name for name in _forwarders(seen, state) if seen.sysctls.get(key := _forwarding_of(name)) == "0"}
    found = [
        *_tools(machine),
        *_forwarding(off, state),
        *drifted(standing, seen, state, off),
        *_forward_policy(seen, state, standing),
        *_in_nftables(seen, state),
        *_of_others(seen, state, standing),
        *_settings(machine, seen, state),
        *_backends(machine),
        *roads.findings(seen, state, standing),
        *_managers(machine, state),
        *left_over(standing, seen, state),
        *_shadowed(seen, state),
        *_moved(seen, state),
    ]
    return once(found)


def _tools(machine: Machine) -> Iterator[Finding]:
    for tool, package in machine.missing.items():
        yield Finding(
            "missing tool",
            f"{tool!r} is not installed",
            _FOR.get(tool, "netwrap runs it."),
            f"sudo apt-get install {package}",
            wrong=tool != "ping",
        )
    for feature, (command, said) in machine.unable.items():
        yield Finding(
            "kernel feature",
            f"this kernel does not do {feature}: {command}: {said}",
            "netwrap needs it.",
            f"modprobe -a {_MODULES.get(feature, feature)}",
        )


_FOR = {
    "conntrack": "Connections outlive their port or address: UDP takes the old way, TCP continues after `unpublish`.",
    "ping": "`netwrap check` needs it.",
}
_MODULES = {"NAT": "iptable_nat xt_addrtype xt_comment", "connection tracking": "nf_conntrack xt_conntrack"}


def _forwarders(seen: Facts, state: State) -> list[str]:
    """What has to forward: the host, the bridges, and the links by which answers from outside come."""
    bridges = [n.bridge for n in state.networks.values() if not n.internal]
    return ["all", *bridges, *(sorted(_uplinks(seen)) if bridges else [])]


def _uplinks(seen: Facts) -> set[str]:
    return {r.dev for r in seen.host.routes if r.dst == "default" and r.dev}


def _forwarding_of(name: str) -> str:
    return sysctl.of_link(name, "forwarding")


def _forwarding(off: dict[str, str], state: State) -> Iterator[Finding]:
    """`off`: the keys that are 0, and whose they are."""
    everything = _forwarding_of("all")
    for key, name in off.items():
        if everything in off and name != "all":  # turning it on for all turns it on for each (ip-sysctl.rst)
            continue
        if name != "all":
            why = f"The host does not forward what comes in on {name}: connections of containers through it break."
        elif state.networks:
            why = (
                "The host forwards no packets: containers reach neither other networks nor the outside, and "
                "nobody reaches published ports."
            )
        else:
            why = "The host forwards no packets. The first network turns this on, the last one off again."
        fix = REPAIR if name == "all" else shell_line(("sysctl", f"{key}=1"))
        yield Finding(
            "ip_forward",
            f"{key} is 0" + (" (net.ipv4.ip_forward)" if name == "all" else ""),
            why,
            fix if state.networks else None,
            wrong=bool(state.networks),
        )


def _forward_policy(seen: Facts, state: State, standing: list[Entry]) -> Iterator[Finding]:
    if not seen.rules_seen:
        return
    jump = jump_of(standing)
    stands = jump is None or holds(jump.probe, seen) is not False  # else that is a finding of drift
    in_front = jump is not None and firewall.turned_away_before(seen, "FORWARD", jump.probe.key[2:])
    if stands and not in_front and (guard := firewall.turned_away_before(seen, "FORWARD")):
        yield Finding(
            "FORWARD",
            f"forwarded packets are dropped or rejected ({guard}), set up by: {firewall.by_whom(seen, 'FORWARD')}",
            "This affects other bridges. Those of netwrap are not affected: its chain comes first."
            if state.networks
            else "It does not concern networks of netwrap: their chain will decide first.",
            None,
            wrong=False,
        )


def _in_nftables(seen: Facts, state: State) -> Iterator[Finding]:
    """Base chains of nftables that drop or reject our packets."""
    out = seen.way_out.link if seen.way_out is not None else ""
    for hook in seen.hooks:
        lost: dict[str, None] = {}
        doubted: dict[str, None] = {}
        for network in state.networks.values():
            for frame in _framed(hook.hook, network) if hook.family == "bridge" else _frames(hook.hook, network, out):
                met = nft.fate(hook, frame)
                link = "meta {}brname" if hook.family == "bridge" else "{}ifname"
                words = link.format("i" if frame.comes == network.bridge else "o")
                rule = f'{words} "{network.bridge}" accept'
                if met == "drop":
                    lost[rule] = None
                elif not met:
                    doubted[rule] = None
        if not lost and not doubted:
            continue
        drops = "drops or rejects" if lost else "may drop or reject"
        # Not every kernel knows the names of bridges in a table of theirs (nft_meta_bridge).
        fix = "; ".join(_inserted(hook, rule) for rule in lost) if hook.family != "bridge" else ""
        if lost and hook.table == "firewalld":
            links = dict.fromkeys(rule.split('"')[1] for rule in lost)
            fix = " && ".join(f"firewall-cmd --zone=trusted --add-interface={link}" for link in links)
        yield Finding(
            "FORWARD" if hook.hook == "forward" else "nftables",
            f"nftables chain {hook.place} (hook {hook.hook}) {drops} packets of netwrap's networks that none of its "
            f"rules accepts ({hook.turns_away or 'a rule of it'})",
            "A packet has to pass every table: what netwrap accepts is dropped there all the same (nft(8))."
            + ("" if fix else f" Whose is it? `nft list chain {hook.place}`.")
            if lost
            else "The text of its rules does not tell what they match: `netwrap check` tries with packets.",
            fix or None,
            wrong=bool(lost),
        )


def _framed(hook: str, network: Network) -> list[nft.Frame]:
    """The frames that pass a hook of a bridge itself: between containers, and between them and this host."""
    br, subnet = network.bridge, network.subnet
    match hook:
        case "forward":
            return [nft.Frame(br, br, subnet, subnet)]
        case "input" | "prerouting":
            return [nft.Frame(comes=br, source=subnet)]
        case "output" | "postrouting":
            return [nft.Frame(leaves=br, destination=subnet)]
    return []


def _inserted(hook: nft.Hook, rule: str) -> str:
    """The command that puts a rule at the head of a chain where it is not there yet."""
    return f"nft list chain {hook.place} | grep -qF '{rule}' || nft insert rule {hook.place} '{rule}'"


def _frames(hook: str, network: Network, uplink: str) -> list[nft.Frame]:
    """The packets of a network that pass a hook and have to."""
    br, subnet = network.bridge, network.subnet
    out = nft.Frame(br, uplink, source=subnet)
    answer = nft.Frame(uplink, br, destination=subnet, state="established")
    asked = nft.Frame(uplink, br, destination=subnet, is_published=True)
    here = nft.Frame(leaves=br, destination=subnet)
    match hook:
        case "forward":
            return [] if network.internal else [out, answer, asked]
        case "prerouting":
            return [] if network.internal else [out]
        case "input":
            return [nft.Frame(comes=br, source=subnet, state="established")]
        case "output" | "postrouting":
            return [here]
    return []


def _of_others(seen: Facts, state: State, standing: list[Entry]) -> Iterator[Finding]:
    """Foreign rules that drop or reject what has to pass, accept what must not, or forward ports elsewhere."""
    jump = jump_of(standing)
    lost = {e.step.probe.key[0] for e in drifted_entries(standing, seen) if e.step.probe.kind in ("rule", "chain")}
    for fate, whats in strangers.turned_away(seen, state).items():
        if fate.table in lost:  # what comes before and behind is not known until ours are there again
            continue
        is_meant = strangers.names_ours(fate, state)
        if fate.meets is not Meets.EVERY and not is_meant:
            continue
        behind = (fate.table, fate.chains[0]) == ("filter", "FORWARD") and not fate.chain.startswith("NETWRAP")
        some = "" if fate.meets is Meets.EVERY else "some of "
        fix = None
        if behind and not is_meant and jump is not None and jump.undo is not None:
            fix = f"{jump.undo.text()}; {jump.do.text()}"
        ask = "netwrap's chain is put in front of it." if fix else _whose(fate)
        yield Finding(
            "FORWARD" if behind else "rule of others",
            f"{strangers.line(fate)} drops or rejects {some}{some_of(whats)}",
            f"Packets that match it are lost; no later rule can accept them. {ask}",
            fix,
            wrong=fate.meets is Meets.EVERY,
        )
    mended = {fate for _, fate in strangers.in_front(standing, seen, state)}
    for fate, names in strangers.let_in(standing, seen, state).items():
        if fate.table in lost:
            continue
        may = "may accept" if fate.meets is Meets.MAYBE else "accepts"
        yield Finding(
            "isolation",
            f"{strangers.line(fate)} {may} packets to {some_of(names)} that netwrap's rules would drop or reject",
            "Containers can be reached that should be isolated. "
            + ("netwrap's rule is put in front of it." if fate in mended else _whose(fate)),
            REPAIR if fate in mended else None,
            wrong=fate.meets is not Meets.MAYBE,
        )
    for container, port, fate in strangers.elsewhere(seen, state) if "nat" not in lost else ():
        yield Finding(
            "published port",
            f"{port.spec} of {container}: {strangers.line(fate)} decides before netwrap's rule where "
            f"{'some of ' if fate.meets is not Meets.EVERY else ''}its packets go",
            f"Clients of that port do not reach {container}. {_whose(fate)}",
            None,
        )
    unmasked: dict[Fate, list[str]] = {}
    for network, fate in strangers.unmasked(seen, state) if "nat" not in lost else ():
        unmasked.setdefault(fate, []).append(network.name)
    for fate, names in unmasked.items():
        yield Finding(
            "way out",
            f"{strangers.line(fate)} keeps packets of {some_of(names)} from getting this host's address",
            f"Outside machines have no route back to containers, so there are no replies. {_whose(fate)}",
            None,
        )


def _whose(fate: Fate) -> str:
    return f"Whose rule is it? To remove it: `iptables -w {strangers.line(fate, '-D')}`."


def _settings(machine: Machine, seen: Facts, state: State) -> Iterator[Finding]:
    uplinks = _uplinks(seen)
    watched = {n.bridge for n in state.networks.values()} | uplinks
    for name in sorted(name for name, value in machine.rp_filter.items() if value == "1" and name in {*watched, "all"}):
        key = sysctl.of_link(name, "rp_filter")
        yield Finding(
            "rp_filter",
            f"{key} is 1 (strict)",
            "The kernel silently drops a packet if the reply would leave by another link: hosts with two uplinks "
            "lose connections to published ports. netwrap's own networks work with strict filters.",
            shell_line(("sysctl", f"{key}=2")),
            wrong=len(uplinks) > 1,
        )
    if machine.bridges_filtered:
        yield Finding(
            "br_netfilter",
            "net.bridge.bridge-nf-call-iptables is 1: frames between two containers of one bridge pass FORWARD too",
            "With a FORWARD policy of DROP other bridges may be cut off. netwrap has rules for its own. "
            "Kubernetes needs it on.",
            None,
            wrong=False,
        )
    if machine.no_user_namespaces:
        yield Finding(
            "user namespaces",
            f"ordinary users cannot create user namespaces here: {machine.no_user_namespaces}",
            "`netwrap sandbox` and `netwrap demo` need root then.",
            f"sysctl {_allowing(machine.no_user_namespaces)}",
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
            f"iptables uses the {machine.backend} backend here, and there are rules or policies of the {other} one "
            f"too (table {', '.join(tables)})",
            "A packet has to pass both, and each lists only its own rules: what netwrap accepts may be dropped by "
            f"rules that `iptables -S` does not show. To see them: iptables-{other}-save. Best use one backend: "
            "update-alternatives --config iptables.",
            None,
        )


def _managers(machine: Machine, state: State) -> Iterator[Finding]:
    """The file that mends it names all of our bridges: it may be there already, and replaces what it was."""
    bridges = {n.bridge for n in state.networks.values()}
    for manager in dict.fromkeys(manager for manager, _, _ in machine.grabs):
        links = [link for m, link, _ in machine.grabs if m == manager]
        files = dict.fromkeys(file for m, _, file in machine.grabs if m == manager)
        names = ["veth*", "peer*", *sorted(bridges | {name for name in links if not name.startswith("veth")})]
        fix = (
            f"printf '[keyfile]\\nunmanaged-devices={';'.join(f'interface-name:{name}' for name in names)}\\n' | "
            "sudo tee /etc/NetworkManager/conf.d/netwrap.conf && nmcli general reload"
            if manager == "NetworkManager"
            else f"printf '[Match]\\nName={' '.join(names)}\\n\\n[Link]\\nUnmanaged=yes\\n' | sudo tee "
            "/etc/systemd/network/05-netwrap.network && networkctl reload"
        )
        yield Finding(
            "network manager",
            f"{manager} manages {', '.join(links)} ({', '.join(files)})",
            "It may change the addresses of these links at any time.",
            fix,
        )


def _shadowed(seen: Facts, state: State) -> Iterator[Finding]:
    for publication in state.publications:
        for listener in seen.listeners:
            taken = PublishedPort(listener.port, listener.port, listener.protocol, 1, listener.ip)
            if publication.port.clashes(taken):
                where = f"{listener.ip or '*'}:{listener.port}/{listener.protocol}"
                yield Finding(
                    "shadowed port",
                    f"{publication.port.spec} of {publication.container}: a socket of this host listens on {where} too",
                    "Clients of that port reach the container, and never the service that listens there. Which one is "
                    f"to have it? Who listens: `ss -lnp 'sport = :{listener.port}'`; to give the port back: "
                    f"`netwrap unpublish {publication.container} {publication.port.spec}`.",
                    None,
                )


def _moved(seen: Facts, state: State) -> Iterator[Finding]:
    """Ports that are published on an address which this host no longer has."""
    for publication in state.publications:
        port, name = publication.port, publication.container
        if port.host_ip is not None and not port.host_ip.is_loopback and port.host_ip not in seen.addresses():
            yield Finding(
                "published address",
                f"{port.spec} of {name}: this host no longer has the address {port.host_ip}",
                "Packets to that address do not come here, or are not for this host; another machine may have it by "
                f"now. Add the address to a link again, or remove the port: `netwrap unpublish {name} {port.spec}`.",
                None,
            )
