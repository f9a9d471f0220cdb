"""The facts as they will be after commands, as far as the next plan needs: a dry run plans on what it has not run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

from netwrap.facts import Facts, Rule, Space, netns_of, same_rule
from netwrap.steps import Step
from netwrap.steps.sysctl import of_link, prefixes


def after(seen: Facts, steps: Iterable[Step]) -> Facts:
    """The facts after the steps: links, handles, rules, chains and settings."""
    for step in steps:
        match step.do.argv:
            case ("ip", "link", "del", "dev", name):
                seen = _changed(seen, step, partial(_without, name=name))
                if step.do.ns is None:
                    kept = {key: value for key, value in seen.sysctls.items() if not key.startswith(prefixes(name))}
                    seen = replace(seen, sysctls=kept)
            case ("ip", "link", "set", "dev", name, "master", bridge):
                seen = _changed(seen, step, _plugged(name, bridge))
            case ("ip", "link", "set", "dev", name, "address" | "group" | "mtu" as what, value):
                before, seen = seen, _changed(seen, step, _with(name, what, value))
                if what == "mtu" and step.do.ns is None:
                    seen = _with_ipv6(seen, name, int(value))
                    for bridge, mtu in _followers(before, seen, name):
                        seen = _with_ipv6(seen, bridge, mtu)
            case ("ip", "link", "set", "dev", old, "down"):
                seen = _changed(seen, step, _renamed_to(old, old))
            case ("ip", "link", "set", "dev", old, "name", new):
                seen = _changed(seen, step, _renamed_to(old, new))
                if step.do.ns is None:
                    seen = replace(seen, sysctls={_renamed_key(key, old, new): v for key, v in seen.sysctls.items()})
            case ("ip", "link", "set", "dev", name, "netns", *_) if step.do.ns is not None:
                seen = _changed(seen, step, partial(_without, name=name))
            case ("ip", "addr", "del", cidr, "dev", name):
                seen = _changed(seen, step, _without_addr(name, cidr))
            case ("ip", "route", "del", "blackhole" | "unreachable" | "prohibit" | "throw", dst, *where):
                seen = _changed(seen, step, _without_route(dst, where))
            case ("ip", "route", "del", dst, *where):
                seen = _changed(seen, step, _without_route(dst, where))
            case ("ip", "netns", "del", name):
                seen = replace(seen, handles={n: inode for n, inode in seen.handles.items() if n != name})
            case ("ip", "netns", "attach", name, _):
                seen = replace(seen, handles={**seen.handles, name: netns_of(step.probe).inode})
            case ("sysctl", setting):
                key, _, value = setting.partition("=")
                seen = replace(seen, sysctls={**seen.sysctls, key: value})
            case ("iptables", "-w", "-t", table, how, chain, *words):
                seen = replace(seen, rules=_rules(seen, table, how, chain, words))
            case ("iptables", "-w", how, chain, *words):
                seen = replace(seen, rules=_rules(seen, "filter", how, chain, words))
    return seen


def _changed(seen: Facts, step: Step, change: Callable[[Space], Space]) -> Facts:
    """The facts after a change in the namespace that a step works in."""
    if step.do.ns is None:
        return replace(seen, host=change(seen.host))
    space = seen.space(step.do.ns)
    return seen if space is None else replace(seen, spaces={**seen.spaces, step.do.ns.inode: change(space)})


def _renamed_key(key: str, old: str, new: str) -> str:
    """The key of a link's setting after the link is renamed."""
    for theirs, ours in zip(prefixes(old), prefixes(new), strict=True):
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def _without_addr(name: str, cidr: str) -> Callable[[Space], Space]:
    return lambda space: replace(space, addrs=space.addrs - {(name, cidr)})


def _with(name: str, what: str, value: str) -> Callable[[Space], Space]:
    """Changes the MAC, group or MTU of a link."""

    def change(space: Space) -> Space:
        if name not in space.links:
            return space
        old = space.links[name]
        new = {
            "address": replace(old, mac=value),
            "group": replace(old, group=value),
            "mtu": replace(old, mtu=int(value) if what == "mtu" else old.mtu),
        }
        return replace(space, links={**space.links, name: new[what]})

    return change


def _followers(before: Facts, seen: Facts, name: str) -> Iterator[tuple[str, int]]:
    """The bridge of a link whose MTU has changed, with its new MTU: unless one was set, it has its smallest port's."""
    port = before.host.links.get(name)
    bridge = before.host.links.get(port.master or "") if port else None
    if port and bridge and bridge.mtu == port.mtu:
        yield bridge.name, min(li.mtu for li in seen.host.links.values() if li.master == bridge.name)


def _with_ipv6(seen: Facts, name: str, mtu: int) -> Facts:
    """The facts with the setting that a link has with IPv6: with an MTU below 1280 bytes it has none."""
    key, default = (of_link(n, "disable_ipv6", "ipv6") for n in (name, "default"))
    if mtu < 1280 or default not in seen.sysctls:
        return seen
    return replace(seen, sysctls={key: seen.sysctls[default], **seen.sysctls})


def _without_route(dst: str, where: list[str]) -> Callable[[Space], Space]:
    """Removes the routes of a link and table to a destination."""
    named = dict(pairwise(where))
    dev, table = named.get("dev"), named.get("table", "main")

    def change(space: Space) -> Space:
        return replace(space, routes=tuple(r for r in space.routes if (r.dst, r.dev, r.table) != (dst, dev, table)))

    return change


def _plugged(name: str, bridge: str) -> Callable[[Space], Space]:
    """Puts a link into a bridge, with the default settings of a port."""

    def change(space: Space) -> Space:
        if name not in space.links:
            return space
        return replace(space, links={**space.links, name: replace(space.links[name], master=bridge, hairpin=False)})

    return change


def _renamed_to(old: str, new: str) -> Callable[[Space], Space]:
    """Takes a link down, perhaps with a new name: it keeps its addresses and loses its routes."""

    def change(space: Space) -> Space:
        gone = _without(space, old)
        link = replace(space.links[old], name=new, up=False)
        addrs = {(new, cidr) for name, cidr in space.addrs if name == old}
        ports = {n: replace(li, master=new) for n, li in space.links.items() if li.master == old}
        return replace(gone, links={**gone.links, **ports, new: link}, addrs=gone.addrs | addrs)

    return change


def _without(space: Space, name: str) -> Space:
    """A namespace without a link and its addresses and routes."""
    return replace(
        space,
        links={n: replace(li, master=None) if li.master == name else li for n, li in space.links.items() if n != name},
        addrs=frozenset(pair for pair in space.addrs if pair[0] != name),
        routes=tuple(route for route in space.routes if route.dev != name),
    )


def _rules(seen: Facts, table: str, how: str, chain: str, words: list[str]) -> dict[tuple[str, str], tuple[Rule, ...]]:
    if how == "-E":
        return _renamed_chain(seen, table, chain, words[0])
    rules = dict(seen.rules)
    there = list(rules.pop((table, chain), ()))
    match how:
        case "-A":
            there.append(tuple(words))
        case "-I":
            number = int(words.pop(0)) if words[0].isdigit() else 1
            there.insert(number - 1, tuple(words))
        case "-D":
            found = next((rule for rule in there if same_rule(rule, tuple(words))), None)
            if found is not None:
                there.remove(found)
    return rules if how == "-X" else {**rules, (table, chain): tuple(there)}


def _renamed_chain(seen: Facts, table: str, old: str, new: str) -> dict[tuple[str, str], tuple[Rule, ...]]:
    """The rules after a chain is renamed: rules that jump to it still do."""

    def led(rule: Rule) -> Rule:
        return tuple(new if before in ("-j", "-g") and word == old else word for before, word in pairwise(("", *rule)))

    return {
        (where, new if (where, chain) == (table, old) else chain): tuple(map(led, rules)) if where == table else rules
        for (where, chain), rules in seen.rules.items()
    }
