"""Bad input, whatever it is, is two lines that have the value in them as it was typed; and nothing changes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from world import Result, World

from netwrap import cli

CREATE = "network create --subnet 10.0.0.1/24 testbridge"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80 --mac 0a:00:00:00:00:AA"


@pytest.fixture
def built(world: World) -> World:
    """A network with a container that publishes a port."""
    world.must(CREATE)
    world.must(CONNECT)
    world.kernel.log.clear()
    return world


def run(*words: str) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(list(words))
    return Result(code, out.getvalue(), err.getvalue())


WHOLE = [  # a command line, and what of it has to be named
    ("publish bird2 host:8081:80", "'host:8081:80': 'host' is not an IPv4 address"),
    ("publish bird2 300.0.0.1:8081:80/UDP", "'300.0.0.1:8081:80/UDP': '300.0.0.1' is not an IPv4 address"),
    ("publish bird2 ::1:8081:80", "'::1:8081:80'"),
    ("publish bird2 8081:80/ICMP", "'8081:80/ICMP': protocol 'ICMP'"),
    ("publish bird2 99999:80", "'99999:80': '99999' is not a valid port or range (1-65535)"),
    ("publish bird2 08080:080", "'08080:080'"),
    ("publish bird2 0.0.0.0:8080:81", "'0.0.0.0:8080:81'"),
    ("publish bird2 8080:81", "'8080:81'"),
    ("publish bird2 8070-8090:70-90/TCP", "'8070-8090:70-90/TCP'"),
    ("publish bird2 192.0.2.1:81:81/Tcp", "'192.0.2.1:81:81/Tcp'"),
    ("publish bird2 81:81 0.0.0.0:81:82", "'0.0.0.0:81:82'"),
    ("publish bird2 127.0.0.1:81:81 --allow-from 10.0.0.0/255.0.0.0", "'127.0.0.1:81:81'"),
    ("publish bird2 81:81 --allow-from 10.0.0.1/255.0.0.0", "'10.0.0.1/255.0.0.0'"),
    ("unpublish bird2 9:9", "'9:9'"),
    ("network create --subnet 10.0.0.77/255.255.255.0 b", "'10.0.0.77/255.255.255.0'"),
    ("network create --subnet 10.0.0.7/25 b", "'10.0.0.7/25'"),
    ("network create --subnet 10.1.0.255/24 b", "'10.1.0.255/24'"),
    ("network create --subnet 10.1.0.9/24 --gateway 10.0.0.1 b", "'10.0.0.1' is not a host address in '10.1.0.9/24'"),
    ("network create --subnet 10.1.0.0/24 --ip-range 10.2.0.0/255.255.255.0 b", "'10.2.0.0/255.255.255.0'"),
    ("network create --subnet 10.1.0.0/24 --ip-range 10.1.0.0 b", "'10.1.0.0'"),
    ("network create --mtu 0068 b", "'0068'"),
    ("network create --mtu 1_500 b", "'1_500'"),
    ("network create --mtu +70 b", "'+70'"),
    ("connect --net testbridge --pid 0064561", "'0064561'"),
    ("connect --net testbridge --pid 64_561", "'64_561'"),
    ("connect --net testbridge --pid 64561 --mac 0A:00:00:00:00:aA", "0A:00:00:00:00:aA"),
    ("connect --net testbridge --pid 64561 --ip 10.0.0.02", "'10.0.0.02'"),
    ("log 01", "'01'"),
    ("undo 1.0", "'1.0'"),
    ("disconnect --pid 064560", "'064560'"),
    ("--state-dir '' ps", "''"),
]


@pytest.mark.parametrize(("line", "named"), WHOLE)
def test_an_error_names_the_value_as_it_was_typed(line: str, named: str, built: World) -> None:
    before = built.everything()
    result = built.netwrap(line)
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 2
    assert named in result.complaint[0]
    assert (built.everything(), built.kernel.log) == (before, [])


PLACES: dict[str, tuple[str, ...]] = {
    "subnet": ("network", "create", "b", "--subnet={}"),
    "gateway": ("network", "create", "b", "--gateway={}"),
    "ip-range": ("network", "create", "b", "--ip-range={}"),
    "driver": ("network", "create", "b", "--driver={}"),
    "mtu": ("network", "create", "b", "--mtu={}"),
    "new network": ("network", "create", "--", "{}"),
    "inspect": ("network", "inspect", "--", "{}"),
    "remove": ("network", "remove", "--", "{}"),
    "link": ("network", "link", "testbridge", "--", "{}"),
    "unlink": ("network", "unlink", "--", "{}", "testbridge"),
    "net": ("connect", "--pid=64561", "--net={}"),
    "pid": ("connect", "--net=testbridge", "--pid={}"),
    "netns": ("connect", "--net=testbridge", "--netns={}"),
    "name": ("connect", "--net=testbridge", "--pid=64561", "--name={}"),
    "ip": ("connect", "--net=testbridge", "--pid=64561", "--ip={}"),
    "mac": ("connect", "--net=testbridge", "--pid=64561", "--mac={}"),
    "ifname": ("connect", "--net=testbridge", "--pid=64561", "--ifname={}"),
    "-p": ("connect", "--net=testbridge", "--pid=64561", "--publish={}"),
    "allow-from": ("publish", "bird2", "81:81", "--allow-from={}"),
    "disconnect": ("disconnect", "--", "{}"),
    "disconnect pid": ("disconnect", "--pid={}"),
    "disconnect net": ("disconnect", "bird2", "--net={}"),
    "publish": ("publish", "--", "{}", "81:81"),
    "spec": ("publish", "bird2", "--", "{}"),
    "unpublish": ("unpublish", "bird2", "--", "{}"),
    "publish net": ("publish", "bird2", "81:81", "--net={}"),
    "log": ("log", "--", "{}"),
    "undo": ("undo", "--", "{}"),
    "repair": ("repair", "--", "{}"),
    "command": ("{}",),
    "network command": ("network", "{}"),
    "help": ("help", "--", "{}"),
    "extra": ("ps", "--", "{}"),
    "option": ("ps", "--{}"),
    "sandbox": ("sandbox", "--", "/nowhere/{}"),
}
VALID = {"testbridge", "bird2"}
JUNK = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=40),
    st.text("0123456789.:/-", max_size=24),
    st.text("abc 'Ä\"\\\n\t\x1b\u202e%$`;|&\udcff", max_size=24),
).filter(lambda text: not any("\ud800" <= c <= "\udc7f" or "\udd00" <= c <= "\udfff" for c in text))


@pytest.mark.parametrize("place", PLACES)
@given(junk=JUNK)
@example(junk="x" * 100_000)
@example(junk="\x1b[31mred\x07")
@example(junk="'\"")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_junk_is_refused_in_two_lines_that_have_it_in_them(place: str, junk: str, built: World) -> None:
    saved = built.save()
    before, kernel = file_of(built), len(built.kernel.log)
    words = [word.replace("{}", junk) for word in PLACES[place]]
    result = run("--state-dir", str(built.directory), *words)
    if result.code == 0:  # it was no junk: help, or what a dry run would take
        assert place in ("command", "network command", "help", "option") or junk.strip()
        built.load(saved)
        return
    assert result.code == 2, result.err
    assert result.out == ""
    lines = result.err.split("\n")
    assert len(lines) == 3, result.err
    assert lines[0].startswith("netwrap: ")
    assert lines[1].startswith("hint: ")
    assert lines[2] == ""
    assert all(c.isprintable() or c == "\udcff" for line in lines for c in line), lines
    typed = junk.partition("=")[0] if place == "option" else junk
    if not (place in ("command", "network command") and junk[:1] in "-"):
        assert shown(typed, lines[0]), (typed, lines)
    assert max(map(len, lines)) < 1000
    assert file_of(built) == before
    assert len(built.kernel.log) == kernel


def shown(typed: str, line: str) -> bool:
    """Whether the value is there as it was typed, its control characters escaped; where it is long, its beginning."""
    for ours, clicks in (("\\n", "\\x0a"), ("\\t", "\\x09"), ("\\r", "\\x0d")):
        line = line.replace(clicks, ours)
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in typed)  # where there are no quotes around it
    return any((form if len(typed) <= 160 else form[:70]) in line for form in (repr(typed)[1:-1], plain))


def file_of(world: World) -> bytes:
    return (Path(world.directory) / "netwrap.db").read_bytes()
