"""A toy kernel: a dict of namespaces, links, addresses, routes, rules and settings that obeys our commands.

It interprets the exact words of our commands and is strict: a word it does not know is an AssertionError, what
Linux refuses is a CommandFailed. `facts()` is what a look at it sees, `snapshot()` all of it, to be compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface
from itertools import count
from typing import Any

from toyflows import ToyFlow
from toysettings import Settings
from toyspace import Namespace, ToyLink, change_route, change_rule
from toytables import Refused, Tables, split
from toywords import link_options, must, spelt

from netwrap.errors import CommandFailed
from netwrap.facts import Facts, Listener, Route
from netwrap.model import Netns, Process
from netwrap.nft import Hook
from netwrap.policy import PolicyRule
from netwrap.steps import Cmd, shell_line

HOST = 4026531840


class ToyKernel:
    """A small machine: lo and eth0 (192.168.1.10/24) on the host; processes 64560 to 64562 with a network
    namespace each, lo down in it; 64570 a thread of the first; process 1 in the host's own namespace."""

    def __init__(self) -> None:
        self.namespaces = {HOST: Namespace()}
        self.cookies: dict[int, int] = {}
        """Of every namespace, by its inode: given once, where an inode is given again."""
        self.handles: dict[str, int] = {}
        self.processes = {1: Process(1, 10, HOST, 1)}
        self.tables = Tables()
        self.sysctls = Settings()
        self.listeners: set[Listener] = set()
        self.flows: list[ToyFlow] = []
        self.tools: set[str] = set()
        self.hooks: tuple[Hook, ...] = ()
        self.ways: tuple[PolicyRule, ...] = ()
        """Rules for tables of routes, where they are not those that each machine begins with."""
        self.boot_id = "0b00f1d0-0000-4000-8000-000000000001"
        self.log: list[tuple[str, ...]] = []
        """Every single change that was asked for, in order."""
        self.spawned: list[tuple[str, ...]] = []
        """Every process that was started."""
        self.around: Callable[[Callable[[], None]], None] = lambda change: change()
        """What happens at each change: the place for a failure or a death."""
        self._next_cookie = 4096
        for pid in (64560, 64561, 64562):
            self.processes[pid] = Process(pid, pid * 10, self._new_namespace(), pid)
        self.processes[64570] = Process(64570, 645700, self.processes[64560].inode, 64560)
        self._appear(self.host, ToyLink("eth0", "52:54:00:00:00:10", up=True))
        self.host.links["lo"].up = True
        self.host.addrs = [("lo", "127.0.0.1/8"), ("eth0", "192.168.1.10/24")]
        self.host.routes = [Route("default", "eth0", "192.168.1.1")]

    @property
    def host(self) -> Namespace:
        return self.namespaces[HOST]

    # What the tests ask

    def facts(
        self,
        pids: Iterable[int] = (),
        namespaces: Iterable[Netns] = (),
        *,
        ports: bool = False,
        way_out: bool = False,
    ) -> Facts:
        """A look at the machine, at processes and into namespaces, as netwrap.look gives it."""
        processes = {pid: self.processes[pid] for pid in pids if pid in self.processes}
        inodes = {HOST, *(p.inode for p in processes.values())} | {self.handles.get(n.name, 0) for n in namespaces}
        return Facts(
            host=self.host.seen(self.ways),
            inode=HOST,
            boot_id=self.boot_id,
            handles=dict(self.handles),
            spaces={i: self.namespaces[i].seen() for i in inodes if i in self.namespaces},
            cookies={i: self.cookies[i] for i in inodes if i in self.cookies},
            rules={place: tuple(rules) for place, rules in self.tables.chains.items()},
            sysctls=dict(self.sysctls),
            processes=processes,
            listeners=frozenset(self.listeners) if ports else frozenset(),
            policies=dict(self.tables.policies),
            hooks=self.hooks if ports else (),
            way_out=self.host.way_out() if way_out else None,
            tools=frozenset(self.tools),
        )

    def everything(self) -> Facts:
        """A look into every process and every handle."""
        return self.facts(
            self.processes, [Netns(name, inode) for name, inode in self.handles.items()], ports=True, way_out=True
        )

    def snapshot(self) -> dict[str, Any]:
        """All of the kernel's state, to be compared; the order of rules counts, that of routes does not."""
        return {
            "handles": dict(self.handles),
            "sysctls": dict(self.sysctls),
            "rules": {place: tuple(rules) for place, rules in self.tables.chains.items()},
            "namespaces": {
                inode: (
                    {n: li.told() for n, li in ns.links.items()},
                    sorted(ns.addrs),
                    sorted(ns.routes + ns.connected(), key=str),
                    sorted(ns.policy),
                )
                for inode, ns in self.namespaces.items()
            },
        }

    def end_process(self, pid: int) -> None:
        """A process ends; its namespace goes with it, unless a handle keeps it."""
        inode = self.processes[pid].inode
        self.processes = {number: p for number, p in self.processes.items() if p.tgid != pid}
        self._collect(inode)

    def read_sysctl(self, key: str) -> str | None:
        return self.sysctls.get(spelt(key))

    def netns_at(self, name: str) -> Netns | None:
        inode = self.handles.get(name)
        return None if inode is None else Netns(name, inode, self.cookies.get(inode, 0))

    # What runs on it

    def spawn(self, words: Sequence[str], stdin: str | None = None, _signals: object = None) -> str:
        """Stands in for execute.spawn: one process, which may read commands from its stdin."""
        self.spawned.append(tuple(words))
        plain = list(words)
        try:
            if plain[0] == "iptables-restore":
                assert plain[1:] == ["-w", "--noflush"]
                assert stdin is not None
                self.tables.restore(stdin, self._restored)
            elif plain[0] == "ip" and plain[-2:] == ["-batch", "-"]:
                assert stdin is not None
                for line in stdin.splitlines():
                    self.run([*plain[:-2], *split(line)])
            elif plain[0] == "sysctl":
                assert stdin is None
                for setting in plain[1:]:
                    self.run(["sysctl", setting])
            else:
                assert stdin is None
                self.run(plain)
        except Refused as error:
            raise CommandFailed(shell_line(words), error.code, str(error)) from None
        return ""

    def do(self, cmd: Cmd) -> None:
        """Runs one command of a step."""
        try:
            self.spawn(cmd.line())
        except CommandFailed as error:
            if not (cmd.may_find_nothing and error.code == 1):
                raise

    def run(self, words: Sequence[str]) -> None:
        """Makes one change."""
        self.log.append(tuple(words))
        self.around(lambda: self._run(list(words)))

    def _restored(self, table: str, words: list[str]) -> None:
        self.log.append(("iptables", "-w", "-t", table, *words))
        self.around(lambda: self.tables.change(table, words))

    def _run(self, words: list[str]) -> None:
        tool, *rest = words
        match tool:
            case "iptables":
                self.tables.iptables(rest)
            case "sysctl":
                (setting,) = rest
                self._sysctl(*setting.split("="))
            case "ip":
                self._ip(rest)
            case "conntrack":
                assert rest[0] == "-D"
                gone = [flow for flow in self.flows if flow.is_meant(rest[1:])]
                self.flows = [flow for flow in self.flows if flow not in gone]
                must(bool(gone), "conntrack v1.4.7 (conntrack-tools): 0 flow entries have been deleted.", 1)
            case _:
                raise AssertionError(f"unknown program {tool}")

    def _ip(self, words: list[str]) -> None:
        ns = self.host
        if words[0] == "-n":
            must(words[1] in self.handles, f'Cannot open network namespace "{words[1]}"')
            ns, words = self.namespaces[self.handles[words[1]]], words[2:]
        match words:
            case ["link", "add", *rest]:
                self._link_add(ns, rest)
            case ["link", "del", "dev", name]:
                self._link_del(ns, self._link(ns, name))
            case ["link", "set", "dev", name, *rest]:
                self._link_set(ns, self._link(ns, name), rest)
            case ["addr", how, cidr, "dev", name]:
                self._addr(ns, how, cidr, self._link(ns, name))
            case ["route", how, *rest]:
                change_route(ns, how, rest, everywhere="eth0" if ns is self.host else None)
            case ["rule", how, "from", source, "table", table]:
                change_rule(ns, how, (source, table))
            case ["neigh", "flush", "to", ip, "dev", name]:
                IPv4Address(ip)
                self._link(ns, name)
            case ["netns", *rest] if ns is self.host:
                self._netns(rest)
            case _:
                raise AssertionError(f"unknown: ip {words}")

    # ip link

    def _link_add(self, ns: Namespace, words: list[str]) -> None:
        at = words.index("type")
        ours, kind, rest = link_options(words[:at]), words[at + 1], words[at + 2 :]
        made = [ToyLink(kind=kind, **ours)]
        if kind == "veth":
            assert rest[0] == "peer"
            made.append(ToyLink(kind=kind, **link_options(rest[1:])))
            made[0].peer, made[1].peer = made[1], made[0]
        else:
            assert (kind, rest) == ("bridge", [])
            assert "mtu" not in ours, "a bridge does not keep an MTU that is given when it is made"
        for link in made:
            self._must_be_free(ns, link.name)
        for link in made:
            self._appear(ns, link)

    def _appear(self, ns: Namespace, link: ToyLink) -> None:
        ns.links[link.name] = link
        if ns is self.host:
            self.sysctls.appear(link)

    def _forget(self, ns: Namespace, name: str) -> None:
        """A link leaves a namespace, and its addresses, routes, ports and settings with it."""
        link = ns.links.pop(name)
        link.up, link.master, link.hairpin = False, None, False
        ns.addrs = [(dev, cidr) for dev, cidr in ns.addrs if dev != name]
        ns.routes = [r for r in ns.routes if r.dev != name]
        for port in ns.links.values():
            if port.master == name:
                port.master, port.hairpin = None, False
        self._follow(ns)
        if ns is self.host:
            self.sysctls.forget(name)

    def _follow(self, ns: Namespace) -> None:
        """A bridge whose MTU nobody has set has that of its smallest port (br_mtu_auto_adjust() in net/bridge)."""
        for bridge in ns.links.values():
            if bridge.kind == "bridge" and not bridge.mtu_is_set:
                bridge.mtu = min((li.mtu for li in ns.links.values() if li.master == bridge.name), default=1500)
                if ns is self.host:
                    self.sysctls.of_link(bridge, "disable_ipv6")

    def _link_del(self, ns: Namespace, link: ToyLink) -> None:
        must(link.kind != "", "RTNETLINK answers: Operation not supported")
        self._forget(ns, link.name)
        if link.peer is not None:
            other = next(n for n in self.namespaces.values() if link.peer in n.links.values())
            self._forget(other, link.peer.name)

    def _link_set(self, ns: Namespace, link: ToyLink, words: list[str]) -> None:
        match words:
            case ["up"]:
                link.up = True
                if link.name == "lo" and not any(dev == "lo" for dev, _ in ns.addrs):
                    ns.addrs.append(("lo", "127.0.0.1/8"))
            case ["down"]:
                link.up = False
                ns.disconnected = {pair for pair in ns.disconnected if pair[0] != link.name}
                ns.routes = [r for r in ns.routes if r.dev != link.name]
            case ["master", bridge]:
                must(self._link(ns, bridge).kind == "bridge", "RTNETLINK answers: Operation not supported")
                link.master, link.hairpin = bridge, False
                self._follow(ns)
            case ["nomaster"]:
                must(link.master is not None, "the toy kernel's own: it has no master")
                link.master, link.hairpin = None, False
                self._follow(ns)
            case ["name", name]:
                must(not link.up, "RTNETLINK answers: Device or resource busy")
                self._must_be_free(ns, name)
                self._rename(ns, link, name)
            case ["address", mac]:
                link.mac = mac
            case ["group", group]:
                link.group = group
            case ["mtu", value]:
                link.mtu, link.mtu_is_set = int(value), True
                self._follow(ns)
                if ns is self.host:
                    self.sysctls.of_link(link, "disable_ipv6")
            case ["type", "bridge_slave", "hairpin", ("on" | "off") as value]:
                must(link.master is not None, "RTNETLINK answers: Operation not supported")
                link.hairpin = value == "on"
            case ["netns", where, "name", name]:
                target = self._target(where)
                self._must_be_free(target, name)
                self._forget(ns, link.name)
                link.name = name
                self._appear(target, link)
            case _:
                raise AssertionError(f"unknown: ip link set dev {link.name} {words}")

    def _rename(self, ns: Namespace, link: ToyLink, name: str) -> None:
        old, link.name = link.name, name
        ns.links[name] = ns.links.pop(old)
        ns.addrs = [(name if dev == old else dev, cidr) for dev, cidr in ns.addrs]
        for port in ns.links.values():
            port.master = name if port.master == old else port.master
        if ns is self.host:
            self.sysctls.rename(old, name)

    def _target(self, where: str) -> Namespace:
        """A namespace as `ip link set … netns` takes it: a handle, or a pid."""
        if where in self.handles:
            return self.namespaces[self.handles[where]]
        if where in ("$$", str(os.getpid())):
            return self.host
        must(where.isdigit() and int(where) in self.processes, f'Error: argument "{where}" is wrong: Invalid "netns"')
        return self.namespaces[self.processes[int(where)].inode]

    def _link(self, ns: Namespace, name: str) -> ToyLink:
        must(name in ns.links, f'Cannot find device "{name}"')
        return ns.links[name]

    def _must_be_free(self, ns: Namespace, name: str) -> None:
        assert 1 <= len(name) <= 15, f"no interface name: {name}"
        taken = any(name == li.name or name in li.altnames for li in ns.links.values())
        must(not taken, "RTNETLINK answers: File exists")

    # ip addr, ip route, ip netns, sysctl

    def _addr(self, ns: Namespace, how: str, cidr: str, link: ToyLink) -> None:
        assert "/" in cidr
        IPv4Interface(cidr)
        pair = (link.name, cidr)
        if how == "add":
            must(pair not in ns.addrs, "RTNETLINK answers: File exists")
            ns.addrs.append(pair)
        else:
            assert how == "del"
            must(pair in ns.addrs, "RTNETLINK answers: Cannot assign requested address")
            ns.disconnected.discard((link.name, str(IPv4Interface(cidr).network)))
            ns.addrs.remove(pair)

    def _netns(self, words: list[str]) -> None:
        match words:
            case ["attach", name, pid]:
                must(name not in self.handles, f'Cannot create namespace file "/run/netns/{name}": File exists')
                must(int(pid) in self.processes, f"Invalid PID: {pid}")
                self.handles[name] = self.processes[int(pid)].inode
            case ["add", name]:
                must(name not in self.handles, f'Cannot create namespace file "/run/netns/{name}": File exists')
                self.handles[name] = self._new_namespace()
            case ["del", name]:
                must(name in self.handles, f'Cannot remove namespace file "/run/netns/{name}": No such file')
                self._collect(self.handles.pop(name))
            case _:
                raise AssertionError(f"unknown: ip netns {words}")

    def _new_namespace(self) -> int:
        inode = next(n for n in count(4026532501) if n not in self.namespaces)
        self._next_cookie += 1
        self.namespaces[inode], self.cookies[inode] = Namespace(), self._next_cookie
        return inode

    def _collect(self, inode: int) -> None:
        """A namespace that nobody holds ends, and its veths end with it."""
        if (
            inode not in self.namespaces
            or inode in self.handles.values()
            or any(p.inode == inode for p in self.processes.values())
        ):
            return
        for link in list(self.namespaces[inode].links.values()):
            if link.kind:
                self._link_del(self.namespaces[inode], link)
        del self.namespaces[inode], self.cookies[inode]

    def _sysctl(self, key: str, value: str) -> None:
        key = spelt(key)
        must(key in self.sysctls, f"sysctl: cannot stat /proc/sys/{key.replace('.', '/')}: No such file", 255)
        self.sysctls.write(key, value, self.host.links)
