"""`bananas token`: the API's bearer tokens with scopes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from bananas.cli.options import Duration, as_json, flag, read_settings, setting
from bananas.cli.screen import note, print_json, table
from bananas.errors import UsageError
from bananas.tokens import VARIABLE, Token, changing, make, position, read_tokens

if TYPE_CHECKING:
    from pathlib import Path

_file: Final = setting("--tokens-file", field="api_tokens_file", metavar="FILE")


class NoTokensFileError(UsageError):
    """No file was named."""


@click.group()
def token() -> None:
    """Bearer tokens with scopes for the HTTP API.

    They stand in a file as digests; running APIs notice within a second that it has changed.
    """


@token.command()
@flag(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help="read, admin, or enqueue:KEY with a routing key, where * and ? stand for any characters; "
    "several times for several.",
)
@flag("--ttl", type=Duration(), default="90d", metavar="TIME", help="How long it lives; 0: always.")
@flag("--label", default="", metavar="TEXT", help="Whose it is, for people.")
@as_json
@_file
@click.pass_context
def create(
    ctx: click.Context,
    /,
    *,
    scopes: tuple[str, ...],
    ttl: float,
    label: str,
    json_output: bool,
) -> None:
    """Make a token and print it; it is not to be had again.

    \b
    bananas token create --scope read
    bananas token create --scope 'enqueue:gpu-*' --scope enqueue:default --label shop
    """  # noqa: D301 - click's mark for lines to leave alone
    now_s = time.time()
    text, kept = make(scopes, now_s=now_s, expires_at=now_s + ttl if ttl else None, label=label)
    with changing(_path(ctx)) as tokens:
        tokens.append(kept)
    _show(text, kept, json_output=json_output)


@token.command()
@as_json
@_file
@click.pass_context
def ls(ctx: click.Context, /, *, json_output: bool) -> None:
    """List the tokens: what each may do, and until when."""
    tokens = read_tokens(_path(ctx))
    now_s = time.time()
    if json_output:
        print_json([_members(item) | {"expired": item.expired(now_s)} for item in tokens])
    elif tokens:
        table(
            ["id", "scopes", "made", "expires", "label"],
            [
                [
                    item.id,
                    " ".join(item.scopes),
                    str(item.to_dict()["created_at"])[:10],
                    "expired" if item.expired(now_s) else str(item.to_dict()["expires_at"] or "-"),
                    item.label,
                ]
                for item in tokens
            ],
        )
    else:
        note("no tokens")


@token.command()
@click.argument("token_id", metavar="ID")
@flag(
    "--overlap",
    type=Duration(),
    default="1d",
    metavar="TIME",
    help="How long the old one goes on living.",
)
@flag("--ttl", type=Duration(), default="90d", metavar="TIME", help="How long it lives; 0: always.")
@as_json
@_file
@click.pass_context
def rotate(
    ctx: click.Context, /, *, token_id: str, overlap: float, ttl: float, json_output: bool
) -> None:
    """Make a token with the scopes of another, which ends soon: both live meanwhile."""
    now_s = time.time()
    with changing(_path(ctx)) as tokens:
        index = position(tokens, token_id)
        old = tokens[index]
        text, kept = make(
            old.scopes, now_s=now_s, expires_at=now_s + ttl if ttl else None, label=old.label
        )
        ends_at = int(now_s + overlap)
        if old.expires_at is None or old.expires_at > ends_at:
            tokens[index] = replace(old, expires_at=ends_at)
        tokens.append(kept)
    _show(text, kept, json_output=json_output)


@token.command()
@click.argument("token_id", metavar="ID")
@_file
@click.pass_context
def revoke(ctx: click.Context, /, *, token_id: str) -> None:
    """End a token."""
    with changing(_path(ctx)) as tokens:
        del tokens[position(tokens, token_id)]
    note(f"{token_id} revoked; running APIs refuse it within a second")


def _path(ctx: click.Context) -> Path:
    path = read_settings(ctx).api_tokens_file
    if path is None:
        error = NoTokensFileError("which file? Name it by --tokens-file FILE")
        error.hint = f"or set {VARIABLE}, which `bananas api` reads too"
        raise error
    return path


def _members(kept: Token) -> dict[str, Any]:
    """Return what may be shown: the digest is of no use to anybody."""
    return {name: value for name, value in kept.to_dict().items() if name != "sha256"}


def _show(text: str, kept: Token, *, json_output: bool) -> None:
    """Print the token itself, this once."""
    if json_output:
        print_json({"token": text, **_members(kept)})
        return
    click.echo(text)
    until = kept.to_dict()["expires_at"]
    note(f"{kept.id}: {' '.join(kept.scopes)}; {f'until {until}' if until else 'for ever'}")
    note("this is the only time it is shown")
