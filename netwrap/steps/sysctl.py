"""Steps on kernel settings: `sysctl` (sysctl(8))."""

from __future__ import annotations

from netwrap.steps import Cmd, Probe, Step


def write(key: str, value: str, old: str, why: str) -> Step:
    """Sets a kernel setting; its inverse restores the old value."""
    return Step(
        "sysctl",
        Cmd(("sysctl", f"{key}={value}")),
        Cmd(("sysctl", f"{key}={old}")),
        Probe("sysctl", (key, value)),
        why,
    )


def keep(key: str, value: str, why: str) -> Step:
    """Keeps a setting that the kernel changes along with a later one: do and undo both write its present value."""
    cmd = Cmd(("sysctl", f"{key}={value}"))
    return Step("sysctl keep", cmd, cmd, Probe("keep", (key, value)), why)


def turn_on(name: str, setting: str, old: str, why: str, family: str = "ipv4") -> Step:
    """Turns a setting of a link on; any value but 0 is on. If it is on already, the step changes nothing and keeps it:
    the setting for all links may be changed later."""
    key = of_link(name, setting, family)
    value = "1" if old == "0" else old
    return Step(
        "sysctl",
        Cmd(("sysctl", f"{key}={value}")),
        Cmd(("sysctl", f"{key}={old}")),
        Probe("setting on", (key, name)),
        why,
    )


def of_link(name: str, setting: str, family: str = "ipv4") -> str:
    """The key of a link's setting; with slashes if the name has a dot (sysctl(8), NOTES)."""
    return f"net/{family}/conf/{name}/{setting}" if "." in name else f"net.{family}.conf.{name}.{setting}"


def prefixes(name: str) -> tuple[str, ...]:
    """How the keys of a link's settings begin."""
    return (of_link(name, "", "ipv4"), of_link(name, "", "ipv6"))
