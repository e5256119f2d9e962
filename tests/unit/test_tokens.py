"""Tokens: what is kept of them, what they allow, and a file that is changed whole or not at all."""

from __future__ import annotations

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas import tokens
from bananas.errors import FieldError, SettingsError
from bananas.tokens import (
    ALL,
    Grant,
    Keyring,
    Token,
    UnknownTokenError,
    changing,
    make,
    position,
    read_tokens,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a file of tokens is to be."""
    return tmp_path / "tokens"


def add(path: Path, *scopes: str, **more: Any) -> tuple[str, Token]:  # noqa: ANN401 - make's own
    """Add a token to a file."""
    made = make(scopes, now_s=1000.0, **more)
    with changing(path) as kept:
        kept.append(made[1])
    return made


def test_a_token_has_its_form_and_256_bits() -> None:
    """`bn_<id>_<secret>`; no two are alike, and nothing that is kept of one tells its secret."""
    made = [make(["read"], now_s=0) for _ in range(50)]
    for text, kept in made:
        assert re.fullmatch(r"bn_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
        secret = text.split("_", 2)[2]
        assert secret not in repr(kept)
        assert secret not in json.dumps(kept.to_dict())
    assert len({text for text, _ in made}) == len({kept.id for _, kept in made}) == 50


@pytest.mark.parametrize(
    "scopes",
    [[], ["write"], ["enqueue"], ["enqueue:"], ["enqueue:a b"], ["Admin"], ["enqueue:" + "a" * 65]],
)
def test_what_is_no_scope_is_refused(scopes: list[str]) -> None:
    """A typing error must not make a token that allows something else."""
    with pytest.raises(FieldError, match="scope"):
        make(scopes, now_s=0)


@pytest.mark.parametrize("label", ["a\nb", "\x1b[2J", "x" * 65])
def test_a_label_is_a_line(label: str) -> None:
    """It is printed in a table."""
    with pytest.raises(FieldError, match="label"):
        make(["read"], now_s=0, label=label)


def test_a_grant_allows_its_scopes() -> None:
    """Read is not write, and to enqueue is neither."""
    scopes = ("read", "enqueue", "admin")
    for grant, allowed in (
        (Grant.of(["read"]), {"read"}),
        (Grant.of(["enqueue:x"]), {"enqueue"}),
        (Grant.of(["read", "enqueue:x"]), {"read", "enqueue"}),
        (Grant.of(["admin"]), set(scopes)),
        (Grant.of([]), set()),
        (ALL, set(scopes)),
    ):
        assert {scope for scope in scopes if grant.allows(scope)} == allowed


@given(
    pattern=st.text("ab_-*?", min_size=1, max_size=8), key=st.text("ab_-", min_size=1, max_size=8)
)
def test_globs_are_those_of_a_shell(pattern: str, key: str) -> None:
    """`*` and `?` mean what they mean elsewhere, over the whole key."""
    assert Grant(queues=(pattern,)).may_enqueue(key) == fnmatchcase(key, pattern)


def test_a_keyring_knows_whole_tokens_only() -> None:
    """Every character of a token counts; an expired one is as unknown as any other."""
    text, kept = make(["read"], now_s=0, expires_at=100)
    ring = Keyring("single-token-here", [kept])
    assert ring.grant_of(text.encode(), 99.9) == Grant(read=True)
    assert ring.grant_of(b"single-token-here", 99.9) is ALL
    assert ring.grant_of(text.encode(), 100) is None
    for index in range(len(text)):
        changed = text[:index] + ("a" if text[index] != "a" else "b") + text[index + 1 :]
        assert ring.grant_of(changed.encode(), 0) is None
    for other in (b"", b"bn_", text.encode() + b"\n", kept.sha256.encode(), b"\xff" * 64):
        assert ring.grant_of(other, 0) is None
    ring.replace([])
    assert ring.grant_of(text.encode(), 0) is None


def test_digests_are_compared_in_constant_time_whether_the_id_is_known_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request costs one comparison of two digests of 32 bytes, whatever is wrong with it."""
    compared: list[tuple[int, int]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return left == right

    monkeypatch.setattr(tokens, "compare_digest", compare)
    text, kept = make(["read"], now_s=0)
    ring = Keyring(None, [kept])
    for given_text in (text, f"bn_{'0' * 12}_{'A' * 43}", "nonsense", text[:-1] + "!"):
        ring.grant_of(given_text.encode(), 0)
    assert compared == [(32, 32)] * 4


def test_a_file_holds_digests_for_its_owner(path: Path) -> None:
    """What is written is read back; the secret is not in it, and others may not read it."""
    text, kept = add(path, "read", "enqueue:*", expires_at=2000, label="mine")
    other = add(path, "admin")[1]
    assert read_tokens(path) == [kept, other]
    assert text.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_file_keeps_its_mode_and_its_link(path: Path) -> None:
    """A file that a group may read stays so; what a link leads to is what is changed."""
    add(path, "read")
    path.chmod(0o640)
    link = path.with_name("link")
    link.symlink_to(path)
    add(link, "admin")
    assert link.is_symlink()
    assert len(read_tokens(path)) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_writers_wait_for_each_other(path: Path) -> None:
    """Of tokens made at the same time none is lost."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: add(path, "read")[1].id, range(40)))
    assert {token.id for token in read_tokens(path)} == set(made)


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    """An error inside the block leaves the file as it was, and nothing beside it."""
    _, kept = add(path, "read")
    with pytest.raises(UnknownTokenError), changing(path) as found:
        position([found.pop()][:0], kept.id)
    assert read_tokens(path) == [kept]
    assert list(path.parent.iterdir()) == [path]


def lines(*changes: dict[str, Any]) -> str:
    """Return a file's text: good tokens with changes."""
    good = make(["read"], now_s=0)[1].to_dict()
    return "".join(json.dumps(good | change) + "\n" for change in changes)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        "[" * 100_000,
        lines({"id": "short"}),
        lines({"id": None}),
        lines({"sha256": "0" * 63}),
        lines({"sha256": "bn_secret"}),
        lines({"scopes": []}),
        lines({"scopes": "read"}),
        lines({"scopes": ["root"]}),
        lines({"scopes": [1]}),
        lines({"created_at": "yesterday"}),
        lines({"expires_at": "2026-01-01T00:00:00"}),
        lines({"expires_at": 5}),
        lines({"label": 5}),
        lines({}, {}),
        "\x00" * 10,
        "\n" * (1024 * 1024 + 1),
    ],
)
def test_a_file_that_is_none_is_refused_whole(path: Path, text: str) -> None:
    """A broken line is an error: to skip it could skip a revocation; no content is quoted."""
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="BANANAS_API_TOKENS_FILE") as caught:
        read_tokens(path)
    assert "bn_secret" not in str(caught.value)


def test_empty_lines_are_none(path: Path) -> None:
    """A file that was edited may have some."""
    path.write_text("\n" + lines({}) + "  \n")
    path.chmod(0o600)
    assert len(read_tokens(path)) == 1


def test_a_file_that_others_may_write_is_refused(path: Path) -> None:
    """Else they could make tokens for themselves."""
    add(path, "read")
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        with pytest.raises(SettingsError, match="others may write"):
            read_tokens(path)


def test_a_file_that_cannot_be_had_is_told(path: Path) -> None:
    """Absent, a folder, or in a folder that is not there."""
    with pytest.raises(SettingsError, match="bananas token create"):
        read_tokens(path)
    path.mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        read_tokens(path)
    with pytest.raises(SettingsError, match="cannot be opened"), changing(path / "no" / "tokens"):
        pass
    os.rmdir(path)  # noqa: PTH106 - beside mkdir
