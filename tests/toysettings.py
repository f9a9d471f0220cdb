"""The toy kernel's settings of links, and what the kernel changes along with one."""

from __future__ import annotations

from collections.abc import Iterable

from toyspace import ToyLink
from toywords import key_of

SETTINGS = {"forwarding": "0", "route_localnet": "0", "accept_redirects": "1", "rp_filter": "0", "disable_ipv6": "0"}


class Settings(dict[str, str]):
    """net.ipv4.conf and net.ipv6.conf of the host, by key: those of all, of new links and of lo to begin with."""

    def __init__(self) -> None:
        names = ("all", "default", "lo")
        super().__init__({key_of(name, setting): old for name in names for setting, old in SETTINGS.items()})

    def appear(self, link: ToyLink) -> None:
        """A new link has those of new links."""
        for setting in SETTINGS:
            self.of_link(link, setting)

    def of_link(self, link: ToyLink, setting: str) -> None:
        """A link's setting begins as those of new links are; below an MTU of 1280 there is no IPv6 on it."""
        key, default = key_of(link.name, setting), self.get(key_of("default", setting))
        if default is None or (setting == "disable_ipv6" and link.mtu < 1280):
            self.pop(key, None)
        else:
            self.setdefault(key, default)

    def rename(self, old: str, name: str) -> None:
        """A link has another name, and so have its settings."""
        for setting in (s for s in SETTINGS if key_of(old, s) in self):
            self[key_of(name, setting)] = self.pop(key_of(old, setting))

    def forget(self, name: str) -> None:
        """A link is gone, and its settings with it."""
        for setting in SETTINGS:
            self.pop(key_of(name, setting), None)

    def write(self, key: str, value: str, links: Iterable[str]) -> None:
        """Sets one, on a host with these links."""
        changes = self[key] != value
        self[key] = value
        if key == "net.ipv4.conf.all.forwarding" and changes:  # inet_forward_change() in net/ipv4/devinet.c
            self["net.ipv4.conf.all.accept_redirects"] = "0" if value == "1" else "1"
            for name in ("default", *links):
                self[key_of(name, "forwarding")] = value
        if key == "net.ipv6.conf.all.disable_ipv6":  # addrconf_disable_ipv6() in net/ipv6/addrconf.c
            for name in ("default", *(n for n in links if key_of(n, "disable_ipv6") in self)):
                self[key_of(name, "disable_ipv6")] = value
