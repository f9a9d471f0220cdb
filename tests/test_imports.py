"""Who may import whom. The table is the rule: a new arrow is a new word in it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import netwrap

ROOT = Path(netwrap.__file__).parent

# A module or a package, and what it may import of netwrap; inside a package it is free. From below to above.
MAY_IMPORT = {
    "": set(),
    "errors": set(),
    "terminal": set(),
    "model": {"errors"},
    "parse": {"model", "errors"},
    "ipam": {"errors"},
    "steps": {"model"},
    "wayout": set(),
    "listeners": set(),
    "policy": set(),
    "nft": set(),
    "facts": {"policy", "nft", "wayout", "listeners", "steps", "model"},
    "undo": {"facts", "steps", "model"},
    "health": {"undo", "facts", "steps", "model"},
    "foresee": {"facts", "steps"},
    "flows": {"facts", "steps", "model"},
    "firewall": {"facts", "steps", "model"},
    "drivers": {"steps", "facts", "model", "errors"},
    "passage": {"facts"},
    "strangers": {"passage", "firewall", "undo", "facts", "steps", "model"},
    "amiss": {"strangers", "undo", "facts", "steps", "model"},
    "mend": {"amiss", "drivers", "foresee", "health", "undo", "facts", "steps", "model", "errors"},
    "drift": {"amiss", "foresee", "mend", "firewall", "health", "undo", "facts", "steps", "model", "errors"},
    "roads": {"amiss", "foresee", "drift", "undo", "facts", "model"},
    "doctor": {
        *("nft", "roads", "passage", "strangers", "health", "drift", "firewall", "undo", "facts", "steps", "model"),
    },
    "packet": set(),
    "shot": {"packet"},
    "check": {"shot", "facts", "model"},
    "evidence": {"firewall", "facts", "steps"},
    "verdict": {"check", "evidence", "shot", "packet", "facts", "steps", "model"},
    "losses": {"amiss", "check", "verdict", "health", "undo", "facts", "model"},
    "cabling": {"verdict", "shot", "steps"},
    "routing": {"verdict", "steps"},
    "wrongway": {"verdict", "routing", "evidence", "shot", "strangers", "cabling"},
    "cause": {"cabling", "routing", "wrongway", "verdict", "check", "evidence", "packet", "shot", "steps"},
    "plan": {"drivers", "firewall", "steps", "ipam", "facts", "model", "errors"},
    "rebuild": {"drivers", "plan", "foresee", "mend", "health", "undo", "facts", "steps", "model", "errors"},
    "codec": {"steps", "model"},
    "schema": set(),
    "views": {"undo", "facts", "steps", "model"},
    "init": set(),  # it runs inside a container: nothing of netwrap's is there with it
    "spawn": {"init", "steps", "errors"},  # of steps: shell_line, how a command is written in an error
    "look": {"spawn", "facts", "nft", "wayout", "listeners", "steps", "model", "errors"},
    "place": {"look", "steps", "model", "errors"},
    "execute": {"terminal", "look", "spawn", "facts", "steps", "errors"},  # of look: what an exit code cannot tell
    "statedir": {"errors"},
    "statefile": {"statedir", "schema", "errors"},
    "store": {"statefile", "codec", "undo", "steps", "model"},
    "journal": {"store", "steps"},
    "desk": {
        *("terminal", "journal", "store", "execute", "spawn", "place", "look", "undo", "mend", "foresee", "flows"),
        *("views", "facts", "steps", "model", "errors"),
    },
    "session": {"desk", "place", "look", "terminal", "store", "statedir", "schema", "spawn", "steps", "errors"},
    "upkeep": {
        *("terminal", "session", "place", "desk", "mend", "amiss", "health", "look", "undo"),
        *("views", "facts", "model", "errors"),
    },
    "attend": {"init"},
    "app": {
        *("session", "upkeep", "desk", "plan", "amiss", "health", "look", "spawn", "undo", "views", "facts"),
        *("model", "errors"),
        "drivers",  # their names, for completion
    },
    "history": {"session", "desk", "rebuild", "undo", "views", "model", "errors"},
    "prompt": set(),
    "resolver": set(),
    "supervise": {
        *("terminal", "session", "app", "upkeep", "attend", "init", "prompt", "resolver", "desk", "plan", "health"),
        *("spawn", "look", "views", "steps", "model", "errors"),
    },
    "peer": set(),
    "sandbox": {"init", "attend", "prompt", "spawn", "errors", "desk"},  # of desk: the default state directory
    "demo": {"terminal", "sandbox", "history", "attend", "desk", "look", "spawn", "views", "facts", "steps", "errors"},
    "examine": {"doctor", "sandbox", "spawn", "errors"},  # of sandbox: what forbids user namespaces
    "checkup": {"examine", "doctor", "session", "desk", "facts", "model", "errors"},
    "probe": {"packet", "shot", "errors"},
    "witness": {"probe", "check", "verdict", "evidence", "facts", "spawn", "errors"},
    "trying": {
        *("witness", "probe", "cause", "cabling", "losses", "check", "verdict", "evidence", "shot"),
        *("session", "desk", "look", "undo", "facts", "model", "errors"),
    },
    "cli": {
        *("app", "history", "supervise", "upkeep", "checkup", "trying", "sandbox", "demo", "attend"),
        "desk",  # Mode: how a command is to be carried out
        "plan",  # the wishes
        "steps",  # shell_line: the command line for the log
        *("terminal", "views", "parse", "model", "errors", ""),
    },
    "__main__": {"cli"},
}

PURE = (
    "errors",
    "model",
    "parse",
    "wayout",
    "listeners",
    "policy",
    "amiss",
    "nft",
    "passage",
    "strangers",
    "roads",
    "facts",
    "steps",
    "ipam",
    "drivers",
    "plan",
    "rebuild",
    "undo",
    "health",
    "foresee",
    "flows",
    "mend",
    "firewall",
    "drift",
    "doctor",
    "packet",
    "shot",
    "check",
    "evidence",
    "verdict",
    "losses",
    "cabling",
    "routing",
    "wrongway",
    "cause",
    "codec",
    "views",
)
IMPURE_MODULES = {"sh", "os", "time", "random", "secrets", "typer", "subprocess", "sqlite3", "pathlib", "socket"}


def files() -> Iterator[tuple[str, Path]]:
    """Every module of netwrap with its name."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__").removesuffix("__init__"), path


MODULES = dict(files())


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that is imported, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full.removeprefix("netwrap.") in MODULES else node.module), node


def own_imports(name: str) -> set[str]:
    """The modules of netwrap that a module imports."""
    return {
        found.removeprefix("netwrap").removeprefix(".")
        for found, _ in imports(MODULES[name])
        if found.partition(".")[0] == "netwrap"
    }


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_the_table_allows(name: str) -> None:
    assert top(name) in MAY_IMPORT, f"{name} has no row in the table"
    assert {top(found) for found in own_imports(name)} - {top(name)} <= MAY_IMPORT[top(name)]


def test_the_table_has_no_row_and_no_arrow_that_is_not_there() -> None:
    assert set(MAY_IMPORT) == {top(name) for name in MODULES}
    for row, allowed in MAY_IMPORT.items():
        used = {top(found) for name in MODULES if top(name) == row for found in own_imports(name)} - {row}
        assert used == allowed, f"{row} imports {used}"


def test_the_table_runs_from_below_to_above_so_there_is_no_circle() -> None:
    below: set[str] = set()
    for row, allowed in MAY_IMPORT.items():
        assert allowed <= below, f"{row} imports {allowed - below}, which stands above it"
        below.add(row)


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = {name: own_imports(name) for name in MODULES}
    arrows = {name: found - {parent(name)} for name, found in arrows.items()}  # a package is there before its modules
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join([*way, name])}"
        if name not in done:
            for found in arrows[name]:
                visit(found, (*way, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


def parent(name: str) -> str:
    return name.rpartition(".")[0]


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) in PURE])
def test_a_pure_module_asks_and_changes_nothing(name: str) -> None:
    found = {module.partition(".")[0] for module, _ in imports(MODULES[name])}
    assert not found & IMPURE_MODULES
    called = {
        node.func.id
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


def _importers(module: str) -> dict[str, list[ast.stmt]]:
    found: dict[str, list[ast.stmt]] = {}
    for name, path in MODULES.items():
        for imported, node in imports(path):
            if imported.partition(".")[0] == module:
                found.setdefault(name, []).append(node)
    return found


def _at_top_level(name: str, node: ast.stmt) -> bool:
    return any(
        isinstance(other, type(node)) and other.lineno == node.lineno
        for other in ast.parse(MODULES[name].read_text()).body
    )


def test_sh_is_imported_in_spawn_alone_and_only_when_a_command_is_run() -> None:
    found = _importers("sh")
    assert set(found) == {"spawn"}
    assert not any(_at_top_level("spawn", node) for node in found["spawn"])


def test_tabulate_is_imported_in_the_table_alone_and_only_when_one_is_printed() -> None:
    found = _importers("tabulate")
    assert set(found) == {"views.table"}
    assert not any(_at_top_level("views.table", node) for node in found["views.table"])


def test_typer_is_known_to_the_command_line_alone() -> None:
    assert {top(name) for name in _importers("typer")} == {"cli"}


def test_sqlite_is_known_to_the_store_and_its_file_alone() -> None:
    assert set(_importers("sqlite3")) == {"schema", "statefile", "store"}


def test_nothing_is_spawned_past_sh() -> None:
    assert not _importers("subprocess")


STARTS = re.compile(r"fork|posix_spawn|exec[lv]|system|popen|spawn[lv]")


def test_processes_are_started_where_the_terminal_is_handed_on_and_nowhere_else() -> None:
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and STARTS.match(node.attr):
                found.setdefault(name, set()).add(node.attr)
    assert found == {
        "attend": {"posix_spawnp"},
        "init": {"fork", "execvp"},
        "spawn": {"posix_spawnp"},  # where no thread can be started, which sh needs
        "supervise": {"fork"},  # the supervisor of `run -d`
    }


def test_the_command_line_starts_without_the_slow_packages() -> None:
    code = "import sys, netwrap.cli; print(*sorted({'sh', 'tabulate', 'pydantic', 'rich'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


def test_no_file_is_longer_than_400_lines() -> None:
    assert {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 400} == {}
