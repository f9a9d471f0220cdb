"""Steps on kernel settings: `sysctl` (sysctl(8))."""

from __future__ import annotations

from netwrap.steps import Cmd, Probe, Step


def write(key: str, value: str, old: str, why: str) -> Step:
    """Sets a kernel setting; its inverse gives back the value that it had."""
    return Step(
        "sysctl",
        Cmd(("sysctl", f"{key}={value}")),
        Cmd(("sysctl", f"{key}={old}")),
        Probe("sysctl", (key, value)),
        why,
    )


def keep(key: str, value: str, why: str) -> Step:
    """Holds on to a setting that the kernel changes along with a later one: do and undo write what it is."""
    cmd = Cmd(("sysctl", f"{key}={value}"))
    return Step("sysctl keep", cmd, cmd, Probe("keep", (key, value)), why)


def of_link(name: str, setting: str) -> str:
    """The key of a link's IPv4 setting; with slashes where the name has a dot (sysctl(8), NOTES)."""
    return f"net/ipv4/conf/{name}/{setting}" if "." in name else f"net.ipv4.conf.{name}.{setting}"
