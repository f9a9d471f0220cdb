"""Help: complete, in groups, 80 columns wide, with examples that are right; and what was probably meant."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from world import World

from netwrap.cli import app as command_line
from netwrap.cli import help as pages
from netwrap.cli import meant

TREE: Any = typer.main.get_command(command_line)
LEAVES = dict(pages.leaves(TREE))
README = Path(__file__).parent.parent / "README.md"


def asked_for(path: str) -> list[str]:
    """The ways to ask for a help."""
    ways = [f"help {path}", f"{path} -h", f"{path} --help"]
    return ways if path not in ("", "network") else [path, *ways]


@pytest.mark.parametrize("path", ["", "network", *LEAVES])
def test_help_is_one_page_on_stdout_however_it_is_asked_for(path: str, world: World) -> None:
    (page,) = {world.netwrap(line.strip()) for line in asked_for(path)}
    assert (page.code, page.err) == (0, "")
    assert page.out == pages.page(LEAVES.get(path) or (TREE.commands[path] if path else TREE), path) + "\n"
    assert page.out.startswith(f"Usage: netwrap {path}".rstrip())
    assert "\x1b" not in page.out
    assert not world.directory.exists()


@pytest.mark.parametrize("width", [None, "40", "60", "80", "200"])
def test_help_fits_the_terminal(width: str | None, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if width:
        monkeypatch.setenv("COLUMNS", width)
    limit = min(int(width or 80), 80)
    for path in ("", "network", *LEAVES):
        for line in world.must(f"help {path}").splitlines():
            is_one_word = len(line.split()) <= 2  # such as a SPEC
            assert len(line) <= limit or is_one_word or (limit < 80 and "netwrap" in line), line


def test_the_commands_stand_in_their_groups_each_with_a_summary_that_is_a_line(world: World) -> None:
    told = world.must("help")
    assert re.findall(r"^(\w.*):$", told, re.MULTILINE)[:5] == list(pages.SECTIONS)
    for path, command in LEAVES.items():
        (line,) = re.findall(rf"^  {path}  +(\S.*)$", told, re.MULTILINE)
        assert line == pages.summary(command)
        assert line[0].isupper()
        assert not line.endswith((".", "…", "..."))


def test_every_command_has_a_page_and_every_page_its_command() -> None:
    assert set(pages.PAGES) == set(LEAVES)
    assert {page.section for page in pages.PAGES.values()} == set(pages.SECTIONS)


@pytest.mark.parametrize("path", LEAVES)
def test_usage_names_what_is_needed_and_nothing_else(path: str) -> None:
    usage, command = pages.PAGES[path].usage, LEAVES[path]
    words = set(re.findall(r"--?[a-z][a-z-]*", usage.partition("-- COMMAND")[0]))
    options = {name for p in command.params if p.param_type_name == "option" for name in p.opts}
    assert words <= options
    for param in command.params:
        needed = param.opts[0] if param.param_type_name == "option" else param.metavar
        assert not param.required or needed in usage, needed
        if param.param_type_name == "argument":
            assert param.metavar.strip("[]") in usage
    if len(command.params) > 3:
        assert usage.replace(" -- COMMAND...", "").endswith("[OPTIONS]")


def test_usage_of_connect_shows_that_one_of_three_is_needed(world: World) -> None:
    assert "(--pid PID | --netns NAME | --container ID)" in world.must("connect -h").splitlines()[0]


EXAMPLES = [line for page in (*pages.PAGES.values(), *pages.GROUPS.values()) for line in page.examples]


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_a_line_that_netwrap_understands(line: str) -> None:
    words = shlex.split(line.partition(" | ")[0])
    assert words.pop(0) == "netwrap"
    command, context = TREE, typer.Context(TREE, info_name="netwrap")
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    with context:
        command.make_context("x", words, parent=context)  # raises where an option or an argument is wrong


NEAR = [
    ("network rm testbridge", "netwrap network remove testbridge"),
    ("network delete --force a b", "netwrap network remove --force a b"),
    ("network ls", "netwrap network list"),
    ("network creat --subnet 10.0.0.1/24 x", "netwrap network create --subnet 10.0.0.1/24 x"),
    ("networks list", "netwrap network list"),
    ("conect --pid 5 --net n", "netwrap connect --pid 5 --net n"),
    ("connect --pid 5 --nett n", "netwrap connect --pid 5 --net n"),
    ("connect --pid 5 --network=n", "netwrap connect --pid 5 --net=n"),
    ("connect --pid 5 -net n", "netwrap connect --pid 5 --net n"),
    ("network create --subset 10.0.0.0/24 x", "netwrap network create --subnet 10.0.0.0/24 x"),
    ("publish web 80:80 --dryrun", "netwrap publish web 80:80 --dry-run"),
    ("rm", "netwrap network remove"),
    ("list", "netwrap network list"),
    ("ls", "netwrap network list"),
    ("create n", "netwrap network create n"),
    ("Ps", "netwrap ps"),
    ("unpublsh web 80:80", "netwrap unpublish web 80:80"),
    ("network connect", "netwrap connect"),
    ("network ps", "netwrap ps"),
    ("help conect", "netwrap help connect"),
    ("help network rm", "netwrap help network remove"),
    ("help rm", "netwrap help network remove"),
    ("--state-dir /x/network network rm n", "netwrap --state-dir /x/network network remove n"),
    ("--state-dirr /x ps", "netwrap --state-dir /x ps"),
    ("doctr --json", "netwrap doctor --json"),
    ("network rm 'a b;c'", "netwrap network remove 'a b;c'"),
]


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("run --net front sh -c true", "-c"),
        ("run sh --login --net front", "--login"),
        ("exec front ls -l", "-l"),
    ],
)
def test_options_of_a_command_that_run_or_exec_starts_go_behind_two_dashes(
    line: str, option: str, world: World
) -> None:
    result = world.netwrap(line)
    assert result.code == 2
    name = line.split()[0]
    hint = f"netwrap {name} … -- COMMAND…  # behind -- options are the command's own"
    assert result.complaint == (f"No such option: '{option}'", hint)


@pytest.mark.parametrize(("line", "meaning"), NEAR)
def test_what_was_probably_meant_is_the_hint(line: str, meaning: str, world: World) -> None:
    result = world.netwrap(line)
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 2
    assert result.complaint[1] == f"did you mean: {meaning}"
    assert not world.directory.exists()


def test_a_long_command_line_is_not_said_again(world: World) -> None:
    result = world.netwrap("network rm " + "x" * 5000)
    assert result.complaint == ("no command 'rm' in netwrap network", "did you mean: netwrap network remove")


@given(st.text(min_size=1, max_size=20), st.sampled_from(["", "network"]), st.lists(st.text(max_size=5), max_size=4))
def test_whatever_is_typed_a_hint_is_one_line_of_a_command_that_is_there(
    word: str, group: str, others: list[str]
) -> None:
    hint = meant.command(word, group, TREE, [*others, *group.split(), word, *others])
    if hint is not None:
        assert len(hint.splitlines()) == 1
        words = shlex.split(hint)
        assert words[0] == "netwrap"
        assert any(path in " ".join(words) for path in LEAVES) or "network" in words


def test_words_of_help_are_completed() -> None:
    complete = next(p for p in LEAVES["help"].params if p.name == "words")

    def found(words: list[str], begun: str) -> list[str]:
        context = typer.Context(LEAVES["help"])
        context.params = {"words": words}
        return [item.value for item in complete.shell_complete(context, begun)]

    assert found([], "net") == ["network"]
    assert set(found(["network"], "")) == {path.split()[1] for path in LEAVES if path.startswith("network ")}
    assert found(["connect"], "") == found(["nonsense"], "") == []
    assert "sandbox-host" not in found([], "")


def test_the_readme_s_table_lists_every_command_and_no_option_that_is_not_there() -> None:
    table = README.read_text().split("## Commands")[1].split("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", row)[1] for row in table.splitlines() if row.startswith("| `")]
    told: dict[str, str] = {}
    for cell in cells:
        for n, line in enumerate(re.findall(r"`([^`]*)`", cell)):
            line = line.removeprefix("netwrap ")
            path = next((p for p in sorted(LEAVES, key=len, reverse=True) if line.startswith(p)), "")
            if not path and n:  # `inspect NAME` behind `netwrap network list`
                line = f"network {line}"
                path = next(p for p in LEAVES if line.startswith(p))
            told[path] = line
    assert set(told) == set(LEAVES)
    for path, line in told.items():
        words = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line.partition("-- COMMAND")[0]))
        own = {
            min(p.opts, key=len) if "-p" in p.opts or "-d" in p.opts else p.opts[0]
            for p in LEAVES[path].params
            if p.param_type_name == "option" and not p.hidden and p.rich_help_panel is None and p.name != "json"
        }
        assert words == own, path
