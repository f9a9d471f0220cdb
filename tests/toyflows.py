"""The toy kernel's connections, as `conntrack -D` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network


@dataclass(frozen=True)
class ToyFlow:
    """One connection that is remembered; `led_to` is where a DNAT rule has led it."""

    protocol: str
    source: str
    target: str
    port: int
    led_to: str | None = None

    def is_meant(self, words: list[str]) -> bool:
        """Whether all options are for it."""
        found = dict(zip(words[::2], words[1::2], strict=True))
        assert found, "all connections of the machine"
        assert found.keys() <= {"-p", "--orig-src", "--orig-dst", "--orig-port-dst", "--dst-nat", "--reply-src"}
        assert "--orig-port-dst" not in found or "-p" in found, "a port of no protocol"
        return (
            found.get("-p", self.protocol) == self.protocol
            and IPv4Address(self.source) in IPv4Network(found.get("--orig-src", "0.0.0.0/0"))
            and IPv4Address(self.target) in IPv4Network(found.get("--orig-dst", "0.0.0.0/0"))
            and found.get("--orig-port-dst", str(self.port)) == str(self.port)
            and found.get("--dst-nat", self.led_to) == self.led_to
            and found.get("--reply-src", self.led_to or self.target) == (self.led_to or self.target)
        )
