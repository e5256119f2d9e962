"""The compiled core is narrow, matches its stub, and is in use wherever it can be built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import twin

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bananas"
PYX = PACKAGE / "_speedups.pyx"

#: Names that only a compiled module has.
ALLOWED = "bananas._speedups.__test__\nbananas._speedups.__pyx_capi__\n"


def compiled() -> bool:
    """Whether the compiled core can be imported here, wanted or not."""
    code = "import bananas._speedups"
    return (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
        ).returncode
        == 0
    )


def can_build() -> bool:
    """Whether this machine has a C compiler that works and Python's headers."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return compiler is not None and headers.exists()


def test_core_imports_nothing_of_the_package() -> None:
    """The import linter cannot look into a .pyx, so this does: primitives in, primitives out."""
    if not PYX.exists():
        pytest.skip("no compiled core in this tree yet")
    lines = re.findall(r"^\s*(?:from|import|cimport)\s+[^\n]*", PYX.read_text(), re.MULTILINE)
    assert [line for line in lines if re.search(r"\bbananas\b", line)] == []


def test_core_is_compiled_where_it_can_be() -> None:
    """A build that failed in silence is found: with a compiler and headers the core is there."""
    if not PYX.exists():
        pytest.skip("no compiled core in this tree yet")
    if not can_build():
        pytest.skip("no compiler or no headers on this machine")
    assert compiled(), "bananas._speedups does not import; see pip install -v --editable ."


def test_run_uses_the_core_it_was_asked_for() -> None:
    """BANANAS_PURE=1 means the twin; otherwise the compiled core runs where there is one."""
    from bananas.speedups import COMPILED  # noqa: PLC0415

    pure = os.environ.get("BANANAS_PURE", "").lower() in {"1", "true", "yes", "on"}
    assert (compiled() and not pure) == COMPILED


def test_what_the_twin_leaves_out_is_there() -> None:
    """A renamed folder does not come back unseen, and what tests the cores is not left out."""
    assert [part for part in twin.LEFT_OUT if not (twin.HERE / part).exists()] == []
    for kept in ("unit/test_speedups.py", "integration/worker/test_service.py", __file__):
        assert not twin.is_left_out(twin.HERE / kept, slow=False)
        assert twin.is_left_out(twin.HERE / kept, slow=True)


def test_generated_c_is_not_in_the_package() -> None:
    """What Cython writes lies under build/, where no wheel finds it."""
    assert [path.name for path in PACKAGE.rglob("*.c")] == []


def test_stub_matches_the_compiled_module(tmp_path: Path) -> None:
    """The .pyi says what the .so does, parameter names included."""
    if not compiled():
        pytest.skip("the core is not compiled here")
    allowed = tmp_path / "allowed"
    allowed.write_text(ALLOWED)
    outcome = subprocess.run(
        [
            *(sys.executable, "-m", "mypy.stubtest", "bananas._speedups"),
            *("--allowlist", allowed, "--ignore-unused-allowlist"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
