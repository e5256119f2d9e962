"""The documents do what they say: each is followed by a reader with an empty folder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from snippets import DOCUMENTS, ROOT, Reader, blocks, matches

if TYPE_CHECKING:
    from pathlib import Path

FOLLOWED = [
    document
    for document in DOCUMENTS
    if any({"run", "background"} & block.options.keys() for block in blocks(document))
]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("document", FOLLOWED, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_does_what_it_says(document: Path, tmp_path: Path) -> None:
    """Every command of a document prints what stands there, in order, in one fresh folder."""
    missing = [name for name in ("bash", "curl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"a reader needs {', '.join(missing)}")
    with Reader(tmp_path) as reader:
        assert reader.follow(document) > 0


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("ready", "ready\n", True),
        ("ready", "not ready\n", False),
        ("… ready …", "/readyz\n", False),
        ("… ready …", "up\nready\n", True),
        ("1 2", "12", False),
        ('{"id": "…", "n": 1}', '{"id":"abc","n":1}', True),
        ('{\n  "id": "…",\n  "n": 1\n}', '{"id":"abc","n":1}', True),
        ('{"id": "…", "n": 1}', '{"id":"abc","n":2}', False),
        ("", "", True),
        ("", "error", False),
        ("a\n…\nb", "a\nx\ny\nb\n", True),
        ("a(b)*", "a(b)*", True),
    ],
)
def test_what_is_shown_is_compared(expected: str, printed: str, same: bool) -> None:
    """Three dots stand for anything, white space for any or none, all else for itself."""
    assert matches(expected, printed) is same


@pytest.mark.parametrize(
    "untrue",
    [
        "```console run\n$ echo a\nb\n```\n",
        "```console run\n$ echo a; false\na\n```\n",
        "```console run exit=1\n$ echo a\na\n```\n",
        "```python run\nprint(1)\n```\n\n```text printed\n2\n```\n",
        "```python run\nraise SystemExit(3)\n```\n",
        "```console background\n$ echo a\nb\n```\n",
    ],
)
def test_document_that_is_not_true_fails(untrue: str, tmp_path: Path) -> None:
    """What prints something else, or ends with another status, is found."""
    document = tmp_path / "untrue.md"
    document.write_text(untrue)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(AssertionError), Reader(folder) as reader:
        reader.follow(document)
