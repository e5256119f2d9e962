"""No message may choose code: what could turn data into code is not used in the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE: Final = Path(__file__).parents[2] / "bananas"

MODULES: Final = frozenset(
    {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle", "code"}
)
"""Modules that make objects, or run code, of what they read."""

CALLS: Final = frozenset(
    {"eval", "exec", "compile", "__import__", "import_module", "run_path", "run_module", "system"}
    | {"popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
)
"""Functions that run what they are given, by the last part of their name."""

ALLOWED: Final = {
    ("runtime/application.py", "import_module"): "the application, by the command's argument",
    ("cli/root.py", "import_module"): "a command, by the table of commands",
    ("__init__.py", "import_module"): "a name of the package, by the table of its names",
    ("runtime/keeper.py", "exec"): "a method of ours: the process becomes the server",
}
"""Each exception, and where what it is given comes from."""


def found_in(source: str) -> Iterator[str]:
    """Give what a source uses of what is forbidden."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from MODULES & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            yield from MODULES & {(node.module or "").partition(".")[0]}
            yield from CALLS & {alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else ""
            if isinstance(function, ast.Attribute):
                of_re = isinstance(function.value, ast.Name) and function.value.id == "re"
                name = "" if of_re else function.attr
            yield from CALLS & {name}
            if any(k.arg == "shell" and not _is_false(k.value) for k in node.keywords):
                yield "shell=True"
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec", "__import__"):
            yield node.id  # also when it is only handed on


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_nothing_turns_data_into_code() -> None:
    """Every use of a hazard is one of those allowed, and every one allowed is in use."""
    files = [*PACKAGE.rglob("*.py")]
    assert len(files) > 50
    used = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in files
        for name in found_in(path.read_text())
    }
    assert used == set(ALLOWED)


def test_the_core_has_none_either() -> None:
    """The compiled core is no Python that could be parsed: its text has none of the words."""
    text = (PACKAGE / "_speedups.pyx").read_text()
    uses = "|".join([*(rf"import +{name}" for name in MODULES), *(rf"{name}\(" for name in CALLS)])
    assert re.findall(rf"(?<!re\.)\b(?:{uses})", text) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml.cyaml",
        "eval(x)",
        "builtins.exec(x)",
        "f = eval",
        "importlib.import_module(name)",
        "__import__(name)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "compile(x, '', 'exec')",
    ],
)
def test_it_would_be_found(source: str) -> None:
    """The search finds each of these."""
    assert list(found_in(source))


def test_scripts_run_no_text() -> None:
    """No Lua script makes code of a string."""
    scripts = [*(PACKAGE / "lua").rglob("*.lua")]
    assert len(scripts) > 10
    for path in scripts:
        text = path.read_text()
        for word in ("loadstring", "load(", "dofile", "setfenv", "getfenv", "cjson", "cmsgpack"):
            assert word not in text, (path.name, word)
