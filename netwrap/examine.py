"""Asks the machine what the doctor needs besides the facts; trials run in temporary namespaces."""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from netwrap.doctor import Machine
from netwrap.errors import CommandFailed, NetwrapError
from netwrap.sandbox import switched_off
from netwrap.spawn import PACKAGES, spawn

TOOLS = (
    *("ip", "iptables", "iptables-save", "iptables-restore", "sysctl", "nsenter", "setpriv", "unshare"),
    *("conntrack", "ping"),
)

TRIALS = {
    "bridge": "ip link add name trial type bridge",
    "veth": "ip link add name trial type veth peer name other",
    "NAT": "iptables -w -t nat -A OUTPUT -p tcp -m tcp --dport 80 -m addrtype --dst-type LOCAL -m comment "
    "--comment trial -j DNAT --to-destination 10.0.0.2:80",
    "masquerading": "iptables -w -t nat -A POSTROUTING -j MASQUERADE",
    "connection tracking": "iptables -w -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    "the mangle table": "iptables -w -t mangle -I FORWARD -i trial ! -o trial -j DROP",
    "the raw table": "iptables -w -t raw -A PREROUTING -d 127.0.0.0/8 ! -i lo -j DROP",
    "routing by source": "ip rule add from 10.0.0.2 table 101",
}
"""What a plan needs from the kernel, and a command that shows whether the kernel supports it."""

NETWORK_MANAGER = ("/usr/lib/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/etc/NetworkManager/conf.d")
NETWORKD = ("/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network")
"""In these folders a file overrides files of the same name in later folders (systemd.network(5))."""

RUNNING = {"NetworkManager": Path("/run/NetworkManager"), "systemd-networkd": Path("/run/systemd/netif")}
"""The path that each manager creates when it starts."""

LEGACY_TABLES = Path("/proc/net/ip_tables_names")


def machine(links: Iterable[tuple[str, str]]) -> Machine:
    """Examine everything; `links` are our links by name and kind that a network manager might take over."""
    backend, other = backends()
    return Machine(
        missing={tool: PACKAGES[tool] for tool in TOOLS if shutil.which(tool) is None},
        unable=dict(unable()),
        backend=backend,
        other_backend=other,
        rp_filter={p.parent.name: _read(p) for p in Path("/proc/sys/net/ipv4/conf").glob("*/rp_filter")},
        bridges_filtered=_read(Path("/proc/sys/net/bridge/bridge-nf-call-iptables")) == "1",
        grabs=tuple(grabs(list(links))),
        no_user_namespaces=switched_off(),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _answer(command: str) -> str | None:
    """Return a command's output; None if it is not installed or fails."""
    try:
        return spawn(command.split())
    except (CommandFailed, NetwrapError):
        return None


def unable() -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield what the kernel does not support, each with the command that shows it and its output."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    if shutil.which("unshare") is None or _answer(" ".join(("unshare", *user, "--net", "true"))) is None:
        return
    for feature, command in TRIALS.items():
        if shutil.which(command.split()[0]) is None:
            continue
        try:
            spawn(("unshare", *user, "--net", *command.split()))
        except CommandFailed as error:
            yield feature, (command, " ".join(error.how.split()))


def backends() -> tuple[str, tuple[str, ...]]:
    """Return the backend of `iptables`, and the other backend with the tables in which it has rules, or a policy
    that is not ACCEPT; empty if there are none.

    Legacy tables are read only if the kernel says that they exist: reading would create them.
    """
    version = _answer("iptables -V") or ""
    backend = "legacy" if "legacy" in version else "nft"
    other = "nft" if backend == "legacy" else "legacy"
    if other == "legacy" and not _read(LEGACY_TABLES):
        return backend, ()
    table, found = "", []
    for line in (_answer(f"iptables-{other}-save") or "").splitlines():
        has_policy = line.startswith(":") and line.split()[1] not in ("ACCEPT", "-")
        if line.startswith("*"):
            table = line[1:]
        elif (line.startswith("-A") or has_policy) and table not in found:
            found.append(table)
    return backend, (other, *found) if found else ()


# ---- network managers


def grabs(links: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield which manager would take over which link, and the file that says so."""
    if RUNNING["NetworkManager"].is_dir():
        unmanaged = list(_unmanaged())
        for name, kind in links:
            # by default, veths are not managed (85-nm-unmanaged.rules)
            if kind != "veth" and not any(_nm_matches(spec, name, kind) for spec in unmanaged):
                yield "NetworkManager", name, "no unmanaged-devices for it"
    if RUNNING["systemd-networkd"].is_dir():
        files = {p.name: p for folder in reversed(NETWORKD) for p in Path(folder).glob("*.network")}
        for name, kind in links:
            for file in sorted(files):
                found = _parsed(files[file])
                if _networkd_matches(found, name, kind):
                    if _first(found, "Link", "Unmanaged").lower() not in ("yes", "true", "1", "on"):
                        yield "systemd-networkd", name, str(files[file])
                    break


def _unmanaged() -> Iterator[str]:
    folders = [Path(folder) for folder in NETWORK_MANAGER]
    files = [Path("/etc/NetworkManager/NetworkManager.conf"), *(p for f in folders for p in sorted(f.glob("*.conf")))]
    for file in files:
        yield from _first(_parsed(file), "keyfile", "unmanaged-devices").replace(",", ";").split(";")


def _nm_matches(spec: str, name: str, kind: str) -> bool:
    """Return whether a device spec matches a link (NetworkManager.conf(5), Device List Format)."""
    what, colon, pattern = spec.strip().partition(":")
    if not colon:
        return what != "" and fnmatchcase(name, what)
    if what == "interface-name":
        return fnmatchcase(name, pattern.removeprefix("="))
    return what in ("type", "driver") and kind == pattern


def _networkd_matches(found: configparser.RawConfigParser, name: str, kind: str) -> bool:
    """Return whether the [Match] section of a .network file matches a link; an empty one matches every link."""
    conditions = {"Name": name, "Kind": kind, "Driver": kind, "Type": "bridge" if kind == "bridge" else "ether"}
    for key, value in found.items("Match") if found.has_section("Match") else ():
        wanted = next((mine for known, mine in conditions.items() if known.lower() == key.lower()), None)
        inverted, patterns = (value or "").startswith("!"), (value or "").removeprefix("!").split()
        if wanted is None or inverted == any(fnmatchcase(wanted, pattern) for pattern in patterns):
            return False
    return found.has_section("Match")


def _parsed(file: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=True, interpolation=None)
    with suppress(configparser.Error):
        parser.read_string(_read(file))
    return parser


def _first(found: configparser.RawConfigParser, section: str, key: str) -> str:
    return found.get(section, key, fallback="") or ""
