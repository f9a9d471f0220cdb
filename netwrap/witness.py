"""Asks the machine what happened to a packet: counters before and after, routes, neighbours, sockets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from netwrap.check import Trial
from netwrap.errors import CommandFailed, NetwrapError
from netwrap.evidence import Counted, Reading, mark_of, parse_conntrack, parse_nft, parse_saved, parse_sums
from netwrap.facts import Listener, parse_listeners
from netwrap.probe import inside, source_of
from netwrap.spawn import spawn
from netwrap.verdict import Clues, Way


class Witness:
    """Looks into the namespaces of some places; `paths` maps each place to its namespace, "" is the host's own."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths
        self._has_nft = shutil.which("nft") is not None
        self._without_queues: set[str] = set()
        self._without_nft: set[str] = set()

    def ask(self, place: str, *words: str) -> str:
        """Return a command's output in a namespace; "" if it fails or is not installed."""
        where = ("nsenter", f"--net={self._paths[place]}", "--") if self._paths[place] else ()
        try:
            return spawn((*where, *words))
        except (CommandFailed, NetwrapError):
            return ""

    def file(self, place: str, path: str) -> str:
        """Return a /proc file's content in a namespace; "" if it does not exist."""
        with (
            suppress(OSError, UnicodeDecodeError),
            inside(self._paths[place]),
            open(f"/proc/thread-self/net/{path}") as f,
        ):
            return f.read()
        return ""

    def setting(self, place: str, key: str) -> str:
        """Return a kernel setting of a namespace; "" if it does not exist."""
        with suppress(OSError, UnicodeDecodeError), inside(self._paths[place]), open(f"/proc/sys/{key}") as file:
            return file.read().strip()
        return ""

    def counters(self, place: str) -> Reading:
        """Return what rules and kernel have counted so far in a namespace."""
        rules = dict(parse_saved(self.ask(place, "iptables-save", "-c"), "iptables"))
        if self.file(place, "ip_tables_names").strip():  # if there are none, reading would create the tables
            legacy = dict(parse_saved(self.ask(place, "iptables-legacy-save", "-c"), "iptables-legacy"))
            is_same = [key[1:] for key in legacy] == [key[1:] for key in rules]
            rules |= {} if is_same else legacy
        rules |= self._nft(place)[0]
        sums = self.sums(place)
        sums["conntrack full"] = parse_conntrack(self.file(place, "stat/nf_conntrack"))
        for line in self.file(place, "xfrm_stat").splitlines():
            name, _, number = line.partition(" ")
            sums[name.strip()] = int(number) if number.strip().isdigit() else 0
        return Reading(rules, sums | self._queues(place))

    def sums(self, place: str) -> dict[str, int]:
        """Return the kernel's packet counters of a namespace."""
        return parse_sums(self.file(place, "snmp")) | parse_sums(self.file(place, "netstat"))

    def _queues(self, place: str) -> dict[str, int]:
        if place in self._without_queues:
            return {}
        rows = self.rows(place, "tc", "-s", "-j", "qdisc", "show")
        found: dict[str, int] = {}
        for row in rows:
            key = f"qdisc {row.get('dev', '')} {row.get('kind', '')}"
            found[key] = found.get(key, 0) + int(row.get("drops", 0))
        if all(row.get("kind") in _PLAIN for row in rows):
            self._without_queues.add(place)
        return found

    def _nft(self, place: str) -> Any:
        if not self._has_nft or place in self._without_nft:
            return {}, []
        found = self._asked_nft(place)
        if not any(found):
            self._without_nft.add(place)
        return found

    def _asked_nft(self, place: str) -> Any:
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            return parse_nft(self.ask(place, "nft", "-j", "-a", "list", "ruleset"))
        return {}, []

    def rows(self, place: str, *words: str) -> list[dict[str, Any]]:
        """Return the rows that `ip`, `bridge` or `tc` prints as JSON."""
        with suppress(ValueError):
            found = json.loads(self.ask(place, *words) or "[]")
            return [row for row in found if isinstance(row, dict)]
        return []

    def route(self, place: str, *words: str) -> Way:
        """Return the route that the kernel would use for a packet."""
        where = ("nsenter", f"--net={self._paths[place]}", "--") if self._paths[place] else ()
        try:
            rows = json.loads(spawn((*where, "ip", "-j", "route", "get", *words)))
            row = next(row for row in rows if row)
        except CommandFailed as error:
            said = " ".join(error.stderr.split()).removeprefix("RTNETLINK answers: ")
            return Way(error=said or "no answer")
        except (ValueError, StopIteration, NetwrapError):
            return Way()
        return Way(row.get("dev", ""), row.get("gateway", ""), row.get("type", "unicast"))

    def clues(self, trial: Trial, arrived_from: str, counted: Sequence[Counted] = ()) -> Clues:
        """Collect what explains a failed trial, once it is known where its packets end; `arrived_from` is the source
        address with which they reached their goal, `counted` the rules that they met on this host."""
        places = [p for p in dict.fromkeys(("", trial.start, trial.goal)) if p is not None and p in self._paths]
        source_ip = trial.frame.src if trial.frame else self._own_address(trial)
        ip = trial.leads_to or trial.ip
        ways = {"start": self.route(trial.start, trial.ip)}
        marks: dict[str, int] = {}
        if trial.is_forwarded and source_ip:
            one, other = trial.passes
            kind = {"ping": "icmp", "isolated": ""}.get(trial.how, trial.how)
            marks = {"forward": mark_of(counted, one, kind), "return": mark_of(counted, other, kind)}
            ways["forward"] = self.route("", ip, "from", source_ip, "iif", one, *_marked(marks["forward"]))
            ways["return"] = self.route("", source_ip, "from", ip, "iif", other, *_marked(marks["return"]))
        if trial.start == "" or trial.leads_to:
            ways["host"] = self.route("", ip)
        if trial.goal == "" and source_ip:
            ways["answer"] = self.route("", source_ip, "from", trial.ip)
        if trial.goal and arrived_from:
            ways["answer"] = self.route(trial.goal, arrived_from)
        looks = {p: self._look(p) for p in places}
        return Clues(
            ways=ways,
            links={p: look[0] for p, look in looks.items()},
            addresses={p: look[1] for p, look in looks.items()},
            policy={p: look[2] for p, look in looks.items()},
            routes={p: look[3] for p, look in looks.items()},
            neighbours={p: look[4] for p, look in looks.items()},
            listeners=self.listeners(trial.goal) if trial.port is not None and trial.goal else frozenset(),
            settings={p: self._settings(p, trial) for p in places},
            suspects={p: self._nft(p)[1] for p in places},
            source=source_ip,
            marks=marks,
            has_nft=self._has_nft,
        )

    def _look(self, place: str) -> list[list[dict[str, Any]]]:
        """Return the answers of one namespace to QUESTIONS, each a list of rows."""
        where = ("nsenter", f"--net={self._paths[place]}", "--") if self._paths[place] else ()
        found: list[list[dict[str, Any]]] = []
        with suppress(CommandFailed, NetwrapError, ValueError):
            for line in filter(None, spawn((*where, "ip", "-j", "-d", "-batch", "-"), QUESTIONS).split("\n")):
                found.append([row for row in json.loads(line, strict=False) if row])
        return found + [[]] * (QUESTIONS.count("\n") - len(found))

    def _own_address(self, trial: Trial) -> str:
        return source_of(self._paths[trial.start], trial.ip) or ""

    def _settings(self, place: str, trial: Trial) -> dict[str, str]:
        links = {p.link for p in trial.way if p.place == place} | {"all"}
        keys = [f"net/ipv4/conf/{link}/{name}" for link in sorted(links) for name in _OF_LINK]
        found = {key: self.setting(place, key) for key in (*keys, *_SETTINGS)}
        return {key: value for key, value in found.items() if value}

    def listeners(self, place: str) -> frozenset[Listener]:
        """Return the listening sockets of a namespace."""
        found: set[Listener] = set()
        for name in ("tcp", "tcp6", "udp", "udp6"):
            if text := self.file(place, name):
                with suppress(ValueError, IndexError):
                    found |= parse_listeners(text, name.removesuffix("6"))
        return frozenset(found)


def _marked(mark: int) -> tuple[str, ...]:
    return ("mark", hex(mark)) if mark else ()


QUESTIONS = "link show\naddr show\nrule show\nroute show table all root 0.0.0.0/0\nneigh show\n"
"""One JSON array per line: see facts.QUESTIONS."""

_PLAIN = frozenset({"noqueue", "fq_codel", "pfifo_fast", "mq", "noop", "pfifo"})
"""Queueing disciplines that drop nothing unless the link is overloaded."""

_OF_LINK = ("forwarding", "rp_filter", "route_localnet", "arp_ignore", "arp_filter", "disable_policy")
_SETTINGS = (
    "net/ipv4/icmp_echo_ignore_all",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_count",
)
