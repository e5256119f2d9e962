"""The gate without a server: what a head must have, and a file of tokens that changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bananas.http import gate
from bananas.http.gate import Gate, _TokenFile
from bananas.http.problems import Problem
from bananas.settings import Settings
from bananas.tokens import ALL, make

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "T" * 40


def head(*fields: tuple[bytes, bytes], path: str = "/jobs") -> tuple[dict[str, Any], Any]:
    """Return the scope of a request, and its fields by name."""
    scope = {"path": path, "raw_path": path.encode(), "query_string": b"", "method": "GET"}
    return {**scope, "headers": list(fields)}, dict(fields)


@pytest.mark.parametrize(
    ("authorization", "is_let_in"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bEARER  {TOKEN} ", True),
        (f"Digest {TOKEN}", False),
        (f"Bearer:{TOKEN}", False),
        (f"1234567{TOKEN}", False),
        (TOKEN, False),
    ],
)
def test_a_token_is_named_as_one(authorization: str, *, is_let_in: bool) -> None:
    """The scheme in any case, and no other scheme."""
    scope, headers = head((b"authorization", authorization.encode()))
    guard = Gate(Settings(api_token=TOKEN), frozenset())
    if is_let_in:
        assert guard.check(scope, headers) is ALL
    else:
        with pytest.raises(Problem) as caught:
            guard.check(scope, headers)
        assert caught.value.kind == "unauthorized"


def test_names_of_this_machine_are_remembered_up_to_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody may send any of them; one beyond the number is let in as well."""
    kept: set[bytes] = set()
    monkeypatch.setattr(gate, "_LOOPBACK_HOSTS", kept)
    monkeypatch.setattr(gate, "_MOST_HOSTS", 3)
    guard = Gate(Settings(), frozenset())
    for number in range(10):
        assert guard.check(*head((b"host", b"a%d.localhost:8" % number))) is ALL
    assert len(kept) == 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file of one token."""
    found = tmp_path / "tokens"
    write(found, 1)
    return found


def write(path: Path, count: int) -> None:
    """Write so many tokens."""
    tokens = [make(["read"], now_s=0)[1].to_dict() for _ in range(count)]
    path.write_text("".join(json.dumps(token) + "\n" for token in tokens))
    path.chmod(0o600)


def test_a_changed_file_is_read_again_after_a_second(path: Path) -> None:
    """Each request asks; the file is looked at once a second, and read when it has changed."""
    now_s = 1000.0
    file = _TokenFile(path, lambda: now_s)
    assert len(file.read()) == 1
    write(path, 2)
    now_s += 0.9
    assert file.changed() is None
    now_s += 0.1
    changed = file.changed()
    assert changed is not None
    assert len(changed) == 2
    now_s += 1
    assert file.changed() is None


@pytest.mark.parametrize("harm", ["others may write it", "gone", "broken"])
def test_a_file_that_can_no_longer_be_trusted_lets_nobody_in(path: Path, harm: str) -> None:
    """Its mode counts like its text."""
    now_s = 1000.0
    file = _TokenFile(path, lambda: now_s)
    file.read()
    match harm:
        case "gone":
            path.unlink()
        case "broken":
            path.write_text("{")
        case _:
            path.chmod(0o666)
    now_s += 1
    assert file.changed() == []
