"""What network managers would take for theirs, by their own files; and what is tried of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from netwrap import examine
from netwrap.errors import CommandFailed

LINKS = [("testbridge", "bridge"), ("veth5b5fc03", "veth")]
ALL = [name for name, _ in LINKS]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of both managers, both running: etc, run and lib, the first the strongest."""
    for name in ("etc", "run", "lib"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(examine, "NETWORKD", tuple(str(tmp_path / name) for name in ("etc", "run", "lib")))
    monkeypatch.setattr(examine, "NETWORK_MANAGER", tuple(str(tmp_path / name) for name in ("lib", "run", "etc")))
    monkeypatch.setattr(examine, "RUNNING", {"NetworkManager": tmp_path / "run", "systemd-networkd": tmp_path / "run"})
    return tmp_path


def networkd() -> list[str]:
    return [link for manager, link, _ in examine.grabs(LINKS) if manager == "systemd-networkd"]


def network_manager() -> list[str]:
    return [link for manager, link, _ in examine.grabs(LINKS) if manager == "NetworkManager"]


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("[Match]\nName=*\n", ALL),
        ("[Match]\nName=eth0 en*\n", []),
        ("[Match]\nName=veth*\n", ["veth5b5fc03"]),
        ("[Match]\nName=!eth0 en*\n", ALL),
        ("[Match]\nName=!eth0 veth*\n", ["testbridge"]),
        ("[Match]\nName=*\nType=!bridge\n", ["veth5b5fc03"]),
        ("[Match]\nName\n", []),
        ("[Match]\nType=ether\n", ["veth5b5fc03"]),
        ("[Match]\nKind=bridge\nName=test*\n", ["testbridge"]),
        ("[Match]\nDriver=virtio_net\n", []),
        ("[Match]\nName=*\nMACAddress=00:11:22:33:44:55\n", []),
        ("[Match]\nName=*\n[Link]\nUnmanaged=yes\n", []),
        ("[Match]\n[Network]\nDHCP=yes\n", ["testbridge", "veth5b5fc03"]),
        ("[Network]\nDHCP=yes\n", []),
        ("no section at all\n", []),
        ("[Match]\nName=*\n[Address]\nAddress=10.1.0.1/24\n[Address]\nAddress=10.2.0.1/24\n", ALL),
    ],
)  # fmt: skip
def test_networkd_takes_what_its_file_matches(text: str, taken: list[str], folders: Path) -> None:
    (folders / "lib" / "80-all.network").write_text(text)
    assert networkd() == taken


def test_of_networkds_files_the_first_that_matches_decides_and_a_stronger_folder_hides_the_same_name(
    folders: Path,
) -> None:
    (folders / "lib" / "80-all.network").write_text("[Match]\nName=*\n")
    (folders / "etc" / "05-netwrap.network").write_text("[Match]\nName=veth* testbridge\n[Link]\nUnmanaged=yes\n")
    assert networkd() == []
    (folders / "run" / "05-netwrap.network").write_text("[Match]\nName=nothing\n")
    assert networkd() == []
    (folders / "etc" / "05-netwrap.network").write_text("[Match]\nName=nothing\n")
    assert networkd() == ["testbridge", "veth5b5fc03"]


@pytest.mark.parametrize(
    ("spec", "taken"),
    [
        ("", ["testbridge"]),  # veths are left alone anyway
        ("interface-name:testbridge", []),
        ("interface-name:=testbridge", []),
        ("interface-name:veth*;interface-name:test*", []),
        ("type:bridge", []),
        ("driver:bridge", []),
        ("mac:00:11:22:33:44:55,interface-name:eth0", ["testbridge"]),
        ("testbridge", []),
        ("*", []),
    ],
)
def test_network_manager_takes_bridges_that_are_not_unmanaged(spec: str, taken: list[str], folders: Path) -> None:
    (folders / "etc" / "some.conf").write_text(f"[keyfile]\nunmanaged-devices={spec}\n")
    assert network_manager() == taken


def test_a_manager_that_does_not_run_takes_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "lib" / "80-all.network").write_text("[Match]\nName=*\n")
    monkeypatch.setattr(examine, "RUNNING", dict.fromkeys(examine.RUNNING, folders / "nowhere"))
    assert list(examine.grabs(LINKS)) == []


def answers(monkeypatch: pytest.MonkeyPatch, said: dict[str, str]) -> None:
    """Has each command say what the dict has for it, and fail otherwise."""

    def spawn(words: list[str]) -> str:
        line = " ".join(words)
        if line not in said:
            raise CommandFailed(line, 1, "no such table")
        return said[line]

    monkeypatch.setattr(examine, "spawn", spawn)


@pytest.mark.parametrize(
    ("version", "legacy_tables", "other", "found"),
    [
        ("iptables v1.8.9 (nf_tables)", "", "*filter\n-A INPUT -j ACCEPT\n", ("nft", ())),
        ("iptables v1.8.9 (nf_tables)", "filter", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", ("nft", ())),
        ("iptables v1.8.9 (nf_tables)", "filter", "*filter\n-A INPUT -j DROP\nCOMMIT\n", ("nft", ("legacy", "filter"))),
        ("iptables v1.8.9 (nf_tables)", "raw", "*raw\n:X - [0:0]\n:OUTPUT DROP [0:0]\n", ("nft", ("legacy", "raw"))),
        ("iptables v1.8.9 (nf_tables)", "raw", "*raw\n:X - [0:0]\n:OUTPUT ACCEPT [0:0]\n", ("nft", ())),
        ("iptables v1.8.9 (legacy)", "", "*nat\n-A OUTPUT -j X\n-A OUTPUT -j Y\n", ("legacy", ("nft", "nat"))),
        ("iptables v1.8.9 (legacy)", "", None, ("legacy", ())),
    ],
)
def test_the_other_backend_counts_where_it_has_rules_or_policies(
    version: str, legacy_tables: str, other: str | None, found: tuple[str, tuple[str, ...]],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "names").write_text(legacy_tables)
    monkeypatch.setattr(examine, "LEGACY_TABLES", tmp_path / "names")
    name = "iptables-nft-save" if "legacy" in version else "iptables-legacy-save"
    answers(monkeypatch, {"iptables -V": version} | ({name: other} if other is not None else {}))
    assert examine.backends() == found
