"""What was taken down is built up again as it was, from facts of today; or it is refused, and nothing is touched."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator

import pytest
from test_crash import Change, left_alone
from toykernel import ToyKernel
from world import Killed, World

from netwrap.errors import CommandFailed
from netwrap.model import Process
from netwrap.statefile import FILE

NET = "network create --subnet 10.0.0.1/24 a"
OTHER = "network create --subnet 10.0.1.1/24 b"
CONNECT = "connect --pid 64560 --name web --net a -p 8080:80 -p 8081:81"


@pytest.fixture
def built(world: World) -> World:
    """Two linked networks, a container on both, one on the second."""
    for line in (NET, OTHER, "network link a b", CONNECT, "connect --pid 64560 --net b", "connect --pid 64561 --net b"):
        world.must(f"{line} --quiet")
    return world


def last(world: World) -> int:
    return world.operations()[-1].id


TEARDOWNS = (
    "unpublish web 8080:80",
    "unpublish web 8080:80 8081:81",
    "disconnect web --net a",
    "disconnect web --net b",
    "disconnect web",
    "network unlink b a",
    "network remove --force a",
    "network remove --force b a",
)


@pytest.mark.parametrize("line", TEARDOWNS)
def test_what_a_dry_run_of_undo_prints_is_what_it_runs_and_leads_to_the_state_before(line: str, built: World) -> None:
    before = built.everything()
    built.must(f"{line} --quiet")
    torn = built.save()
    script = built.must("undo --dry-run")
    assert built.kernel.snapshot() != before
    built.run_script(script)
    assert {**built.kernel.snapshot(), "state": before["state"]} == before
    built.load(torn)
    built.must("undo --quiet")
    assert built.everything() == before
    (undone,) = (o for o in built.operations() if o.state == "undone")
    assert undone.title.startswith(line.split(" --")[0].split(" 8")[0][:12])


@pytest.mark.parametrize("option", ["", " --batch"])
def test_a_command_of_undo_that_fails_takes_back_those_before_it_and_another_undo_goes_on(
    option: str, built: World
) -> None:
    before = built.everything()
    built.must("network remove --force b a --quiet")
    torn, gone = built.save(), built.everything()
    for number in range(1, 200, 7):
        built.load(torn)
        changes = itertools.count()

        def fails(change: Change, changes: Iterator[int] = changes, number: int = number) -> None:
            if next(changes) == number:
                raise CommandFailed("a command", 1, "no")
            change()

        built.kernel.around = fails
        result = built.netwrap(f"undo --quiet{option}")
        built.kernel.around = left_alone
        if result.code == 0:
            break
        assert (result.code, built.everything()) == (1, gone), result.err
        assert [o.state for o in built.operations()][-2:] == ["done", "rolled back"]
        built.must(f"undo --quiet{option}")
        assert built.everything() == before
    assert number > 8


def test_undo_of_a_teardown_that_was_cut_off_finishes_it_first_in_a_dry_run_too(built: World) -> None:
    before = built.everything()
    changes = iter(range(100))

    def dies(change: Change) -> None:
        if next(changes) == 6:
            raise Killed
        change()

    built.kernel.around = dies
    with pytest.raises(Killed):
        built.netwrap("disconnect web --quiet")
    built.kernel.around = left_alone
    cut = built.save()
    built.run_script(built.must("undo --dry-run"))
    assert {**built.kernel.snapshot(), "state": before["state"]} == before
    built.load(cut)
    built.must("undo --quiet")
    assert built.everything() == before


def test_a_teardown_that_failed_half_way_is_not_built_up_again_nor_what_finishes_it(built: World) -> None:
    real = built.kernel.spawn

    def spawn(words: object, *rest: object) -> str:
        if list(words)[:3] == ["ip", "link", "del"]:  # type: ignore[call-overload]
            raise CommandFailed("ip link del", 1, "no")
        return real(words, *rest)  # type: ignore[arg-type]

    built.kernel.spawn = spawn  # type: ignore[method-assign, assignment]
    assert built.netwrap("disconnect web --net a --quiet").code == 3
    result = built.netwrap("undo")
    assert (result.code, result.complaint[1]) == (2, "netwrap gc")
    del built.kernel.spawn  # type: ignore[method-assign]
    built.must("gc --quiet")
    result = built.netwrap("undo")
    assert result.code == 2
    assert "has nothing to undo" in result.complaint[0]
    assert result.complaint[1] == "netwrap undo 6"


def test_settings_come_again_as_the_machine_has_them_now(world: World) -> None:
    for line in (NET, CONNECT, "network remove --force a"):
        world.must(f"{line} --quiet")
    world.prepare("sysctl net.ipv4.conf.all.forwarding=1")  # the administrator has turned it on meanwhile
    world.kernel.namespaces[world.kernel.processes[64560].inode].links["lo"].up = True
    changed = world.everything()
    said = world.netwrap("undo").err
    assert "all.forwarding=1" not in said
    assert "dev lo up" not in said.replace("it is so already, and stays: ip -n web link set dev lo up", "")
    world.must("undo 1 --yes --quiet")
    assert world.everything() == changed


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        ("end 64560", "process 64560 (web) has exited"),
        ("ip link add name veth5b5fc03 type bridge", "an interface 'veth"),
        ("ip addr add 10.0.0.2/32 dev eth0", "address 10.0.0.2 is in use by this host"),
        ("ip netns add web", "/run/netns/web is there by now"),
        ("listen tcp * 8080", "a socket of this host listens on *:8080/tcp"),
        ("ip link del dev a", "network a, which it needs, has drifted"),
    ],
)
def test_what_cannot_be_built_up_again_is_refused_with_the_reason(meanwhile: str, why: str, world: World) -> None:
    for line in (NET, CONNECT):
        world.must(f"{line} --quiet")
    veth = world.state().endpoints[0].veth
    world.must("disconnect web --quiet")
    if "veth" in meanwhile:
        meanwhile = f"ip link add name {veth} address 02:00:00:00:00:01 group 28279 type bridge"
    world.prepare(meanwhile)
    before, operations = world.everything(), world.operations()
    for option in ("", " --dry-run"):
        result = world.netwrap(f"undo{option}")
        assert result.code == 2
        assert why in result.complaint[0]
        assert len(result.err.splitlines()) == 2
        assert (world.everything(), world.operations()) == (before, operations)


def test_a_pid_that_belongs_to_another_process_is_not_taken_for_it(world: World) -> None:
    for line in (NET, CONNECT, "disconnect web"):
        world.must(f"{line} --quiet")
    old = world.kernel.processes[64560]
    world.kernel.processes[64560] = Process(64560, old.starttime + 5, old.inode, 64560)
    assert "process 64560 (web) has exited" in world.netwrap("undo").complaint[0]


def test_after_a_reboot_networks_are_built_up_again_and_containers_are_not(built: World) -> None:
    built.must("disconnect web --net b --quiet")
    built.must("network remove --force b a --quiet")
    built.must("network create c --quiet")
    built.must("network remove c --quiet")
    built.kernel = ToyKernel()
    built.kernel.boot_id = "0b00f1d0-0000-4000-8000-000000000002"
    start = built.kernel.snapshot()
    result = built.netwrap("undo 8")
    assert result.code == 2
    assert "has exited" in result.complaint[0]
    built.must("undo --quiet")
    (network,) = json.loads(built.must("network list --json"))
    assert (network["name"], network["state"]) == ("c", "up")
    assert built.kernel.sysctls["net.ipv4.conf.all.forwarding"] == "1"
    built.must("undo --quiet")
    assert built.kernel.snapshot() == start


def test_a_teardown_of_an_older_netwrap_is_refused(built: World) -> None:
    built.must("disconnect web --quiet")
    with sqlite3.connect(built.directory / FILE) as db:
        db.execute("DELETE FROM object WHERE undone_by IS NOT NULL")
    result = built.netwrap("undo")
    assert (result.code, result.complaint[1]) == (2, "netwrap undo 6")
    assert "did not record what it took down" in result.complaint[0]


def test_undos_in_any_order_bring_what_is_shared_as_long_as_it_is_needed(built: World) -> None:
    before = built.everything()
    built.must("unpublish web 8080:80 --quiet")  # 7
    built.must("unpublish web 8081:81 --quiet")  # 8: the last one takes what ports need along
    built.must("disconnect web --net a --quiet")  # 9
    built.must("disconnect web --net b --quiet")  # 10: and this one its handle
    built.must("undo 9 --quiet")
    built.must("undo 7 --quiet")
    built.must("undo 8 --quiet")
    built.must("undo 10 --quiet")
    assert built.state().owners == before["state"][5]  # type: ignore[index]
    built.must("network remove --force a b --quiet")
    assert built.state().owners == frozenset()


def test_an_operation_is_not_done_again_because_something_shared_is_back(built: World) -> None:
    built.must("disconnect web --net a --quiet")  # the connect that also made web's handle
    states = [o.state for o in built.operations()]
    assert states[3] == "undone"
    built.must("disconnect web --quiet")  # the handle goes with its last network
    built.must("undo --quiet")
    assert [o.state for o in built.operations()][: len(states)] == states


@pytest.mark.parametrize("option", ["", " --batch"])
@pytest.mark.parametrize(
    "lines",
    [
        (NET, OTHER, "network remove a", "network remove b", "undo 3", "network remove a", "undo", "undo 1 --yes"),
        (NET, OTHER, "network remove b", "network remove a", "undo 3", "undo 4", "network remove a b"),
        (NET, "network remove a", OTHER, "undo 2", "network remove b a"),
        (NET, "network remove a", OTHER, "undo 2", "network remove b", "network remove a", "undo", "undo 1 --yes"),
    ],
    ids=" ".join,
)
def test_networks_that_are_older_than_what_the_host_has_for_them_go_without_a_rest(
    lines: tuple[str, ...], option: str, world: World
) -> None:
    bare = world.kernel.snapshot()
    for line in lines:
        world.must(f"{line} --quiet{option}")
    assert world.state().owners == frozenset()
    assert world.kernel.snapshot() == bare


@pytest.mark.parametrize("nth", range(6))
@pytest.mark.parametrize(
    "lines",
    [
        ("disconnect web --net a", "disconnect other --net a", "disconnect third"),
        ("network unlink a b", "network unlink b c", "network unlink a c"),
        ("network unlink a b", "network unlink b c", "network remove --force a"),
        ("unpublish web 8080:80", "unpublish other 8090:80", "network unlink b c"),
        ("disconnect web", "network remove --force c", "disconnect other"),
    ],
    ids=" ".join,
)
def test_undos_in_any_order_leave_no_rule_out_of_its_place(lines: tuple[str, ...], nth: int, world: World) -> None:
    for line in (
        *(NET, OTHER, "network create c", "network link a b", "network link c b", "network link a c", CONNECT),
        "connect --pid 64560 --net b -p 8082:82",
        "connect --pid 64561 --name other --net a -p 8090:80",
        "connect --pid 64562 --name third --net b -p 8091:80",
        *lines,
    ):
        world.must(f"{line} --quiet")
    numbers = [o.id for o in world.operations()][-len(lines) :]
    left = list(list(itertools.permutations(numbers))[nth])
    while left:
        done = [n for n in left if world.netwrap(f"undo {n} --quiet").code == 0]
        assert done, "one of them can always be undone: the last"
        left = [n for n in left if n not in done]
        assert world.netwrap("status").code == 0, world.netwrap("status").out
