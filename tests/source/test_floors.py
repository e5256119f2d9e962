"""The floors hold: a module imports only from below, and the linter that says so can see."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bananas"
MODULES = sorted(PACKAGE.rglob("*.py"))
LINTER = Path(sys.executable).with_name("lint-imports")

#: The supervisor forks: it must hold no loop, no pool, no connection and no user code.
SUPERVISOR = [PACKAGE / "table.py", *sorted((PACKAGE / "supervisor").glob("*.py"))]
SUPERVISOR_MAY = {"table", "settings", "errors", "clock", "supervisor"}
SUPERVISOR_NEVER = {"asyncio", "redis", "uvloop", "hiredis", "concurrent", "orjson"}


def imports(path: Path) -> list[str]:
    """Return the dotted names a module imports, those inside functions too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the import linter with the project's contracts in a folder."""
    return subprocess.run(
        [LINTER, "--no-cache"], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """Return a folder with the contracts and an empty module for every floor."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    (tmp_path / "bananas").mkdir()
    names = [name for layer in layers for name in re.findall(r"\w+", layer)]
    for name in ["__init__", *names]:
        (tmp_path / "bananas" / f"{name}.py").write_text("")
    return tmp_path


def test_floors_hold() -> None:
    """No module of the package imports from its own floor or from above."""
    outcome = lint(ROOT)
    assert outcome.returncode == 0, outcome.stdout


def test_empty_floors_pass(skeleton: Path) -> None:
    """The skeleton that mistakes are planted in is sound."""
    outcome = lint(skeleton)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("module", "planted", "said"),
    [
        ("keys", "import bananas.broker", "bananas.keys is not allowed to import bananas.broker"),
        ("worker", "from bananas import warden", "not allowed to import bananas.warden"),
        ("table", "import bananas.supervisor", "not allowed to import bananas.supervisor"),
        ("misc", "", "misc"),
    ],
    ids=["upward", "sideways", "to the next floor", "a module on no floor"],
)
def test_planted_import_is_found(skeleton: Path, module: str, planted: str, said: str) -> None:
    """An import that breaks the floors, or a module on none, fails the linter by name."""
    (skeleton / "bananas" / f"{module}.py").write_text(planted + "\n")
    outcome = lint(skeleton)
    assert outcome.returncode != 0
    assert said in " ".join(outcome.stdout.split())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nobody_inside_imports_the_root(path: Path) -> None:
    """The façade is for users; a module inside that imported it would close a cycle."""
    assert "bananas" not in imports(path) or path.name == "speedups.py"


@pytest.mark.parametrize("path", SUPERVISOR, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_supervisor_holds_nothing_that_a_fork_breaks(path: Path) -> None:
    """The supervisor and its table know no event loop, no Redis and no floor beside theirs."""
    if not path.exists():
        pytest.skip("not written yet")
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in SUPERVISOR_NEVER
        assert top != "bananas" or rest.split(".")[0] in SUPERVISOR_MAY, name


def test_importing_the_supervisor_loads_no_loop_and_no_redis() -> None:
    """What is imported by way of others counts too."""
    if not (PACKAGE / "supervisor").exists():
        pytest.skip("not written yet")
    code = (
        "import sys, bananas.supervisor, bananas.table;"
        f"print(*sorted({SUPERVISOR_NEVER!r} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == ""
