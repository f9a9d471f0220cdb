"""Words of commands as the toy kernel takes them apart."""

from __future__ import annotations

from typing import Any

from toytables import Refused


def link_options(words: list[str]) -> dict[str, Any]:
    found = dict(zip(words[::2], words[1::2], strict=True))
    assert set(found) <= {"name", "address", "mtu", "group"}, f"unknown words: {words}"
    options: dict[str, Any] = {"name": found["name"], "mac": found["address"]}
    if "mtu" in found:
        options["mtu"] = int(found["mtu"])
    if "group" in found:
        options["group"] = found["group"]
    return options


def key_of(name: str, setting: str) -> str:
    family = "ipv6" if setting == "disable_ipv6" else "ipv4"
    return f"net/{family}/conf/{name}/{setting}" if "." in name else f"net.{family}.conf.{name}.{setting}"


def spelt(key: str) -> str:
    """One spelling of a key; a link's name with a dot needs slashes (sysctl(8))."""
    *head, name, setting = key.split("/" if "/" in key else ".")
    assert head[::2] == ["net", "conf"], f"unknown setting {key}"
    assert head[1] in key_of(name, setting), f"{head[1]} has no setting {setting}"
    return key_of(name, setting)


def must(holds: bool, message: str, code: int = 2) -> None:
    if not holds:
        raise Refused(message, code)
