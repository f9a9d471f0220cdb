"""The command line: what it takes, what it refuses, and what it completes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from world import Result, World

from netwrap import __version__, app, session, supervise
from netwrap.cli import app as command_line
from netwrap.cli import common
from netwrap.desk import Mode
from netwrap.errors import CommandFailed, NetwrapError

CREATE = "network create --subnet 10.0.0.1/24 testbridge"
CONNECT = "connect --pid 64560 --name bird2 --net testbridge -p 8080:80"
CHANGING = ("--dry-run", "--step", "--batch", "--quiet")

# Every command of the contract, with its options.
COMMANDS: dict[str, tuple[str, ...]] = {
    "": ("--state-dir", "--version", "--help", "--install-completion", "--show-completion"),
    "network": (),
    "network create": ("--subnet", "--driver", "--gateway", "--ip-range", "--mtu", "--internal", "--json", *CHANGING),
    "network list": ("--json",),
    "network inspect": ("--json",),
    "network remove": ("--force", *CHANGING),
    "network link": CHANGING,
    "network unlink": CHANGING,
    "connect": (
        *("--net", "--pid", "--netns", "--container", "--name", "--ip", "--mac", "--ifname", "-p", "--hold", "--json"),
        "--allow-from",
        *CHANGING,
    ),
    "disconnect": ("--pid", "--net", *CHANGING),
    "publish": ("--net", "--allow-from", *CHANGING),
    "unpublish": CHANGING,
    "ps": ("--json",),
    "run": ("--net", "-p", "--allow-from", "--name", "-d", *CHANGING),
    "exec": (),
    "log": ("--json",),
    "undo": CHANGING,
    "doctor": ("--json",),
    "check": ("--json",),
    "demo": ("--step",),
    "sandbox": (),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_every_option_of_the_contract(name: str, world: World) -> None:
    result = world.netwrap(f"{name} --help")
    assert result.code == 0
    assert result.err == ""
    told = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", result.out))
    assert set(COMMANDS[name]) <= told


def test_help_of_the_whole_tells_every_command(world: World) -> None:
    told = world.must("--help")
    for name in COMMANDS:
        assert name in ("", "network") or re.search(rf"^  {name} ", told, re.MULTILINE), name


def test_every_command_that_is_there_has_help_for_itself_and_for_each_option() -> None:
    def visit(command: typer.main.TyperGroup, path: str) -> None:
        for name, found in command.commands.items():
            assert found.help, f"{path} {name}"
            for option in found.params:
                assert getattr(option, "hidden", False) or getattr(option, "help", None), f"{path} {name} {option.name}"
            if hasattr(found, "commands"):
                visit(found, f"{path} {name}")

    visit(typer.main.get_command(command_line), "netwrap")  # type: ignore[arg-type]


def test_the_version_is_one_line_on_stdout(world: World) -> None:
    assert world.must("--version") == f"netwrap {__version__}\n"


def two_lines(result: Result) -> tuple[str, str]:
    assert result.out == ""
    assert len(result.err.splitlines()) == 2, result.err
    return result.complaint


USAGE = [
    ("network create", "NAME", "netwrap network create --help"),
    ("network create a b", "b", "netwrap network create --help"),
    ("network create x --mtu many", "many", "netwrap network create --help"),
    ("network create x --subnet", "--subnet", "netwrap network create --help"),
    ("connect --net", "--net", "netwrap connect --help"),
    ("network remove", "NAME...", "netwrap network remove --help"),
    ("connect --pid 1", "--net", "netwrap connect --help"),
    ("connect --net x --pid one", "one", "netwrap connect --help"),
    ("publish bird2", "SPEC...", "netwrap publish --help"),
    ("exec bird2", "COMMAND...", "netwrap exec --help"),
    ("run --net x", "COMMAND...", "netwrap run --help"),
    ("log two", "two", "netwrap log --help"),
    ("--colour ps", "--colour", "netwrap --help"),
    ("publish --zzz web 80:80", "--zzz", "netwrap publish --help"),
    ("frobnicate", "frobnicate", "netwrap help"),
    ("network frobnicate", "frobnicate", "netwrap help network"),
    ("help frobnicate", "frobnicate", "netwrap help"),
    ("help connect now", "now", "netwrap help"),
]


@pytest.mark.parametrize(("line", "named", "hint"), USAGE)
def test_a_usage_error_is_two_lines_that_name_what_is_wrong(line: str, named: str, hint: str, world: World) -> None:
    result = world.netwrap(line)
    assert result.code == 2
    what, found = two_lines(result)
    assert named in what
    assert found == hint
    assert not world.directory.exists()


CONTRADICTIONS = [
    "network create --step --dry-run x",
    "network create --step --batch x",
    "disconnect --json bird2",
    "publish --json bird2 80:80",
    "undo --json",
    "connect --net x --hold --netns y",
    "connect --net x",
    "connect --net x --pid 1 --container y",
    "disconnect",
    "disconnect bird2 --pid 1",
]


@pytest.mark.parametrize("line", CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused(line: str, world: World) -> None:
    result = world.netwrap(line)
    assert result.code == 2
    two_lines(result)
    assert not world.directory.exists()


def test_step_without_a_terminal_is_refused_before_anything_else(world: World) -> None:
    result = world.netwrap(f"{CREATE} --step")
    assert result.code == 2
    assert "no terminal" in two_lines(result)[0]
    assert world.kernel.log == []


@pytest.mark.parametrize(
    "line", [f"{CREATE} --batch", "network create --batch testbridge --subnet 10.0.0.1/24", f"{CREATE} -q"]
)
def test_options_may_stand_before_and_after_the_name(line: str, world: World) -> None:
    assert world.must(line) == "testbridge\n"


def test_stdout_is_the_result_and_nothing_else(world: World) -> None:
    assert world.netwrap(CREATE).out == "testbridge\n"
    assert world.netwrap(CONNECT).out == "10.0.0.2\n"
    assert world.netwrap("publish bird2 8081:81").out == ""
    assert world.netwrap("unpublish bird2 8081:81").out == ""
    assert world.netwrap("disconnect bird2").out == ""
    assert world.netwrap("network remove testbridge").out == "testbridge\n"


def test_quiet_shows_no_command_line(world: World) -> None:
    world.prepare("install conntrack")
    for line in (
        CREATE,
        CONNECT,
        "publish bird2 81:81",
        "unpublish bird2 81:81",
        "undo",
        "network remove testbridge --force",
    ):
        said = world.netwrap(f"{line} --quiet").err
        assert said == ("undoing 4: unpublish bird2 81:81/tcp\n" if line == "undo" else "")
    assert world.kernel.log


def test_what_was_made_is_told_as_json(world: World) -> None:
    assert '"subnet": "10.0.0.0/24"' in world.must(f"{CREATE} --json")
    assert '"ip": "10.0.0.2"' in world.must(f"{CONNECT} --json")


def test_the_state_directory_comes_from_the_environment_where_no_option_gives_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.must(CREATE)
    monkeypatch.setenv("NETWRAP_STATE_DIR", str(world.directory))
    from netwrap.cli import run

    assert run(["network", "inspect", "testbridge"]) == 0
    monkeypatch.setenv("NETWRAP_STATE_DIR", str(tmp_path / "nowhere"))
    assert run(["--state-dir", str(world.directory), "network", "inspect", "testbridge"]) == 0
    assert run(["--state-dir", str(tmp_path / "other"), "network", "inspect", "testbridge"]) == 2
    assert "no network 'testbridge'" in capsys.readouterr().err


# ---- undo, log, engines


def test_undo_takes_back_the_last_thing_that_was_built_each_time(world: World) -> None:
    states = [world.everything()]
    for line in (CREATE, CONNECT, "publish bird2 8081:81"):
        world.must(line)
        states.append(world.everything())
    while states:
        assert world.everything() == states.pop()
        assert world.netwrap("undo").code == 0
    assert "nothing to undo" in world.netwrap("undo").err


def test_undo_of_an_earlier_operation_says_what_goes_with_it_and_asks(world: World) -> None:
    before = world.everything()
    world.must(CREATE)
    world.must(CONNECT)
    result = world.netwrap("undo 1")
    assert result.code == 2
    assert "undoing 1: network create testbridge\nthis also removes: bird2's connection to testbridge" in result.err
    assert result.complaint[1] == "netwrap undo 1 --yes"
    world.must("undo 1 --yes")
    assert world.everything() == before


def test_undo_of_what_is_undone_already_has_nothing_to_do(world: World) -> None:
    world.must(CREATE)
    world.must("undo")
    assert "nothing to do" in world.netwrap("undo 1").err
    assert world.netwrap("undo 7").code == 2
    assert world.netwrap("log 7").complaint == ("no operation 7", "netwrap log")


ANSWERS: list[tuple[str | CommandFailed, int, str]] = [
    ("64560\n", 0, ""),
    ("0\n", 2, "it is not running"),
    (CommandFailed("docker", 1, "No such object: web"), 2, "No such object: web"),
    (CommandFailed("docker", 1, "Cannot connect to the Docker daemon at …"), 1, "Cannot connect to the Docker daemon"),
]


@pytest.mark.parametrize(("answer", "code", "said"), ANSWERS)
def test_a_container_of_an_engine_is_connected_by_its_pid(
    answer: str | CommandFailed, code: int, said: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def spawn(words: tuple[str, ...]) -> str:
        asked.append(words)
        if isinstance(answer, CommandFailed):
            raise answer
        return answer

    monkeypatch.setattr(app, "spawn", spawn)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "docker" else None)
    world.must(CREATE)
    result = world.netwrap("connect --container web --net testbridge")
    assert result.code == code
    assert said in result.err
    assert asked == [("docker", "inspect", "--format", "{{.State.Pid}}", "--", "web")]
    assert code == 0 or result.complaint[1] == "docker ps -a"


def test_the_hint_for_a_container_that_is_stopped_names_the_engine_that_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spawn(words: tuple[str, ...]) -> str:
        if words[0] == "docker":
            raise CommandFailed("docker", 1, "No such object: web")
        return "0\n"

    monkeypatch.setattr(app, "spawn", spawn)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in ("docker", "podman") else None)
    world.must(CREATE)
    result = world.netwrap("connect --container web --net testbridge")
    assert (result.code, result.complaint[1]) == (2, "podman ps -a")


def test_without_an_engine_a_container_cannot_be_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    world.must(CREATE)
    result = world.netwrap("connect --container web --net testbridge")
    assert result.code == 1
    assert "docker, podman, nerdctl" in two_lines(result)[0]


def test_without_root_nothing_is_changed_and_the_way_on_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetwrapError) as caught, session.changing(Mode(tmp_path / "state"), "x"):
        pass
    assert caught.value.exit_code == 1
    assert caught.value.hint.startswith("sudo netwrap")
    assert caught.value.hint.endswith("netwrap sandbox")
    assert not (tmp_path / "state").exists()


# ---- completion


@pytest.fixture
def asked(world: World) -> typer.Context:
    """What the shell asks in: a context with a state that has something in it."""
    world.must(CREATE)
    world.must("network create --subnet 10.0.1.0/24 second")
    world.must(CONNECT)
    context = typer.Context(typer.main.get_command(command_line), obj=world.directory)
    context.params = {"name": "bird2"}
    return context


@pytest.mark.parametrize(
    ("complete", "begun", "found"),
    [
        (common.complete_network, "", ["testbridge", "second"]),
        (common.complete_network, "te", ["testbridge"]),
        (common.complete_container, "b", ["bird2"]),
        (common.complete_container, "x", []),
        (common.complete_published, "80", ["8080:80/tcp"]),
        (common.complete_published, "9", []),
    ],
)
def test_names_are_completed_from_the_state(
    complete: Callable[[typer.Context, str], list[str]], begun: str, found: list[str], asked: typer.Context
) -> None:
    assert complete(asked, begun) == found


def test_without_a_state_that_can_be_read_nothing_is_completed(tmp_path: Path) -> None:
    (tmp_path / "netwrap.db").write_text("no database" * 100)
    (tmp_path / "netwrap.db").chmod(0o644)
    for directory in (tmp_path, tmp_path / "nowhere"):
        context = typer.Context(typer.main.get_command(command_line), obj=directory)
        assert common.complete_network(context, "") == []


def test_drivers_are_completed() -> None:
    assert common.complete_driver("br") == ["bridge"]
    assert common.complete_driver("x") == []


# ---- what is written down

WORDS = [
    ("run --net testbridge echo my-token", "run --net testbridge -- …"),
    ("run echo my-token --net testbridge", "run --net testbridge -- …"),
    ("run --net=testbridge --name web echo my-token", "run --net testbridge --name web -- …"),
    ("run echo -p 8080:80 my-token -q --net testbridge", "run --net testbridge -p 8080:80 --quiet -- …"),
    ("run -qp8080:80 --net testbridge -- my-token --net -d", "run --net testbridge -p 8080:80 --quiet -- …"),
    ("run --net testbridge my-token -- --name x", "run --net testbridge -- …"),
    ("run --net testbridge -- -- my-token", "run --net testbridge -- …"),
]


@pytest.mark.parametrize(("line", "written"), WORDS)
def test_the_words_of_a_command_that_run_starts_are_written_down_nowhere(
    line: str, written: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(supervise, "process", lambda _: None)
    ended: list[list[str]] = []
    monkeypatch.setattr(supervise.Attended, "run", lambda _, words, *_more: ended.append(words) or 0)
    world.must(CREATE)
    result = world.netwrap(line)
    assert result.code == 0, result.err
    assert "my-token" in ended[0]
    assert [o.command for o in world.operations()][1] == f"netwrap {written}"
    for path in world.directory.iterdir():
        assert b"my-token" not in path.read_bytes(), path


def test_every_argument_that_has_another_programs_words_is_kept_out_of_the_log() -> None:
    found = []

    def visit(command: typer.main.TyperGroup, path: str) -> None:
        for name, inner in command.commands.items():
            for param in inner.params:
                if "COMMAND" in str(param.metavar).upper() and name != "help":
                    found.append(f"{path}{name}")
                    assert param.name == common.PRIVATE
            if hasattr(inner, "commands"):
                visit(inner, f"{path}{name} ")

    visit(typer.main.get_command(command_line), "")  # type: ignore[arg-type]
    assert {"run", "exec"} <= set(found)


def test_the_command_line_in_the_log_has_every_option_as_it_was_given(world: World) -> None:
    world.must(CREATE)
    world.must(f"--state-dir '{world.directory}' connect -p 80:80 --net=testbridge --publish 81:81 --pid 64560 -q")
    assert shlex.split(world.operations()[-1].command) == [
        *("netwrap", "--state-dir", str(world.directory), "connect", "--net", "testbridge", "--pid", "64560"),
        *("-p", "80:80", "-p", "81:81", "--quiet"),
    ]
