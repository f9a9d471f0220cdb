"""Which name servers a container's command uses: the host's, if it can reach them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

ETC = "/etc/resolv.conf"
UPSTREAM = "/run/systemd/resolve/resolv.conf"
"""Where systemd-resolved lists its own upstream servers (systemd-resolved.service(8))."""


def servers(text: str) -> list[str]:
    """The name servers of a resolv.conf(5)."""
    lines = (line.split() for line in text.splitlines())
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def are_out_of_reach(found: Iterable[str]) -> bool:
    """Return whether all of them listen on the host's loopback, which a container cannot reach."""
    found = list(found)
    return bool(found) and all(_is_local(server) for server in found)


def _is_local(server: str) -> bool:
    try:
        ip = ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified


def upstream() -> list[str]:
    """The words before a command that make it use systemd-resolved's upstream servers."""
    return ["sh", "-c", f'mount --bind {UPSTREAM} {ETC} && exec "$@"', "sh"]


def these(chosen: Iterable[str]) -> list[str]:
    """The words before a command that make it use these servers. Nothing of the file remains outside: it is made in
    a temporary tmpfs, in the command's own mount namespace."""
    lines = " ".join(f"'nameserver {server}'" for server in chosen)
    made = f"printf '%s\\n' {lines} >/tmp/resolv.conf && chmod 644 /tmp/resolv.conf"
    bound = f"mount --bind /tmp/resolv.conf {ETC} && umount -l /tmp"
    return ["sh", "-c", f'mount -t tmpfs tmpfs /tmp && {made} && {bound} && exec "$@"', "sh"]
