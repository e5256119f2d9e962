"""The names that users import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bananas


def test_every_name_is_there() -> None:
    """Whatever `__all__` promises can be had, and is listed by `dir`."""
    for name in bananas.__all__:
        assert getattr(bananas, name) is not None
    assert set(bananas.__all__) <= set(dir(bananas))
    assert sorted(bananas.__all__) == sorted([*bananas._HOMES, "__version__"])


def test_other_names_are_not() -> None:
    """A name that does not exist is an AttributeError that says so."""
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = bananas.nothing_of_the_kind  # type: ignore[attr-defined]


def test_a_module_of_ground_stays_light() -> None:
    """Importing what the supervisor imports loads no loop, no client and no Redis library."""
    _loads("import bananas.settings, bananas.table", heavy="asyncio redis uvloop bananas.client")


def test_the_application_needs_no_redis_library() -> None:
    """Importing and making an application loads neither redis-py nor uvloop nor metadata."""
    _loads("from bananas import Bananas; Bananas()", heavy="redis uvloop importlib.metadata")


def _loads(code: str, heavy: str) -> None:
    check = f"import sys; {code}; print(sorted(set({heavy.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
