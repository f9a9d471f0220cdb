"""What foreign rules on this machine mean for netwrap's."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from netwrap.facts import Facts, Rule, same_rule
from netwrap.model import PublishedPort
from netwrap.steps import shell_line
from netwrap.steps.iptables import MARK

_OWNERS = {
    "DOCKER": "Docker",
    "ufw-": "ufw",
    "INPUT_ZONES": "firewalld",
    "FORWARD_IN_ZONES": "firewalld",
    "FORWARD_POLICIES": "firewalld",
    "KUBE-": "Kubernetes",
    "LIBVIRT_": "libvirt",
    "NETAVARK": "Podman",
    "CNI-": "CNI plugins",
}
"""The beginnings of the names of their chains."""


def by_whom(seen: Facts, chain: str) -> str:
    """Who has set up a built-in chain of the filter table, by the names of the chains that it jumps to."""
    found = {who for start, who in _OWNERS.items() for name in _reached(seen, chain) if name.startswith(start)}
    return " and ".join(sorted(found)) or "by hand, or by a tool whose chains netwrap does not know"


def guard(seen: Facts, chain: str = "INPUT") -> str | None:
    """What turns away packets in a built-in chain that no other rule lets in: a rule for all of them, or its policy.

    Of the tables of nftables, too: a packet has to pass every one of them (nft(8)).
    """
    return turned_away_before(seen, chain) or in_nftables(seen, chain)


def in_nftables(seen: Facts, chain: str) -> str | None:
    """What drops or rejects packets in an nftables table, at the hook of a built-in chain."""
    for hook in seen.hooks:
        if hook.hook == chain.lower() and hook.turns_away and hook.family != "bridge":
            return f"{hook.turns_away} in nftables chain {hook.place}"
    return None


def turned_away_before(seen: Facts, chain: str, rule: Rule = ()) -> str | None:
    """What drops or rejects all packets in a built-in chain of the filter table, before they get to a given rule."""
    fate = _fate(seen, chain, rule)
    policy = seen.policies.get(("filter", chain), "ACCEPT")
    if fate is None and policy != "ACCEPT":
        return f"policy {policy}"
    return fate or None


def _fate(seen: Facts, chain: str, until: Rule = ()) -> str | None:
    """What becomes of every packet in a chain: the rule that turns it away; "" where it is accepted or meets the rule
    `until`; None where it comes to the end. Chains do not lead in circles: the kernel refuses that."""
    for rule in seen.rules.get(("filter", chain), ()):
        if until and same_rule(rule, until):
            return ""
        to = target(rule)
        if conditions(rule) and not (chain == "INPUT" and to != "ACCEPT" and _is_for_a_link(rule)):
            continue
        if to in ("DROP", "REJECT"):
            return f"-A {chain} {shell_line(rule)}"
        if to == "ACCEPT":
            return ""
        if to == "RETURN":
            return None
        if ("filter", to) in seen.rules:
            fate = _fate(seen, to)
            if fate is not None or "-g" in rule:  # from where -g leads, nothing comes back (iptables(8))
                return fate
    return None


def _is_for_a_link(rule: Rule) -> bool:
    """Return whether a rule matches everything that comes in on a link other than lo."""
    return len(rule) > 2 and rule[0] == "-i" and rule[1] != "lo" and not conditions(rule[2:])


def dnat_of_others(port: PublishedPort, destination: str, seen: Facts) -> str | None:
    """A foreign rule that forwards the same host port to another destination."""
    return next(_led(port, destination, seen, surely=True), None)


def dnat_perhaps(port: PublishedPort, destination: str, seen: Facts) -> list[str]:
    """Foreign rules that forward some packets elsewhere, perhaps also those of this port."""
    return list(_led(port, destination, seen, surely=False))


def _led(port: PublishedPort, destination: str, seen: Facts, *, surely: bool) -> Iterator[str]:
    for (table, chain), rules in seen.rules.items():
        for rule in rules if table == "nat" else ():
            leads = target(rule) in ("DNAT", "REDIRECT") and value(rule, "--to-destination") != destination
            # A rule for every port in a chain of theirs is for those that are led to that chain.
            is_met = surely or _names_ports(rule) or chain in ("PREROUTING", "OUTPUT")
            if leads and is_met and not is_ours(rule) and _is_for(rule, port, seen) is (True if surely else None):
                yield f"-t nat -A {chain} {shell_line(rule)}"


def is_ours(rule: Rule) -> bool:
    """Return whether a rule has our mark."""
    return value(rule, "--comment").startswith(MARK)


def target(rule: Rule) -> str:
    """The target of a rule: a verdict or a chain."""
    return value(rule, "-j") or value(rule, "-g")


def value(rule: Rule, option: str) -> str:
    """The value of a rule's option."""
    return next((values[0] for _, name, values in options(rule) if name == option and values), "")


def options(rule: Rule) -> Iterator[tuple[bool, str, Rule]]:
    """A rule's options: whether there is a `!` before it, its name, its values."""
    words = list(rule)
    while words:
        is_negated = words[0] == "!" and len(words) > 1
        name, *words = words[is_negated:]
        free = int(name in _FREE_TEXT and words != [])
        count = next((n for n, w in enumerate(words) if n >= free and (w == "!" or w.startswith("-"))), len(words))
        yield is_negated, name, tuple(words[:count])
        words = words[count:]


_FREE_TEXT = {"--comment", "--log-prefix", "--nflog-prefix", "--string", "--hex-string", "--name", "--u32"}
"""Options whose value may begin with anything, also with a dash."""

_PORTS = {"--dport", "--dports", "--ports", "--destination-port", "--destination-ports"}
_NARROWS = {"-m", "--comment", "-s", "-i", "-o", "--sport", "--sports", "--src-type", "--ctstate", "--state"}
"""Options that say from where or when: a rule with them leads the port elsewhere for some."""

_LEADS = {"-j", "-g", "--to-destination", "--to-ports", "--random", "--random-fully", "--persistent"}
_NUMBERS = {"6": "tcp", "17": "udp", "132": "sctp"}


def _names_ports(rule: Rule) -> bool:
    return any(name in _PORTS for _, name, _ in options(rule))


def _is_for(rule: Rule, port: PublishedPort, seen: Facts) -> bool | None:
    """Return whether a rule is for the same port of an address of this host; None where that cannot be told."""
    addresses = {port.host_ip} if port.host_ip else seen.addresses()
    ours = set(range(port.host_port, port.host_port + port.count))
    is_known = True
    for is_negated, name, values in options(rule):
        text = " ".join(values)
        if name in ("-p", "--protocol"):
            if (_NUMBERS.get(text, text) in (port.protocol, "all", "0")) == is_negated:
                return False
        elif name in ("-d", "--destination"):
            found = {ip: covers(text, ip) for ip in addresses}
            is_known = is_known and None not in found.values()
            addresses = {ip for ip in addresses if found[ip] is None or found[ip] != is_negated}
        elif name == "--dst-type":
            if ("LOCAL" in text.split(",")) == is_negated:
                return False
        elif name in _PORTS:
            theirs = _numbers(text)
            is_known = is_known and theirs is not None
            if theirs is not None:
                ours = {number for number in ours if any(number in span for span in theirs) != is_negated}
        elif name not in _NARROWS | _LEADS:
            is_known = False
    if not addresses or not ours:
        return False
    return True if is_known and _names_ports(rule) else None


def covers(where: str, ip: IPv4Address) -> bool | None:
    """Return whether an address is in a subnet, whose mask may have gaps (iptables(8)); None where it is none."""
    address, _, mask = where.partition("/")
    try:
        bits = int(IPv4Address(mask)) if "." in mask else int(IPv4Network(f"0.0.0.0/{mask or 32}").netmask)
        return int(IPv4Address(address)) & bits == int(ip) & bits
    except ValueError:
        return None


def _numbers(text: str) -> list[range] | None:
    """Ports as iptables-save prints them: `80`, `8000:8010`, and with multiport a list of both."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        if not (first.isdecimal() and (last or first).isdecimal()):
            return None
        found.append(range(int(first), int(last or first) + 1))
    return found


def conditions(rule: Rule) -> bool:
    """Return whether a rule is for some packets only; comments and the kind of a REJECT are no conditions."""
    for _, name, values in options(rule):
        if name in ("-j", "-g"):
            return False
        if name != "--comment" and (name, values) != ("-m", ("comment",)):
            return True
    return False


def _reached(seen: Facts, chain: str) -> list[str]:
    """The chains of the filter table that a packet may come to from one, that one first."""
    found = [chain]
    for name in found:
        for rule in seen.rules.get(("filter", name), ()):
            if ("filter", target(rule)) in seen.rules and target(rule) not in found:
                found.append(target(rule))
    return found
