"""The state of the kernel as text, for helpers.bash and the drivers beside it.

All that `ip` tells of links, addresses, routes and rules, but for what changes by itself; the rules of iptables; the
settings in net.ipv4 and net.ipv6; /run/netns: of this namespace, of every one in /run/netns and of every process here.
Of IPv6, what the kernel gives links by itself, after a while, counts on links of netwrap's alone: they have none of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOOK = """
ip -j -d addr show; echo '# routes'; ip -j -4 route show table all; echo '# rules'; ip -j rule show
echo '# routes6'; ip -j -6 route show table all; echo '# rules6'; ip -j -6 rule show
echo '# iptables'; iptables-save | grep -v '^#'; echo '# ip6tables'; ip6tables-save | grep -v '^#'
echo '# sysctls'; cd /proc/sys/net/ipv4 && grep -H . ip_forward conf/*/*
cd /proc/sys/net && grep -Hs . ipv6/conf/*/* || true
"""
_GROUP = "28279"
# Numbers that are given anew, timers, and what the kernel does later: carrier, forwarding state of a port.
_BY_ITSELF = {
    *("ifindex", "link_index", "link", "link_netnsid", "link_netns", "operstate", "state", "config_pending"),
    *("valid_life_time", "preferred_life_time", "designated_port", "no", "port_no", "id", "topology_change_ack"),
    *("topology_change", "topology_change_detected", "root_id", "bridge_id", "designated_bridge", "designated_root"),
    "qdisc",  # of a loopback link that was up once
}
_OFFLOADS = ("tso_", "gso_", "gro_")  # a bridge's follow from its ports
_FLAGS = {"UP", "LOOPBACK", "BROADCAST", "MULTICAST", "NOARP", "PROMISC"}


def kernel_state() -> str:
    """All of it; a namespace without a name is told without the number of its process."""
    lines = ["== host", *_space([])]
    handles = sorted(Path("/run/netns").iterdir())
    lines += ["== /run/netns", *(h.name for h in handles)]
    seen = {os.stat("/proc/self/ns/net").st_ino}
    for handle in handles:
        if _is_new(handle, seen):
            lines += [f"== {handle}", *_space(["nsenter", f"--net={handle}"])]
    for process in sorted((p for p in Path("/proc").iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
        if _is_new(process / "ns" / "net", seen):
            lines += ["== process", *_space(["nsenter", f"--net={process}/ns/net"])]
    return "\n".join(lines)


def _is_new(namespace: Path, seen: set[int]) -> bool:
    try:
        found = namespace.stat()
    except OSError:  # the process has ended
        return False
    new = found.st_ino not in seen and found.st_dev == os.stat("/proc/self/ns/net").st_dev
    seen.add(found.st_ino)
    return new


def _space(where: list[str]) -> Iterator[str]:
    text = subprocess.run([*where, "sh", "-c", _LOOK], stdout=subprocess.PIPE, text=True, check=True).stdout
    objects, routes, rules, routes6, rules6, *rest = re.split(r"# \w+\n", text)
    ours = set()
    for link in sorted(json.loads(objects or "[]"), key=lambda link: str(link.get("ifname"))):
        if link.get("ifname"):
            link["flags"] = sorted(_FLAGS & set(link["flags"]))
            ours |= {link["ifname"]} if str(link.get("group")) == _GROUP else set()
            addresses = [a for a in link.pop("addr_info", ()) if a.get("scope") != "link" or link["ifname"] in ours]
            yield from (f"link {link['ifname']} {word}" for word in sorted(_words("", link)))
            yield from sorted(f"addr {link['ifname']} {_flat(a)}" for a in addresses)
    yield from sorted(f"route {_flat({**route, 'flags': None})}" for route in json.loads(routes or "[]"))
    yield from sorted(f"rule {_flat(rule)}" for rule in json.loads(rules or "[]"))
    found = [r for r in json.loads(routes6 or "[]") if r.get("protocol") != "kernel" or r.get("dev") in ours]
    yield from sorted(f"route6 {_flat(route)}" for route in found)
    yield from sorted(f"rule6 {_flat(rule)}" for rule in json.loads(rules6 or "[]"))
    for version, tables in zip(("iptables", "ip6tables"), rest, strict=False):
        yield from _rules(version, tables)
    yield from rest[2].splitlines()


def _rules(version: str, text: str) -> Iterator[str]:
    """Rules in their order; an empty built-in chain does not count: iptables makes a table when it first looks."""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A"):
            yield f"{version} -t {table} {line}"
        elif line.startswith(":") and line.split()[1] != "ACCEPT":
            yield f"{version} -t {table} chain {' '.join(line.split()[:2])}"


def _flat(value: dict[str, Any]) -> str:
    return " ".join(sorted(_words("", value)))


def _words(prefix: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not (key in _BY_ITSELF or key.startswith(_OFFLOADS) or key.endswith("_timer")):
                yield from _words(f"{prefix}{key}.", inner)
    elif value not in (None, [], {}):
        yield f"{prefix[:-1]}={json.dumps(value)}"


if __name__ == "__main__":
    print(kernel_state())
