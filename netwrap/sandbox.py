"""The throw-away host: private namespaces, set up like a freshly booted machine, with a LAN and an internet around.

The internet host has a route back to the LAN, and none to the subnets of containers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from netwrap import init, prompt
from netwrap.attend import PYTHON, Attended, handling
from netwrap.desk import DEFAULT_STATE
from netwrap.errors import BadInput, CommandFailed, NetwrapError, quoted
from netwrap.spawn import require, spawn

HOST, GATEWAY, NEIGHBOUR, LAN = "192.168.50.10", "192.168.50.1", "192.168.50.20", "192.168.50.0/24"
INTERNET, UPLINK = "203.0.113.1", "203.0.113.254"
STATE_DIR = "/run/netwrap"
VARIABLE = "NETWRAP_STATE_DIR"
MARK = Path("/run/.netwrap-sandbox")
"""A file that exists only inside a sandbox: the outer $NETWRAP_STATE_DIR, one line for each enclosing sandbox."""

PICTURE = f"""\
internet         gateway                        LAN
{INTERNET} ---- {UPLINK}  {GATEWAY} --+-- {HOST} host, eth0
                                               `-- {NEIGHBOUR} neighbour
"""

_MACHINE = """
mount --make-rprivate /
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/netns
ip link set dev lo up
sysctl net.ipv4.ip_forward=0
"""

AROUND = f"""
ip netns add gateway
ip -n gateway link set dev lo up
ip -n gateway link add name lan type bridge
ip -n gateway addr add {GATEWAY}/24 dev lan
ip -n gateway link set dev lan up
ip link add name eth0 type veth peer name to-host netns gateway
ip -n gateway link set dev to-host master lan up
ip addr add {HOST}/24 dev eth0
ip link set dev eth0 up
ip route add default via {GATEWAY} dev eth0
ip netns add neighbour
ip -n neighbour link set dev lo up
ip -n neighbour link add name eth0 type veth peer name to-neighbour netns gateway
ip -n gateway link set dev to-neighbour master lan up
ip -n neighbour addr add {NEIGHBOUR}/24 dev eth0
ip -n neighbour link set dev eth0 up
ip -n neighbour route add default via {GATEWAY} dev eth0
ip netns add internet
ip -n internet link set dev lo up
ip -n internet link add name eth0 type veth peer name wan netns gateway
ip -n gateway addr add {UPLINK}/24 dev wan
ip -n gateway link set dev wan up
ip -n internet addr add {INTERNET}/24 dev eth0
ip -n internet link set dev eth0 up
ip -n internet route add {LAN} via {UPLINK} dev eth0
ip netns exec gateway sysctl net.ipv4.ip_forward=1
"""
"""The LAN and the internet around the host, command by command."""


def enter(command: list[str], *, around: bool) -> int:
    """Runs a command inside a sandbox; returns its exit code. Nothing of the sandbox remains, even after SIGKILL.

    Raises BadInput for a command that does not exist; NetwrapError without namespaces, or if a tool is missing.
    """
    if shutil.which(command[0]) is None:
        raise BadInput(f"no command {quoted(command[0])}", "netwrap sandbox -- COMMAND…")
    require(["ip", "mount", "setpriv", "sysctl", "unshare"])
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    _refuse_without_namespaces(user)
    inside = [*PYTHON, "netwrap", "sandbox-host", *(["--lan"] if around else []), "--", *command]
    words = [
        *("setpriv", "--pdeathsig", "KILL", "unshare", *user, "--mount", "--pid", "--fork", "--kill-child"),
        *("--mount-proc", "unshare", "--net", *inside),
    ]
    attended = Attended()
    with handling(attended.signal):
        return attended.run(words)


def _refuse_without_namespaces(user: list[str]) -> None:
    try:
        spawn(["unshare", *user, "--mount", "--net", "true"])
    except CommandFailed as error:
        what = "user namespaces are not allowed for ordinary users here" if user else "namespaces are not allowed here"
        why = (user and switched_off()) or error.stderr or str(error)
        raise NetwrapError(f"{what}: {why}", "sudo netwrap sandbox") from None


def switched_off() -> str:
    """The setting that forbids user namespaces (user_namespaces(7); Ubuntu: apparmor_restrict_unprivileged_userns)."""
    for key, forbids in (
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
    ):
        try:
            if (Path("/proc/sys") / key).read_text().strip() == forbids:
                return f"{key.replace('/', '.')}={forbids}"
        except OSError:
            continue
    return ""


def inside(command: list[str], *, around: bool) -> int:
    """The sandbox's first process: sets up the machine and runs the command; returns its exit code."""
    outside = _outside() or [str(DEFAULT_STATE)]
    for line in filter(None, (_MACHINE + (AROUND if around else "")).splitlines()):
        try:
            spawn(line.split())
        except CommandFailed as error:
            raise NetwrapError(f"the sandbox cannot be set up: {error}", "sudo netwrap sandbox") from None
    MARK.write_text("\n".join([*outside, os.environ.get(VARIABLE, "")]))
    MARK.chmod(0o644)
    os.environ |= {"NETWRAP_SANDBOX": "1", VARIABLE: STATE_DIR} | prompt.environment(command, "netwrap sandbox")
    return init.run(command)


def state_dir(environment: Mapping[str, str]) -> Path:
    """The state directory of a command that names none: $NETWRAP_STATE_DIR, else the default.

    Inside a sandbox the default is the sandbox's own, and what the variable was outside does not count: sudo resets
    the environment, and a login shell sets it anew.
    """
    said = environment.get(VARIABLE, "")
    outside = _outside()
    if outside and said in ("", *outside):
        return Path(STATE_DIR)
    return Path(said or DEFAULT_STATE)


def _outside() -> list[str]:
    """The state directories of the hosts around a sandbox; none outside a sandbox."""
    with suppress(OSError):
        return MARK.read_text().split("\n")
    return []
