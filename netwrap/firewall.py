"""What the rules of others on this machine mean for ours."""

from __future__ import annotations

from ipaddress import IPv4Network

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
"""How the names of their chains begin."""


def by_whom(seen: Facts, chain: str) -> str:
    """Who, by the names of the chains that a built-in chain of the filter table leads to, has set it up."""
    found = {who for start, who in _OWNERS.items() for name in _reached(seen, chain) if name.startswith(start)}
    return " and ".join(sorted(found)) or "by hand, or by a tool whose chains netwrap does not know"


def guard(seen: Facts, chain: str = "INPUT") -> str | None:
    """What turns away packets in a built-in chain that no other rule lets in: a rule for all of them, or its policy.

    Of the tables of nftables, too: a packet has to pass every one of them (nft(8)).
    """
    return turned_away_before(seen, chain) or in_nftables(seen, chain)


def in_nftables(seen: Facts, chain: str) -> str | None:
    """What turns packets away in a table of nftables, at the hook of a built-in chain."""
    for hook in seen.hooks:
        if hook.hook == chain.lower() and hook.turns_away:
            return f"{hook.turns_away} in nftables chain {hook.place}"
    return None


def turned_away_before(seen: Facts, chain: str, rule: Rule = ()) -> str | None:
    """What turns every packet away that comes to a built-in chain of the filter table, before it meets a rule there."""
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
    """Says whether a rule is for everything that arrives by a link; lo is not outside."""
    return len(rule) > 2 and rule[0] == "-i" and rule[1] != "lo" and not conditions(rule[2:])


def dnat_of_others(port: PublishedPort, destination: str, seen: Facts) -> str | None:
    """A rule of somebody else's that leads the same host port elsewhere than to the destination."""
    for (table, chain), rules in seen.rules.items():
        for rule in rules if table == "nat" else ():
            leads = target(rule) in ("DNAT", "REDIRECT") and value(rule, "--to-destination") != destination
            if leads and not is_ours(rule) and _is_for(rule, port, seen):
                return f"-t nat -A {chain} {' '.join(rule)}"
    return None


def is_ours(rule: Rule) -> bool:
    """Says whether a rule bears our mark."""
    return value(rule, "--comment").startswith(MARK)


def target(rule: Rule) -> str:
    """Where a rule leads: a verdict or a chain."""
    return value(rule, "-j") or value(rule, "-g")


def value(rule: Rule, option: str) -> str:
    """What stands behind an option of a rule."""
    return rule[rule.index(option) + 1] if option in rule[:-1] else ""


def _is_for(rule: Rule, port: PublishedPort, seen: Facts) -> bool:
    """Says whether a rule is for the same port of an address of this host."""
    first, _, last = value(rule, "--dport").partition(":")
    if value(rule, "-p") != port.protocol or not first.isdigit():
        return False
    theirs = range(int(first), int(last or first) + 1)
    ours = range(port.host_port, port.host_port + port.count)
    where = IPv4Network("0.0.0.0/0" if "! -d" in " ".join(rule) else value(rule, "-d") or "0.0.0.0/0")
    addresses = {port.host_ip} if port.host_ip else seen.addresses()
    return bool(set(theirs) & set(ours)) and any(ip in where for ip in addresses)


def conditions(rule: Rule) -> bool:
    """Says whether a rule is for some packets only; comments and the kind of a REJECT are no conditions."""
    words = list(rule[: rule.index("-j" if "-j" in rule else "-g")]) if {"-j", "-g"} & {*rule} else list(rule)
    if "--comment" in words:
        at = words.index("--comment")
        del words[at : at + 2]
    return [w for w in words if w not in ("-m", "comment")] != []


def _reached(seen: Facts, chain: str) -> list[str]:
    """The chains of the filter table that a packet may come to from one, that one first."""
    found = [chain]
    for name in found:
        for rule in seen.rules.get(("filter", name), ()):
            if ("filter", target(rule)) in seen.rules and target(rule) not in found:
                found.append(target(rule))
    return found
