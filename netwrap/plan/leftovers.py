"""What has netwrap's marks and is not in the state: a dry run's script made it, or it belongs to another state."""

from __future__ import annotations

import re
from collections.abc import Iterable

from netwrap import firewall
from netwrap.errors import BadInput, quoted
from netwrap.facts import Facts
from netwrap.model import LINK_GROUP, Network, State
from netwrap.steps import Step, iptables, shell_line


def refuse(network: Network, steps: Iterable[Step], seen: Facts, state: State) -> None:
    """Raises BadInput if such things are in the way of a new network; the hint is the command that removes them."""
    chains = {s.probe.key for s in steps if s.kind == "chain" and s.probe.key in seen.rules}
    link = seen.host.links.get(network.bridge)
    has_link = link is not None and link.group == str(LINK_GROUP)
    own = [key for key, rules in seen.rules.items() if any(network.name in _networks(rule) for rule in rules)]
    if not (chains or has_link or own):
        return
    is_first = "host" not in state.owners
    rules = [(key, rule) for key, found in seen.rules.items() for rule in found if _is_left(rule, network, state)]
    for (table, _), rule in rules:
        if (table, firewall.target(rule)) in seen.rules:
            chains.add((table, firewall.target(rule)))
    links = [name for name in seen.host.links if _is_ours(name, network, seen, state, every=is_first)]
    there = [
        *(f"interface {name}" for name in links),
        *(f"chain {chain}" for _, chain in sorted(chains)),
        *([f"{len(rules)} rule{'s' * (len(rules) > 1)}"] if rules else []),
    ]
    commands = [*_without_rules(chains, rules, seen), *(f"ip link del dev {name}" for name in links)]
    raise BadInput(
        f"network {quoted(network.name)} is not in this state, but parts of it already exist: {', '.join(there)}; "
        "made by a dry run's script, or in another state (netwrap --state-dir DIR)",
        f"{' && '.join(commands)}  # removes them",
    )


def _networks(rule: tuple[str, ...]) -> list[str]:
    """The networks in a rule's comment, as in `NET`, `CONTAINER/NET`, `A+B`; none in `host`."""
    mark = firewall.value(rule, "--comment")
    if not mark.startswith(iptables.MARK) or mark == f"{iptables.MARK}host":
        return []
    return re.split(r"\+", mark.removeprefix(iptables.MARK).rpartition("/")[2])


def _is_left(rule: tuple[str, ...], network: Network, state: State) -> bool:
    """Return whether a rule must be removed: one of this network, or any of netwrap's if there is no network."""
    if "host" in state.owners:
        return network.name in _networks(rule)
    return firewall.is_ours(rule)


def _is_ours(name: str, network: Network, seen: Facts, state: State, *, every: bool) -> bool:
    """Return whether a link must be removed: the bridge or a port of it; with `every`, any of netwrap's group."""
    link = seen.host.links[name]
    if link.group != str(LINK_GROUP):
        return False
    known = {n.bridge for n in state.networks.values()} | {e.veth for e in state.endpoints}
    return name not in known and (every or network.bridge in (name, link.master))


def _without_rules(
    chains: set[tuple[str, str]], rules: list[tuple[tuple[str, str], tuple[str, ...]]], seen: Facts
) -> Iterable[str]:
    """The commands that remove rules and chains, and other programs' rules that jump to these chains."""
    lead = [
        ((table, chain), rule)
        for (table, chain), found in seen.rules.items()
        for rule in found
        if (table, firewall.target(rule)) in chains
    ]
    for (table, chain), rule in [*rules, *(pair for pair in lead if pair not in rules)]:
        if (table, chain) not in chains:
            yield iptables.of_a_stranger(table, chain, rule, chain).do.text()
    for what in ("-F", "-X"):
        for table, chain in sorted(chains):
            if what == "-X" or seen.rules[table, chain]:
                yield shell_line(("iptables", "-w", *(() if table == "filter" else ("-t", table)), what, chain))
