"""nftables tables other than those of iptables: their base chains, and what they do to our packets (nft(8))."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

Rule = tuple[Any, ...]
"""The expressions of a rule, in the form of libnftables-json(5)."""
Place = tuple[str, str, str]

_TABLES = ("filter", "nat", "raw", "mangle", "security")
_VERDICTS = frozenset({"accept", "drop", "reject", "jump", "goto", "return"})
_NO_CONDITIONS = _VERDICTS | {"counter", "log", "mangle", "notrack"}
_FAMILIES = ("ip", "inet", "bridge")


@dataclass(frozen=True)
class Chains:
    """All chains and named sets of the ruleset."""

    rules: dict[Place, list[Rule]] = field(default_factory=dict)
    sets: dict[Place, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Hook:
    """A base chain that sees every packet of its hook; chains of iptables-nft are not included."""

    family: str
    table: str
    chain: str
    hook: str
    turns_away: str = ""
    """`policy drop`, or `drop` or `reject` if a rule for all packets does so; empty if neither is the case."""
    policy: str = "accept"
    chains: Chains = field(default_factory=Chains, compare=False, repr=False)

    @property
    def place(self) -> str:
        """The chain as `nft` expects it on its command line."""
        return f"{self.family} {self.table} {self.chain}"


@dataclass(frozen=True)
class Frame:
    """Our packets in a forwarding host: the bridge by which they enter or leave, and their conntrack state."""

    comes: str = ""
    leaves: str = ""
    source: IPv4Network | None = None
    destination: IPv4Network | None = None
    state: str = "new"
    is_published: bool = False


def parse_hooks(text: str) -> tuple[Hook, ...]:
    """Read the output of `nft -j list ruleset`: base chains for IPv4 that are not iptables' own (libnftables-json(5)).

    Raises ValueError, KeyError, TypeError, AttributeError.
    """
    rows = json.loads(text or '{"nftables": []}')["nftables"]
    chains = Chains()
    for row in rows:
        if "rule" in row:
            rule = row["rule"]
            chains.rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(
                tuple(rule.get("expr", ()))
            )
        elif "chain" in row:
            chain = row["chain"]
            chains.rules.setdefault((chain["family"], chain["table"], chain["name"]), [])
        elif "set" in row:
            found = row["set"]
            chains.sets[found["family"], found["table"], found["name"]] = found.get("elem", [])
    hooks = []
    for chain in (row["chain"] for row in rows if "chain" in row):
        place = (chain["family"], chain["table"], chain["name"])
        is_iptables = place[0] == "ip" and place[1] in _TABLES and place[2] == chain.get("hook", "").upper()
        if "hook" in chain and place[0] in _FAMILIES and chain.get("type") == "filter" and not is_iptables:
            policy = chain.get("policy", "accept")
            turns_away = "policy drop" if policy == "drop" else _for_all(chains.rules[place])
            hooks.append(Hook(*place, chain["hook"], turns_away, policy, chains))
    return tuple(hooks)


def _for_all(rules: Iterable[Rule]) -> str:
    """Return the last verdict of a rule that drops or rejects all packets."""
    found = ""
    for rule in rules:
        words = [_word(expression) for expression in rule]
        if set(words) <= {"counter", "log", "drop", "reject"} and {"drop", "reject"} & set(words):
            found = words[-1]
    return found


def _word(expression: Any) -> str:
    return next(iter(expression)) if isinstance(expression, dict) else str(expression)


def fate(hook: Hook, frame: Frame) -> str:
    """Return what happens to packets in a base chain: `accept`, `drop`, or `` if its text does not show that."""
    if not hook.chains.rules:
        return "drop" if hook.turns_away else "accept"
    doubts: list[str] = []
    verdict = _walk(hook, (hook.family, hook.table, hook.chain), frame, doubts) or hook.policy
    return verdict if verdict == "accept" or "accept" not in doubts else ""


def _walk(hook: Hook, place: Place, frame: Frame, doubts: list[str]) -> str:
    """Return the verdict of a chain; empty if packets reach its end. `doubts`: verdicts of rules that may match."""
    for rule in hook.chains.rules.get(place, ()):
        meets: bool | None = True
        for expression in rule:
            word = _word(expression)
            if word == "match":
                one = _matches(hook, expression["match"], frame)
                meets = False if one is False or meets is False else None if one is None or meets is None else True
            elif word == "vmap":
                verdict = _mapped(hook, expression["vmap"], frame, doubts) if meets is not False else ""
                if verdict and meets:
                    return verdict
            elif word in _VERDICTS and meets is not False:
                verdict = _done(hook, expression, frame, doubts if meets else [])
                if meets is None:
                    doubts.append(verdict)
                elif verdict == "return":
                    return ""
                elif verdict or word == "goto":
                    return verdict
            elif word not in _NO_CONDITIONS:
                meets = None if meets else meets
    return ""


def _done(hook: Hook, expression: Any, frame: Frame, doubts: list[str]) -> str:
    """Return the effect of a verdict: `drop` for a reject; for a jump, the verdict of the chain."""
    word = _word(expression)
    if word in ("jump", "goto"):
        return _walk(hook, (hook.family, hook.table, expression[word]["target"]), frame, doubts)
    return "drop" if word == "reject" else word


def _mapped(hook: Hook, vmap: dict[str, Any], frame: Frame, doubts: list[str]) -> str:
    data = vmap["data"]
    pairs = data.get("set", []) if isinstance(data, dict) else []
    known = _value(vmap["key"], frame)
    if known is None or not pairs:
        doubts.append("accept")  # a map may lead to any verdict
        return ""
    for key, verdict in pairs:
        if _meets(hook, key, known):
            found = _done(hook, verdict, frame, doubts)
            return "" if found == "return" else found
    return ""


def _matches(hook: Hook, match: dict[str, Any], frame: Frame) -> bool | None:
    known = _value(match["left"], frame)
    if known is None or match.get("op", "==") not in ("==", "in", "!="):
        return None
    found = _meets(hook, match["right"], known)
    return found if found is None or match.get("op") != "!=" else not found


@dataclass(frozen=True)
class _Other:
    """Any link other than the named one."""

    than: str


def _value(left: Any, frame: Frame) -> Any:
    """Return the value that the left side of a condition has for the packets; None if it is not known."""
    what = left if isinstance(left, dict) else {}
    key = what.get("meta", {}).get("key") if "meta" in what else None
    if key in ("iifname", "ibrname"):
        return frame.comes or _Other(frame.leaves)
    if key in ("oifname", "obrname"):
        return frame.leaves or _Other(frame.comes)
    if key == "nfproto":
        return "ipv4"
    if "ct" in what:
        known = {"state": frame.state, "status": "dnat" if frame.is_published else "none"}
        return known.get(what["ct"].get("key"))
    if "payload" in what:
        ends = {"saddr": frame.source, "daddr": frame.destination}
        return ends.get(what["payload"].get("field"))
    return None


def _meets(hook: Hook, right: Any, known: Any) -> bool | None:
    """Return whether a value, or a set of values, matches what is known of the packets; None if that is uncertain."""
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": hook.chains.sets.get((hook.family, hook.table, right[1:]), [])}
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    if isinstance(right, list):
        found = [_meets(hook, one, known) for one in right]
        return True if True in found else None if None in found else False
    if isinstance(right, dict) and "elem" in right:
        return _meets(hook, right["elem"].get("val"), known)
    if isinstance(known, _Other):
        return False if right == known.than else None
    if isinstance(known, IPv4Network):
        return _within(right, known)
    if not isinstance(right, str):
        return None
    return str(known).startswith(right[:-1]) if right.endswith("*") else right == known


def _within(right: Any, known: IPv4Network) -> bool | None:
    prefix: Any = right.get("prefix") if isinstance(right, dict) else {"addr": right, "len": 32}
    try:
        found = IPv4Network(f"{prefix['addr']}/{prefix['len']}", strict=False)
    except (TypeError, KeyError, ValueError):  # a range, an IPv6 address
        return None
    return True if known.subnet_of(found) else None if known.overlaps(found) else False
