"""`bananas token`: made once, listed without secrets, followed by another, ended."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bananas.cli import exits
from bananas.tokens import Keyring, read_tokens
from command_line import invoke

if TYPE_CHECKING:
    from bananas.tokens import Grant

FILE = Path("tokens")
ENV = {"BANANAS_API_TOKENS_FILE": "tokens"}


def grant_of(text: str, now_s: float | None = None) -> Grant | None:
    """Return what an API would let the bearer do."""
    now_s = time.time() if now_s is None else now_s
    return Keyring(None, read_tokens(FILE)).grant_of(text.encode(), now_s)


def test_a_token_is_printed_once_and_kept_as_a_digest() -> None:
    """On standard output there is the token and nothing else; the file does not know it."""
    made = invoke("token", "create", "--scope", "read", "--scope", "enqueue:gpu-*", env=ENV)
    assert made.exit_code == exits.OK, made.output
    text = made.stdout.strip()
    grant = grant_of(text)
    assert grant is not None
    assert grant.may_enqueue("gpu-1")
    assert not grant.may_enqueue("cpu")
    assert not grant.allows("admin")
    assert grant_of(text, time.time() + 91 * 86_400) is None  # 90 days
    assert text not in FILE.read_text()
    listed = invoke("token", "ls", env=ENV)
    assert "read enqueue:gpu-*" in listed.stdout
    assert text not in listed.stdout
    assert read_tokens(FILE)[0].sha256 not in invoke("token", "ls", "--json", env=ENV).stdout


def test_a_token_may_live_for_ever() -> None:
    """A time of 0 means that it does not end."""
    made = invoke("token", "create", "--scope", "admin", "--ttl", "0", "--json", env=ENV)
    told = json.loads(made.stdout)
    assert told["expires_at"] is None
    assert grant_of(told["token"], 1e11) is not None


def test_one_token_follows_another() -> None:
    """Both live for the overlap, with the same scopes; then the old one has ended."""
    old = invoke("token", "create", "--scope", "enqueue:*", "--label", "shop", env=ENV)
    text = old.stdout.strip()
    token_id = text.split("_")[1]
    new = invoke("token", "rotate", token_id, "--overlap", "1h", env=ENV)
    assert new.exit_code == exits.OK, new.output
    assert grant_of(text) == grant_of(new.stdout.strip()) is not None
    later_s = time.time() + 3700
    assert grant_of(text, later_s) is None
    assert grant_of(new.stdout.strip(), later_s) is not None
    assert [token.label for token in read_tokens(FILE)] == ["shop", "shop"]
    # A shorter life is not made longer.
    again = invoke("token", "rotate", token_id, "--overlap", "9d", env=ENV)
    assert again.exit_code == exits.OK
    assert grant_of(text, later_s) is None


def test_a_token_is_revoked() -> None:
    """Its line goes; what is not there cannot go."""
    text = invoke("token", "create", "--scope", "read", env=ENV).stdout.strip()
    token_id = text.split("_")[1]
    assert invoke("token", "revoke", token_id, env=ENV).exit_code == exits.OK
    assert grant_of(text) is None
    again = invoke("token", "revoke", token_id, env=ENV)
    assert again.exit_code == exits.USAGE
    assert "no tokens" in invoke("token", "ls", env=ENV).stderr


def test_mistakes_are_explained() -> None:
    """No file, no such scope, and no scope at all are errors of use; nothing is made."""
    nowhere = invoke("token", "create", "--scope", "read")
    assert nowhere.exit_code == exits.USAGE
    assert "--tokens-file" in nowhere.stderr
    wrong = invoke("token", "create", "--scope", "write", env=ENV)
    assert wrong.exit_code == exits.USAGE
    assert "enqueue:<routing key>" in wrong.stderr
    assert invoke("token", "create", env=ENV).exit_code == exits.USAGE
    assert not FILE.exists()
    assert invoke("token", "ls", env=ENV).exit_code == exits.USAGE
